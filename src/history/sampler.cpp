#include "history/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace diskengine::history {
namespace {

using spec::HistoryKind;
using spec::HistoryPhase;
using spec::HistoryRecord;

constexpr const char* kStuck = "stuck";

uint64_t ms_of(uint64_t ticks) noexcept {
  return static_cast<uint64_t>(static_cast<double>(ticks) * 1e3 / static_cast<double>(ticks_per_second()));
}

uint64_t since(uint64_t now, uint64_t* before) noexcept {
  const uint64_t was = std::exchange(*before, now);
  return now >= was ? now - was : now;
}

HistoryRecord reactor_record(const std::array<uint64_t, 3>& ticks) {
  HistoryRecord record;
  record.kind = HistoryKind::reactor;
  const uint64_t all = std::max<uint64_t>(1, ticks[0] + ticks[1] + ticks[2]);
  const auto share = [&](uint64_t part) {
    return saturated(static_cast<uint64_t>(std::llround(static_cast<double>(part) * 1000 / static_cast<double>(all))));
  };
  record.values[spec::kHistoryBusy] = share(ticks[0]);
  record.values[spec::kHistorySpinning] = share(ticks[1]);
  record.values[spec::kHistoryAsleep] = share(ticks[2]);
  return record;
}

}  // namespace

Sampler::Sampler(const std::vector<Reactor*>& reactors, DeviceRegistry& devices, Options options, Hooks hooks)
    : reactors_(reactors),
      devices_(devices),
      options_(options),
      hooks_(std::move(hooks)),
      timer_([this] { tick(); }),
      reactor_memory_(reactors.size()) {}

Sampler::~Sampler() = default;

void Sampler::start() {
  Reactor& main = devices_.main_reactor();
  looked_at_ns_ = minute_ns_ = main.clock().now_ns();
  timer_.arm(main, kPeriodNs);
}

Task<void> Sampler::stop() {
  timer_.cancel();
  if (gate_.closed()) co_return;
  OneShot<bool> left(devices_.main_reactor());
  gate_.close([&left] { left.set(true); });
  co_await left;
}

// A look that takes longer than a second, because a reactor does, takes the place of the next.
void Sampler::tick() {
  if (!gate_.enter()) return;
  spawn(sample(), [this] {
    if (!gate_.closed()) timer_.arm(devices_.main_reactor(), kPeriodNs);
    gate_.leave();
  });
}

Task<void> Sampler::sample() {
  const Clock& clock = devices_.main_reactor().clock();
  now_ms_ = clock.wall_ns() / 1'000'000;
  const uint64_t now_ns = clock.now_ns();
  span_ms_ = (now_ns - std::exchange(looked_at_ns_, now_ns)) / 1'000'000;
  std::vector<ObjectState> states;
  if (hooks_.states) hooks_.states(states);
  for (size_t i = 0; i < reactors_.size(); ++i) {
    Task<void> sampling = sample_reactor(reactors_[i], &reactor_memory_[i]);
    co_await sampling;
  }
  for (const auto& [root, tally] : roots_second_) {
    if (tally.empty()) continue;
    put(Series::seconds, tally.record(), root.first, root.second, span_ms_);
    roots_minute_[root].add(tally);
  }
  roots_second_.clear();
  for (auto& [name, memory] : device_memory_) memory.seen = false;
  std::vector<std::shared_ptr<Device>> devices = devices_.all();
  if (devices.size() > kDevicesMax) devices.resize(kDevicesMax);
  // One that goes away meanwhile need not wait for us.
  std::vector<std::weak_ptr<Device>> weak(devices.begin(), devices.end());
  devices.clear();
  // Several at once: answers take a turn of each reactor, and with a busy one that is long.
  for (size_t begin = 0; begin < weak.size(); begin += kAskedAtOnce) {
    std::vector<std::unique_ptr<AskedDevice>> asked;
    for (size_t i = begin; i < std::min(weak.size(), begin + kAskedAtOnce); ++i)
      if (const std::shared_ptr<Device> device = weak[i].lock(); device != nullptr && !device->removed())
        asked.push_back(ask(*device));
    for (const std::unique_ptr<AskedDevice>& one : asked) {
      OneShot<std::vector<Outstanding>>& waiting = one->outstanding;
      OneShot<DeviceStats>& counted = one->stats;
      const std::vector<Outstanding> outstanding = co_await waiting;
      const DeviceStats stats = co_await counted;
      note_device(one->name, one->layer, stats.total, outstanding);
      note_stuck(one->name, one->layer, outstanding, &states);
    }
  }
  std::erase_if(device_memory_, [](const auto& entry) { return !entry.second.seen; });
  note_states(std::move(states));
  const bool is_minute = ++looks_ >= kSecondsPerMinute;
  if (hooks_.machine) hooks_.machine(now_ms_, span_ms_, is_minute ? (looked_at_ns_ - minute_ns_) / 1'000'000 : 0);
  if (is_minute) end_minute();
}

std::unique_ptr<Sampler::AskedDevice> Sampler::ask(Device& device) const {
  auto asked = std::make_unique<AskedDevice>(devices_.main_reactor());
  asked->name = device.name();
  asked->layer = device.info().layer;
  AskedDevice* to = asked.get();
  device.collect_outstanding([to](std::vector<Outstanding> found) { to->outstanding.set(std::move(found)); });
  device.collect_stats(StatsReset::nothing, [to](DeviceStats found) { to->stats.set(std::move(found)); });
  return asked;
}

