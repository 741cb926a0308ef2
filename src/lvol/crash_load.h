// I/O in the background of a crash test: on several lvols at once, from both reactors, with everything noted in the
// lvols' histories (crash_model.h); what is read is checked against them at once.
//
// Threads: the test's. Owner: the story (crash_story.h).
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "lvol/crash_model.h"
#include "lvol/crash_world.h"

namespace diskengine::lvol {

class Load {
 public:
  struct Options {
    unsigned depth = 12;
    unsigned unmaps_of_16 = 1;  // whole clusters, or parts of some
    unsigned whole_clusters_of_16 = 1;
    uint64_t cluster_sectors = 128;
    uint64_t ios_max = 100'000;
  };

  Load(World& world, uint64_t seed, const Options& options) : world_(world), random_(seed), options_(options) {}

  void add(Tracked& target) {
    for (const bool on_other : {false, true}) world_.channel(target.uuid.to_string(), on_other);
    targets_.push_back(&target);
    more();
  }
  // Nothing more is started on it; returns when nothing is in flight on it.
  void remove(Tracked& target) {
    std::erase(targets_, &target);
    EXPECT_TRUE(world_.turn_until([&] { return in_flight(target) == 0; })) << "I/O does not complete";
    world_.close_channels(target.uuid.to_string());
  }
  void stop() { targets_.clear(); }
  void set_unmaps(unsigned of_16) { options_.unmaps_of_16 = of_16; }
  bool idle() const { return under_way_.empty(); }
  uint64_t completed() const { return completed_; }
  uint64_t failed() const { return failed_; }
  // Turns until so many more I/Os have completed.
  void run(uint64_t count) {
    const uint64_t until = completed_ + count;
    EXPECT_TRUE(world_.turn_until([&] { return completed_ >= until; })) << "the load stands still";
  }
  // A sector of one of a few clusters, so that writes meet.
  static uint64_t pick_sector(Random& random, uint64_t sectors, uint64_t cluster_sectors) {
    static constexpr uint64_t kClusters[] = {0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 37, 510, 511, 512, 513, 1023, 1024, 1099};
    const uint64_t cluster = kClusters[random.below(std::size(kClusters))];
    const uint64_t at = cluster * cluster_sectors + random.below(std::min(cluster_sectors, kSpread));
    return at < sectors ? at : random.below(std::min(sectors, 4 * cluster_sectors));
  }

 private:
  static constexpr uint64_t kSpread = 24;  // sectors of a cluster that are touched

  struct UnderWay {
    std::unique_ptr<StampedIo> io;
    Tracked* target = nullptr;
    size_t change = 0;
    Moment begun = 0;
  };

  // Where it ends also if a shrinking that is under way succeeds.
  static uint64_t smallest(const Tracked& target) {
    return target.size_limit != 0 ? target.size_limit : target.size.latest();
  }
  size_t in_flight(const Tracked& target) const {
    return static_cast<size_t>(std::count_if(under_way_.begin(), under_way_.end(),
                                             [&](const auto& entry) { return entry.second.target == &target; }));
  }

  void more() {
    while (!targets_.empty() && under_way_.size() < options_.depth && started_ < options_.ios_max) start_one();
  }

  void start_one() {
    ++started_;
    Tracked& target = *targets_[random_.below(targets_.size())];
    Channel& channel = world_.channel(target.uuid.to_string(), random_.chance(1, 2));
    const uint32_t block = channel.device().info().block_size;
    const uint64_t block_sectors = block / kSectorBytes;
    const uint64_t roll = random_.below(16);
    Op op = Op::write;
    uint64_t first = pick_sector(random_, smallest(target), options_.cluster_sectors) / block_sectors * block_sectors;
    uint64_t count = (1 + random_.below(kSpread)) * block_sectors;
    if (roll < options_.whole_clusters_of_16 + options_.unmaps_of_16 && random_.chance(3, 4)) {
      first = first / options_.cluster_sectors * options_.cluster_sectors;
      count = options_.cluster_sectors * (1 + random_.below(2));
    }
    if (roll < options_.unmaps_of_16) {
      op = random_.chance(3, 4) && channel.device().info().can_unmap ? Op::unmap : Op::write_zeroes;
    } else if (roll == 15) {
      op = Op::flush;
    } else if (roll == 14) {
      op = Op::read;
    }
    count = std::min(count, smallest(target) - first);
    if (op == Op::flush) first = count = 0;
    submit(target, channel, op, first, count, block_sectors);
  }

  void submit(Tracked& target, Channel& channel, Op op, uint64_t first, uint64_t count, uint64_t block_sectors) {
    const bool changes = op != Op::read && op != Op::flush;
    const uint64_t stamp = op == Op::write ? ++stamps_ : 0;
    auto io = std::make_unique<StampedIo>(op, first / block_sectors, count / block_sectors,
                                          static_cast<uint32_t>(block_sectors * kSectorBytes), stamp);
    io->fua = op == Op::write && random_.chance(1, 16);
    io->may_unmap = op == Op::write_zeroes && random_.chance(1, 2);
    UnderWay way{.io = std::move(io), .target = &target, .change = 0, .begun = world_.now()};
    if (changes)
      way.change = target.begin_change({.first = first,
                                        .count = count,
                                        .stamp = stamp,
                                        .when = {.begin = way.begun},
                                        .fua = way.io->fua,
                                        .may_keep = op == Op::unmap});
    StampedIo& request = *way.io;
    request.then = [this](StampedIo& done) { complete(done); };
    under_way_.emplace(&request, std::move(way));
    world_.submit(channel, request);
  }

  void complete(StampedIo& io) {
    const auto at = under_way_.find(&io);
    UnderWay way = std::move(at->second);
    under_way_.erase(at);
    ++completed_;
    failed_ += io.status.ok() ? 0 : 1;
    const Span when{.begin = way.begun, .end = world_.now()};
    if (io.op == Op::flush) {
      if (io.status.ok()) way.target->flushed(when);
    } else if (io.op == Op::read) {
      if (io.status.ok()) check_read(way, when);
    } else {
      way.target->end_change(way.change, when.end, io.status.ok());
    }
    finished_.push_back(std::move(way.io));  // it is still on the stack
    world_.post_to_main([this] {
      finished_.clear();
      more();
    });
  }

  void check_read(const UnderWay& way, Span when) {
    const uint64_t sectors = way.io->buffer.size() / kSectorBytes;
    const uint64_t first = way.io->lba * (sectors / way.io->blocks);
    for (uint64_t i = 0; i < sectors; ++i) {
      const std::optional<uint64_t> stamp = way.io->stamp_at(i);
      if (stamp.has_value() && way.target->reads_as(first + i, *stamp, when)) continue;
      ADD_FAILURE() << "read while running: found " << (stamp.has_value() ? std::to_string(*stamp) : "no one stamp")
                    << " in " << way.target->describe(first + i);
      return;
    }
  }

  World& world_;
  Random random_;
  Options options_;
  std::vector<Tracked*> targets_;
  std::map<StampedIo*, UnderWay> under_way_;
  std::vector<std::unique_ptr<StampedIo>> finished_;
  uint64_t started_ = 0;
  uint64_t completed_ = 0;
  uint64_t failed_ = 0;
  uint64_t stamps_ = 1'000'000;  // those of the setup are lower
};

}  // namespace diskengine::lvol
