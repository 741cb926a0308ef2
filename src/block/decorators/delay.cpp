#include "block/decorators/delay.h"

#include <fmt/format.h>

#include "base/json_text.h"

namespace diskengine {

class DelayDisk::DelayChannel final : public LayeredChannel {
 public:
  DelayChannel(std::shared_ptr<DelayDisk> disk, Reactor& reactor, std::unique_ptr<Channel> base, uint64_t seed)
      : LayeredChannel(disk, reactor, std::move(base)), disk_(*disk), random_(seed) {}

 private:
  // Answers of one latency, which come due in the order they came in.
  struct Lane {
    explicit Lane(DelayChannel& channel) : timer([this, &channel] { channel.release_due(*this); }) {}
    List<Request> held;
    Timer timer;
  };

  void start(Request& request) noexcept override {
    take(request);
    pass_on(request);
  }

  void base_done(Request& request, IoStatus status) noexcept override {
    if (request.op != Op::read && request.op != Op::write) {
      finish(request, status);
      return;
    }
    const bool slow = random_.chance(1, 100);
    const Latency which = request.op == Op::read ? (slow ? Latency::p99_read : Latency::avg_read)
                                                 : (slow ? Latency::p99_write : Latency::avg_write);
    const uint64_t latency_us = disk_.latency_us(which);
    if (latency_us == 0) {
      finish(request, status);
      return;
    }
    Passed& passed = request.context<Passed>();
    passed.status = status;
    passed.deadline_ns = reactor().now_ns() + latency_us * 1000;
    Lane& lane = lanes_[static_cast<size_t>(which)];
    lane.held.push_back(request);
    if (!lane.timer.armed()) wait_for_front(lane);
  }

  void wait_for_front(Lane& lane) noexcept {
    const uint64_t due_ns = lane.held.front().context<Passed>().deadline_ns;
    const uint64_t now_ns = reactor().clock().now_ns();
    lane.timer.arm(reactor(), due_ns > now_ns ? due_ns - now_ns : 0);
  }

  void release_due(Lane& lane) noexcept {
    List<Request> due;
    while (!lane.held.empty() && lane.held.front().context<Passed>().deadline_ns <= reactor().now_ns())
      due.push_back(lane.held.pop_front());
    if (!lane.held.empty()) wait_for_front(lane);
    // The last of all may end with the channel being closed.
    while (!due.empty()) {
      Request& request = due.pop_front();
      finish(request, request.context<Passed>().status);
    }
  }

  DelayDisk& disk_;
  Random random_;
  std::array<Lane, kLatencies> lanes_{Lane(*this), Lane(*this), Lane(*this), Lane(*this)};
};

DelayDisk::DelayDisk(DeviceInfo info, std::shared_ptr<Device> base, DeviceRegistry& registry, const Options& options)
    : LayeredDevice(std::move(info), std::move(base), registry), seeds_(options.seed) {
  for (size_t i = 0; i < kLatencies; ++i) latency_us_[i].store(options.latency_us[i], std::memory_order_relaxed);
}

Result<std::shared_ptr<DelayDisk>> DelayDisk::create(DeviceRegistry& registry, const Options& options) {
  const auto us = [&](Latency which) { return options.latency_us[static_cast<size_t>(which)]; };
  for (const uint64_t latency : options.latency_us)
    if (latency > kLatencyMaxUs)
      return Error(Errc::invalid_argument, fmt::format("delay '{}': a latency of {} us is over the limit of {} us",
                                                       options.name, latency, kLatencyMaxUs));
  if (us(Latency::p99_read) < us(Latency::avg_read) || us(Latency::p99_write) < us(Latency::avg_write))
    return Error(Errc::invalid_argument,
                 fmt::format("delay '{}': a p99 latency is lower than its average", options.name));
  TRY_ASSIGN(std::shared_ptr<Device> base, registry.find(options.base_name));
  TRY(base->claim(options.name));
  DeviceInfo info = info_over(*base, options.name, "delay", options.uuid);
  return std::shared_ptr<DelayDisk>(new DelayDisk(std::move(info), std::move(base), registry, options));
}

Result<std::unique_ptr<Channel>> DelayDisk::open_channel(Reactor& reactor) {
  TRY_ASSIGN(std::unique_ptr<Channel> below, base().open_channel(reactor));
  return std::unique_ptr<Channel>(std::make_unique<DelayChannel>(
      std::static_pointer_cast<DelayDisk>(shared_from_this()), reactor, std::move(below), seeds_.next()));
}

Result<void> DelayDisk::set_latency(Latency which, uint64_t latency_us) {
  if (latency_us > kLatencyMaxUs)
    return Error(Errc::invalid_argument, fmt::format("delay '{}': a latency of {} us is over the limit of {} us",
                                                     name(), latency_us, kLatencyMaxUs));
  latency_us_[static_cast<size_t>(which)].store(latency_us, std::memory_order_relaxed);
  return {};
}

std::string DelayDisk::parameters_json() const {
  return fmt::format(
      R"("name":{},"base_bdev_name":{},"uuid":"{}","avg_read_latency":{},"p99_read_latency":{},"avg_write_latency":{},"p99_write_latency":{})",
      json_quote(name()), json_quote(base().name()), info().uuid.to_string(), latency_us(Latency::avg_read),
      latency_us(Latency::p99_read), latency_us(Latency::avg_write), latency_us(Latency::p99_write));
}

std::string DelayDisk::driver_specific_json() const { return fmt::format(R"({{"delay":{{{}}}}})", parameters_json()); }

std::string DelayDisk::config_json() const {
  return fmt::format(R"({{"method":"bdev_delay_create","params":{{{}}}}})", parameters_json());
}

}  // namespace diskengine
