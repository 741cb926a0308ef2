#include "raid/scrub.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/json_text.h"
#include "base/log.h"

namespace diskengine::raid {
namespace {

std::string_view name_of(Scrub::State state) noexcept {
  switch (state) {
    case Scrub::State::running:
      return "running";
    case Scrub::State::waiting:
      return "waiting";
    case Scrub::State::done:
      return "done";
    case Scrub::State::stopped:
      return "stopped";
  }
  return "unknown";
}

uint32_t checksum(std::span<const uint8_t> bytes) noexcept {
  return crc32c_finish(crc32c_update(kCrc32cSeed, bytes.data(), bytes.size()));
}

}  // namespace

Scrub::Scrub(Volume& volume, uint64_t max_bandwidth_mb_sec)
    : volume_(volume), max_bandwidth_mb_sec_(max_bandwidth_mb_sec), total_blocks_(volume.size_blocks()) {
  for (size_t i = 0; i < volume.slots().size(); ++i) buffers_.emplace_back(kWindowBytes);
  progress_.start(volume.main().now_ns(), total_blocks_);
}

void Scrub::stop(std::string why) {
  if (ended()) return;
  state_ = State::stopped;
  reason_ = std::move(why);
}

unsigned Scrub::legs_to_compare() const noexcept {
  return static_cast<unsigned>(std::count_if(volume_.slots().begin(), volume_.slots().end(),
                                             [](const auto& slot) { return LegRef(*slot).synced(); }));
}

Task<void> Scrub::run() {
  const std::shared_ptr<Volume> volume = volume_.shared_from_this();
  const uint64_t bytes = max_bandwidth_mb_sec_ == 0 ? kWindowBytes : kLimitedWindowBytes;
  const uint64_t window = bytes / volume_.block_size();
  for (uint64_t begin = 0; begin < total_blocks_;) {
    const bool possible = co_await wait_until_possible();
    if (!possible) break;
    const uint64_t since_ns = volume_.main().now_ns();
    const uint64_t end = std::min(begin + window, total_blocks_);
    co_await volume_.process_mutex().lock();
    const unsigned lock = co_await volume_.lock_range(begin, end);
    co_await scrub_window(begin, end);
    volume_.unlock_range(lock);
    co_await volume_.sync();
    volume_.process_mutex().unlock();
    progress_.set_done(volume_.main().now_ns(), end);
    if (max_bandwidth_mb_sec_ != 0) co_await throttle(end - begin, since_ns);
    begin = end;
  }
  if (!ended()) state_ = State::done;
  ended_ns_ = volume_.main().now_ns();
  buffers_.clear();
  running_ = false;
  volume_.announce(EventType::scrub_ended, nullptr,
                   fmt::format("{}: {} of {} blocks compared, {} differ, {} rewritten, {} unreadable",
                               state_ == State::done ? "done" : reason_, progress_.done(), total_blocks_,
                               findings_.differing_blocks, findings_.healed_blocks, findings_.unreadable_blocks));
}

// False: it was stopped.
Task<bool> Scrub::wait_until_possible() {
  while (!ended()) {
    const bool copying = volume_.rebuilding();
    if (!copying && legs_to_compare() >= 2) {
      state_ = State::running;
      reason_.clear();
      co_return true;
    }
    state_ = State::waiting;
    reason_ = copying ? "a leg is being copied to" : "fewer than two legs are in sync";
    co_await sleep_for(volume_.main(), kWaitNs);
  }
  co_return false;
}

// The range is locked.
Task<void> Scrub::scrub_window(uint64_t begin, uint64_t end) {
  std::vector<Copy> copies;
  const size_t bytes = (end - begin) * volume_.block_size();
  for (const auto& slot : volume_.slots())
    if (LegRef(*slot).synced())
      copies.push_back({.leg = LegRef(*slot), .data = buffers_[slot->index].span().first(bytes), .status = {}});
  co_await read_all(copies, begin);
  std::erase_if(copies, [](const Copy& copy) { return !copy.leg.synced(); });
  co_await heal(copies, begin);
  std::erase_if(copies, [](const Copy& copy) { return !copy.status.ok(); });
  compare(copies, begin);
}

Task<void> Scrub::read_all(std::vector<Copy>& copies, uint64_t lba) {
  if (copies.empty()) co_return;
  OneShot<bool> all(volume_.main());
  size_t left = copies.size();
  for (Copy& copy : copies) spawn(read_one(copy, lba, left, all));
  co_await all;
}

Task<void> Scrub::read_one(Copy& copy, uint64_t lba, size_t& left, OneShot<bool>& all) {
  copy.status = co_await leg_io(copy.leg, Op::read, lba, copy.data);
  if (--left == 0) all.set(true);
}

// What a leg cannot read it gets from one that can.
Task<void> Scrub::heal(std::vector<Copy>& copies, uint64_t lba) {
  const auto good = std::find_if(copies.begin(), copies.end(), [](const Copy& copy) { return copy.status.ok(); });
  for (Copy& copy : copies) {
    if (copy.status.ok()) continue;
    const uint64_t blocks = copy.data.size() / volume_.block_size();
    if (good == copies.end()) {
      findings_.unreadable_blocks += blocks;
      continue;
    }
    copy.leg.slot().leg->read_errors.fetch_add(1, std::memory_order_relaxed);
    std::memcpy(copy.data.data(), good->data.data(), copy.data.size());
    const IoStatus written = co_await leg_io(copy.leg, Op::write, lba, copy.data);
    if (!written.ok() && written.code != IoCode::canceled) volume_.leg_failed_write(copy.leg.slot(), written);
    if (written.ok()) copy.status = co_await leg_io(copy.leg, Op::read, lba, copy.data);
    (copy.status.ok() ? findings_.healed_blocks : findings_.unreadable_blocks) += blocks;
  }
}

void Scrub::compare(const std::vector<Copy>& copies, uint64_t lba) {
  if (copies.size() < 2) return;
  const std::span<const uint8_t> first = copies.front().data;
  const auto alike = [&](size_t at, size_t bytes) {
    return std::all_of(copies.begin() + 1, copies.end(), [&](const Copy& copy) {
      return std::memcmp(first.data() + at, copy.data.data() + at, bytes) == 0;
    });
  };
  if (alike(0, first.size())) return;
  const size_t block = volume_.block_size();
  const uint64_t blocks = first.size() / block;
  for (uint64_t at = 0; at < blocks;) {
    uint64_t end = at;
    while (end < blocks && !alike(end * block, block)) ++end;
    if (end > at) note_difference(copies, lba, at, end - at);
    at = end + 1;
  }
}

void Scrub::note_difference(const std::vector<Copy>& copies, uint64_t lba, uint64_t first, uint64_t blocks) {
  findings_.differing_blocks += blocks;
  if (findings_.differences.size() == kDifferencesMax) return;
  const size_t block = volume_.block_size();
  Difference difference{.lba = lba + first, .blocks = blocks, .legs = {}};
  for (const Copy& copy : copies)
    difference.legs.emplace_back(copy.leg.slot().name, checksum(copy.data.subspan(first * block, blocks * block)));
  LOG_ERROR("raid", "{}: its legs differ in {} blocks from {} on", volume_.name(), blocks, difference.lba);
  volume_.announce(EventType::legs_differ, nullptr,
                   fmt::format("{} blocks from {} on differ: diskengine_raid_scrub_status says on which legs", blocks,
                               difference.lba));
  findings_.differences.push_back(std::move(difference));
}

Task<void> Scrub::throttle(uint64_t blocks, uint64_t since_ns) {
  const uint64_t needed_ns = blocks * volume_.block_size() * 1'000'000'000 / (max_bandwidth_mb_sec_ * 1024 * 1024);
  while (!ended()) {
    const uint64_t now_ns = volume_.main().now_ns();
    if (now_ns >= since_ns + needed_ns) co_return;
    co_await sleep_for(volume_.main(), std::min(since_ns + needed_ns - now_ns, kWaitNs));
  }
}

std::string Scrub::json(uint64_t now_ns) const {
  const uint64_t at_ns = ended() ? ended_ns_ : now_ns;
  const double rate = progress_.rate(at_ns);
  std::string out =
      fmt::format(R"({{"state":"{}","progress":{{"blocks":{},"percent":{}}},"total_blocks":{},"blocks_per_sec":{:.0f},)"
                  R"("mb_per_sec":{:.1f},"max_bandwidth_mb_sec":{},"differing_blocks":{},"healed_blocks":{},)"
                  R"("unreadable_blocks":{})",
                  name_of(state_), progress_.done(), progress_.percent(), total_blocks_, rate,
                  rate * volume_.block_size() / (1024 * 1024), max_bandwidth_mb_sec_, findings_.differing_blocks,
                  findings_.healed_blocks, findings_.unreadable_blocks);
  if (!reason_.empty()) out += ",\"reason\":" + json_quote(reason_);
  const uint64_t eta = progress_.eta_seconds(now_ns);
  if (!ended() && eta != UINT64_MAX) out += fmt::format(R"(,"eta_seconds":{})", eta);
  out += ",\"differences\":[";
  for (const Difference& difference : findings_.differences) {
    out += fmt::format(R"({}{{"lba":{},"blocks":{},"legs":[)", &difference == findings_.differences.data() ? "" : ",",
                       difference.lba, difference.blocks);
    for (const auto& [name, crc] : difference.legs)
      out += fmt::format(R"({}{{"name":{},"crc32c":"{:08x}"}})", &name == &difference.legs.front().first ? "" : ",",
                         json_quote(name), crc);
    out += "]}";
  }
  return out + "]}";
}

}  // namespace diskengine::raid