Task<void> Sampler::sample_reactor(Reactor* reactor, ReactorMemory* memory) {
  // The memory and the sums are this reactor's while it is asked: nobody else runs meanwhile.
  std::function<std::array<uint64_t, 3>()> look = [this, reactor, memory] {
    const Reactor::Stats& stats = reactor->stats();
    if (trace::Recorder* recorder = reactor->recorder(); recorder != nullptr) {
      recorder->for_each_root([&](const trace::Root& root) {
        const RootKey key{root.name, root.layer};
        if (memory->roots.size() < kRootsMax || memory->roots.contains(key))
          roots_second_[key].add(memory->roots[key].since(root));
      });
    }
    return std::array<uint64_t, 3>{since(stats.busy_ticks, &memory->busy), since(stats.idle_ticks, &memory->idle),
                                   since(stats.sleep_ticks, &memory->sleep)};
  };
  auto call = call_on<std::array<uint64_t, 3>>(*reactor, std::move(look));
  const std::array<uint64_t, 3> ticks = co_await call;
  for (size_t i = 0; i < ticks.size(); ++i) memory->minute[i] += ticks[i];
  // Nothing is said of reactors that slept.
  constexpr uint64_t kWorthPermille = 20;
  if ((ticks[0] + ticks[1]) * 1000 >= (ticks[0] + ticks[1] + ticks[2]) * kWorthPermille)
    put(Series::seconds, reactor_record(ticks), reactor->name(), trace::Layer::other, span_ms_);
}

void Sampler::note_device(const std::string& name, trace::Layer layer, const IoStats& stats,
                          const std::vector<Outstanding>& outstanding) {
  DeviceMemory& memory = device_memory_[name];
  memory.seen = true;
  memory.layer = layer;
  const DeviceTally second = memory.look.since(stats);
  uint64_t count = 0, oldest_ticks = 0;
  for (const Outstanding& one : outstanding) {
    count += one.count;
    oldest_ticks = std::max(oldest_ticks, one.oldest_age_ticks);
  }
  if (second.empty() && count == 0) return;
  memory.minute.add(second);
  HistoryRecord record = second.record();
  record.values[spec::kHistoryOutstanding] = saturated(count);
  record.values[spec::kHistoryOldestMs] = saturated(ms_of(oldest_ticks));
  put(Series::seconds, std::move(record), name, layer, span_ms_);
}

void Sampler::note_stuck(const std::string& name, trace::Layer layer, const std::vector<Outstanding>& outstanding,
                         std::vector<ObjectState>* states) const {
  if (options_.stuck_ms == 0) return;
  // A reactor may have several channels to the device: the oldest of all is named.
  std::map<unsigned, const Outstanding*> oldest;
  for (const Outstanding& one : outstanding) {
    const Outstanding*& known = oldest[one.reactor_id];
    if (known == nullptr || one.oldest_age_ticks > known->oldest_age_ticks) known = &one;
  }
  for (const auto& [reactor_id, request] : oldest) {
    const Outstanding& one = *request;
    if (ms_of(one.oldest_age_ticks) < options_.stuck_ms) continue;
    // No age in the text: the same request must not be news again a second later.
    states->push_back(
        {kStuck, fmt::format("{} reactor_{}", name, reactor_id),
         fmt::format("{} of {} blocks at {} is outstanding for more than {} ms in layer {}", name_of(one.oldest_op),
                     one.oldest_blocks, one.oldest_lba, options_.stuck_ms, trace::name_of(layer))});
  }
}

void Sampler::note_states(std::vector<ObjectState> states) {
  for (HistoryRecord& event : book_.look(states, now_ms_)) {
    if (event.type == kStuck) {
      const size_t space = event.name.find(' ');
      const std::string device = event.name.substr(0, space);
      const bool over = event.detail == static_cast<uint16_t>(HistoryPhase::ended);
      if (hooks_.stuck)
        hooks_.stuck(device, over ? fmt::format("{}: over after {} ms", event.text, event.span_ms) : event.text, over);
      event.text += " on" + event.name.substr(space);
      event.name = device;
    }
    if (hooks_.record) hooks_.record(Series::events, std::move(event));
  }
}

void Sampler::end_minute() {
  const uint64_t span_ms = (looked_at_ns_ - minute_ns_) / 1'000'000;
  for (auto& [name, memory] : device_memory_) {
    if (!memory.minute.empty()) put(Series::minutes, memory.minute.record(), name, memory.layer, span_ms);
    memory.minute = {};
  }
  for (const auto& [root, tally] : roots_minute_)
    put(Series::minutes, tally.record(), root.first, root.second, span_ms);
  roots_minute_.clear();
  for (size_t i = 0; i < reactors_.size(); ++i) {
    put(Series::minutes, reactor_record(reactor_memory_[i].minute), reactors_[i]->name(), trace::Layer::other, span_ms);
    reactor_memory_[i].minute = {};
  }
  minute_ns_ = looked_at_ns_;
  looks_ = 0;
}

void Sampler::put(Series series, HistoryRecord record, std::string name, trace::Layer layer, uint64_t span_ms) {
  if (!hooks_.record) return;
  record.end_ms = now_ms_;
  record.span_ms = saturated(std::min(span_ms, now_ms_));
  record.detail = static_cast<uint16_t>(layer);
  record.name = std::move(name);
  hooks_.record(series, std::move(record));
}

}  // namespace diskengine::history
