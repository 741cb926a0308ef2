#include "block/load.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace diskengine {

LoadGenerator::LoadGenerator(std::unique_ptr<Channel> channel, const LoadOptions& options)
    : options_(options),
      channel_(std::move(channel)),
      reactor_(channel_->reactor()),
      random_(options.seed),
      io_blocks_(options.io_bytes / channel_->device().info().block_size),
      places_(channel_->device().size_blocks() / io_blocks_),
      memory_(uint64_t{options.queue_depth} * options.io_bytes),
      ios_(new Io[options.queue_depth]) {
  for (uint32_t i = 0; i < options_.queue_depth; ++i) {
    Io& io = ios_[i];
    io.load = this;
    io.piece = {memory_.data() + uint64_t{i} * options_.io_bytes, options_.io_bytes};
    io.iov = {&io.piece, 1};
    io.blocks = io_blocks_;
    io.done = on_done;
    // Not all alike, so that nothing below sees only zeroes.
    std::memset(io.piece.iov_base, static_cast<int>(i % 255 + 1), io.piece.iov_len);
  }
}

LoadGenerator::~LoadGenerator() { DE_ASSERT(outstanding_ == 0); }

Result<std::unique_ptr<LoadGenerator>> LoadGenerator::open(std::shared_ptr<Device> device, Reactor& reactor,
                                                           const LoadOptions& options) {
  const DeviceInfo& info = device->info();
  const auto refuse = [&](const std::string& why) {
    return Error(Errc::invalid_argument, fmt::format("cannot load '{}': {}", info.name, why));
  };
  if (options.queue_depth == 0 || options.queue_depth > LoadOptions::kQueueDepthMax)
    return refuse(fmt::format("queue depth {} is not 1 to {}", options.queue_depth, LoadOptions::kQueueDepthMax));
  if (options.io_bytes == 0 || options.io_bytes > LoadOptions::kIoBytesMax || options.io_bytes % info.block_size != 0)
    return refuse(fmt::format("an I/O of {} bytes is not a multiple of {} up to {}", options.io_bytes, info.block_size,
                              LoadOptions::kIoBytesMax));
  if (uint64_t{options.queue_depth} * options.io_bytes > kMemoryMax)
    return refuse(fmt::format("{} I/Os of {} bytes take more than {} bytes of memory", options.queue_depth,
                              options.io_bytes, kMemoryMax));
  if (options.io_bytes > info.size_bytes()) return refuse("the device is smaller than one I/O");
  if (options.duration_ns > LoadOptions::kDurationMaxNs || options.warm_up_ns > LoadOptions::kDurationMaxNs)
    return refuse("the load would take over an hour");
  if (info.read_only && options.read_percent < 100) return refuse("the device is read-only");
  TRY_ASSIGN(std::unique_ptr<Channel> channel, device->open_channel(reactor));
  return std::unique_ptr<LoadGenerator>(new LoadGenerator(std::move(channel), options));
}

void LoadGenerator::run(Done done) {
  DE_ASSERT(!done_ && done);
  done_ = std::move(done);
  measure_from_ns_ = reactor_.clock().now_ns() + options_.warm_up_ns;
  end_ns_ = measure_from_ns_ + options_.duration_ns;
  const uint64_t now = reactor_.batch_ticks();
  outstanding_ = options_.queue_depth;
  for (uint32_t i = 0; i < options_.queue_depth; ++i) send(ios_[i], now);
}

void LoadGenerator::send(Io& io, uint64_t now_ticks) noexcept {
  const bool read = options_.read_percent == 100 || random_.chance(options_.read_percent, 100);
  io.op = read ? Op::read : Op::write;
  const uint64_t place = options_.random ? random_.below(places_) : next_place_++ % places_;
  io.lba = place * io_blocks_;
  io.sent_ticks = now_ticks;
  channel_->submit(io);
}

void LoadGenerator::on_done(Request& request) noexcept {
  auto& io = static_cast<Io&>(request);
  io.load->completed(io);
}

void LoadGenerator::completed(Io& io) noexcept {
  const uint64_t now = reactor_.batch_ticks();
  const uint64_t now_ns = reactor_.now_ns();
  ++result_.all_ios;
  if (!io.status.ok()) [[unlikely]] {
    if (result_.errors++ == 0) result_.first_error = io.status;
  }
  if (measuring_) [[likely]] {
    ++result_.ios;
    result_.latency_ticks.record(now - io.sent_ticks);
  } else if (now_ns >= measure_from_ns_) {
    measuring_ = true;
    measure_from_ns_ = now_ns;
  }
  // A failing device would be asked again and again in no time.
  if (now_ns < end_ns_ && !stopping_ && result_.errors == 0) [[likely]] {
    send(io, now);
    return;
  }
  if (result_.elapsed_ns == 0 && measuring_) result_.elapsed_ns = now_ns - measure_from_ns_;
  measuring_ = false;
  measure_from_ns_ = UINT64_MAX;
  if (--outstanding_ == 0) finished();
}

void LoadGenerator::finished() {
  // From a later turn: the channel is still in the middle of this completion.
  reactor_.post([this] {
    channel_.reset();
    const Done done = std::move(done_);
    const LoadResult result = std::move(result_);
    done(result);
  });
}

}  // namespace diskengine
