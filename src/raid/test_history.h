// Random histories of a mirror against a model, for tests: two reactors polled by hand, disks that answer in any order
// and fail, legs that are removed, added and rebuilt meanwhile. What must hold: a read returns a value that some linear
// order of the requests allows; nothing acknowledged is lost; every request completes; at the end all legs in sync are
// identical. A history may end in a crash; the next one then begins with what that left.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "base/endian.h"
#include "base/log.h"
#include "raid/manager.h"
#include "raid/scrub.h"
#include "raid/test_disk.h"

namespace diskengine::raid {

inline constexpr uint64_t kBlocks = 96;  // of the volume; small, so that requests meet
inline constexpr uint64_t kForever = UINT64_MAX;

// Every value a block ever had, with the time in which it was being written. Stamp 0 is zeroes.
class Model {
 public:
  struct Value {
    uint64_t stamp;
    uint64_t begin;
    uint64_t end = kForever;
    bool acknowledged = false;
  };

  Model() : blocks_(kBlocks, {{.stamp = 0, .begin = 0, .end = 0, .acknowledged = true}}) {}
  void begin_write(uint64_t lba, uint64_t count, uint64_t stamp, uint64_t now) {
    for (uint64_t i = lba; i < lba + count; ++i) blocks_[i].push_back({.stamp = stamp, .begin = now});
  }
  void end_write(uint64_t lba, uint64_t count, uint64_t begun, uint64_t now, bool ok) {
    for (uint64_t i = lba; i < lba + count; ++i)
      for (Value& value : blocks_[i])
        if (value.begin == begun && value.end == kForever) {
          value.end = now;
          value.acknowledged = ok;
        }
  }
  // Whether a read under way from `begin` to `end` may find `stamp`.
  bool allows(uint64_t lba, uint64_t stamp, uint64_t begin, uint64_t end) const {
    for (const Value& value : blocks_[lba]) {
      if (value.stamp != stamp || value.begin > end) continue;
      bool overwritten = false;
      for (const Value& later : blocks_[lba])
        overwritten = overwritten || (later.acknowledged && later.begin > value.end && later.end < begin);
      if (!overwritten) return true;
    }
    return false;
  }

 private:
  std::vector<std::vector<Value>> blocks_;
};

class History;

struct Operation : Request {
  Operation(History& h, Op o, uint64_t at, uint64_t count) : history(h), buffer(count * TestDisk::kBlockSize) {
    op = o;
    lba = at;
    blocks = count;
    half = {buffer.data(), buffer.size() / 2};
    rest = {buffer.data() + buffer.size() / 2, buffer.size() - buffer.size() / 2};
    pieces = {half, rest};
    if (op == Op::read || op == Op::write) iov = pieces;
    done = &Operation::on_done;
  }
  static void on_done(Request& request) noexcept;

  History& history;
  std::vector<uint8_t> buffer;
  iovec half{}, rest{};
  std::array<iovec, 2> pieces{};
  uint64_t begun = 0;
  uint64_t stamp = 0;
};

class History {
 public:
  struct Shape {
    unsigned legs = 2;
    bool superblock = false;
    bool failures = true;
    uint32_t window_kb = 4;
    uint32_t region_kb = 4;
    bool confirm = false;  // exclusions count only when confirmed, which comes late
    bool caches = false;   // disks lose what was not flushed, as long as another leg has it; by crashes too
    bool record = false;   // somebody keeps the record of the legs, confirms, and puts the volume together
  };

  // What is on record of a volume: kept by somebody who outlives the process.
  struct Record {
    uint64_t epoch = 0;
    std::set<std::string> in_sync;
  };

  // What a crash leaves for the process that comes after it.
  struct Remains {
    std::vector<std::pair<std::shared_ptr<TestDisk>, std::vector<uint8_t>>> disks;
    Model model;
    uint64_t time = 0;
    Record record;
    std::map<std::string, Uuid> caches;
    std::string keeper;  // a leg that lost nothing; empty: none did
  };

  History(uint64_t seed, Shape shape) : random_(seed), shape_(shape) {
    const uint64_t header = shape.superblock ? spec::kRaidDataOffsetBytes / TestDisk::kBlockSize : 0;
    header_bytes_ = header * TestDisk::kBlockSize;
    set_options();
    for (unsigned i = 0; i < shape.legs + 2; ++i)
      add_disk(TestDisk::make("d" + std::to_string(i), header + kBlocks, random_.chance(4, 5)));
    std::vector<std::string> names;
    for (unsigned i = 0; i < shape.legs; ++i) names.push_back(disks_[i]->name());
    if (shape.record) {
      record_.in_sync = {names.begin(), names.end()};
      assemble();
    } else {
      settle(manager_.create({.name = "r", .uuid = {}, .base_bdevs = names, .superblock = shape.superblock}));
      if (shape.confirm) settle(manager_.find("r")->set_epoch(1, true));
    }
    open();
  }

  History(uint64_t seed, Shape shape, const Remains& remains)
      : random_(seed), shape_(shape), model_(remains.model), time_(remains.time), record_(remains.record) {
    header_bytes_ = spec::kRaidDataOffsetBytes;
    set_options();
    std::vector<std::shared_ptr<TestDisk>> found;
    for (const auto& [before, bytes] : remains.disks) {
      found.push_back(TestDisk::make(before->name(), before->size_blocks(), before->info().can_write_zeroes));
      found.back()->bytes = bytes;
      if (shape.caches) found.back()->cache = remains.caches.at(before->name());
    }
    if (shape.record) {
      for (size_t i = found.size(); i > 1; --i) std::swap(found[i - 1], found[random_.below(i)]);
    } else {
      std::stable_sort(found.begin(), found.end(),
                       [](const auto& a, const auto& b) { return sequence_of(*a) > sequence_of(*b); });
    }
    for (const auto& disk : found) add_disk(disk);
    if (shape.record) {
      EXPECT_FALSE(registry_.find("r")) << "it came online without its record";
      // One that cannot be reached leaves the record first.
      if (record_.in_sync.size() > 1 && random_.chance(1, 4) && *record_.in_sync.begin() != remains.keeper)
        record_.in_sync.erase(record_.in_sync.begin());
      assemble();
    }
    open();
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
    finish();
  }
  // Runs, and says what a crash then leaves; what happens here afterwards happens in another world.
  Remains run_and_crash(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
    Remains remains{
        .disks = {}, .model = model_, .time = ++time_, .record = record_, .caches = {}, .keeper = find_keeper()};
    for (const auto& [operation, owned] : operations_)
      if (operation->op != Op::read && operation->op != Op::flush)
        remains.model.end_write(operation->lba, operation->blocks, operation->begun, kForever - 1, false);
    for (auto& disk : disks_) {
      remains.disks.emplace_back(disk, disk->after_crash(random_));
      remains.caches[disk->name()] = disk->cache;
      if (!shape_.caches || remains.keeper.empty() || disk->name() == remains.keeper || random_.chance(1, 2)) continue;
      remains.disks.back().second = disk->durable;
      remains.caches[disk->name()] = Uuid::from_name(disk->cache.to_string());
    }
    finish();
    return remains;
  }

  // The end of an operation.
  void completed(Operation& operation) {
    const uint64_t now = ++time_;
    if (operation.op == Op::read && operation.status.ok()) {
      for (uint64_t i = 0; i < operation.blocks; ++i) check_block(operation, i, now);
    } else if (operation.op != Op::flush && operation.op != Op::read) {
      model_.end_write(operation.lba, operation.blocks, operation.begun, now, operation.status.ok());
    }
    (operation.status.ok() ? succeeded : failed) += 1;
    const auto at = operations_.find(&operation);
    finished_.push_back(std::move(at->second));  // freed when nobody looks at it any more
    operations_.erase(at);
  }

  unsigned succeeded = 0;
  unsigned failed = 0;

 private:
  static uint64_t sequence_of(const TestDisk& disk) {
    const auto superblock = spec::decode_raid_superblock(disk.bytes);
    return superblock ? superblock->seq_number : 0;
  }

  void set_options() {
    EXPECT_TRUE(manager_.set_options({.process_window_size_kb = shape_.window_kb, .log_region_kb = shape_.region_kb}));
  }
  void add_disk(std::shared_ptr<TestDisk> disk) {
    disks_.push_back(std::move(disk));
    if (shape_.caches) {
      disks_.back()->begin_to_cache();
      if (disks_.back()->cache.is_nil()) disks_.back()->cache = Uuid::from_name(disks_.back()->name());
    }
    EXPECT_TRUE(registry_.add(disks_.back()));
    settle();
  }
  void settle(Task<Result<void>> task) {
    std::optional<Result<void>> done;
    spawn<Result<void>>(std::move(task), [&](Result<void> r) { done = std::move(r); });
    for (int i = 0; i < 10 && !done; ++i) settle();
    ASSERT_TRUE(done.has_value());
    ASSERT_TRUE(*done) << done->error().message();
  }
  void assemble() {
    ++record_.epoch;
    settle(manager_.assemble({.name = "r",
                              .uuid = {},
                              .epoch = record_.epoch,
                              .confirm_exclusions = true,
                              .base_bdevs = {record_.in_sync.begin(), record_.in_sync.end()},
                              .slots = shape_.legs,
                              .create = record_.epoch == 1}));
  }

  void open() {
    const auto device = registry_.find("r");
    ASSERT_TRUE(device) << "the volume did not come online";
    channels_.push_back((*device)->open_channel(main_).value());
    open_on_other(*device);
  }
  void open_on_other(const std::shared_ptr<Device>& device) {
    other_.post([this, device] { channels_.push_back(device->open_channel(other_).value()); });
    other_.turn();
  }

  void check_block(const Operation& operation, uint64_t i, uint64_t now) {
    const uint8_t* block = operation.buffer.data() + i * TestDisk::kBlockSize;
    const auto stamp = load_le<uint64_t>(block);
    for (size_t at = 8; at < TestDisk::kBlockSize; at += 8)
      ASSERT_EQ(load_le<uint64_t>(block + at), stamp) << "torn block " << operation.lba + i;
    ASSERT_TRUE(model_.allows(operation.lba + i, stamp, operation.begun, now))
        << "block " << operation.lba + i << " reads as write " << stamp << ", which cannot be";
  }

  void step() {
    finished_.clear();
    const uint64_t what = random_.below(1000);
    if (what < 300) {
      submit();
    } else if (what < 600) {
      Reactor& reactor = random_.chance(1, 2) ? main_ : other_;
      disks_[random_.below(disks_.size())]->complete_some(reactor, random_,
                                                          1 + static_cast<unsigned>(random_.below(4)));
    } else if (what < 960) {
      turn(random_.chance(1, 2) ? main_ : other_);
    } else if (what < 975) {
      add_or_remove();
    } else if (shape_.caches && what == 996) {
      lose_a_cache();
    } else if (what >= 997) {
      if (const auto volume = manager_.find("r")) static_cast<void>(volume->start_scrub(0).has_value());
    } else if (shape_.failures && what < 985) {
      TestDisk& disk = *disks_[random_.below(disks_.size())];
      disk.failure = random_.chance(1, 3) ? IoCode::disconnected : IoCode::io_error;
      disk.failing_one_in = 1 + random_.below(4);
      healing_ = 40 + random_.below(100);
    }
    if (random_.chance(1, 40)) keep_record();
    if (healing_ > 0 && --healing_ == 0)
      for (auto& disk : disks_) disk->failing_one_in = 0;
  }

  void submit() {
    if (operations_.size() >= 24) return;
    static constexpr Op kOps[] = {Op::write, Op::write, Op::write, Op::read,        Op::read,
                                  Op::read,  Op::flush, Op::unmap, Op::write_zeroes};
    const size_t which = random_.below(channels_.size());
    Channel& channel = *channels_[which];
    Op op = kOps[random_.below(std::size(kOps))];
    if (op == Op::unmap && !channel.device().info().can_unmap) op = Op::write_zeroes;
    const uint64_t lba = random_.below(kBlocks);
    const uint64_t count = 1 + random_.below(std::min<uint64_t>(kBlocks - lba, random_.chance(1, 8) ? 40 : 6));
    const bool changes = op != Op::read && op != Op::flush;
    auto owned = std::make_unique<Operation>(*this, op, lba, count);
    Operation& operation = *owned;
    operation.begun = ++time_;
    if (op == Op::write) {
      operation.stamp = operation.begun;
      for (size_t at = 0; at < operation.buffer.size(); at += 8)
        store_le(operation.buffer.data() + at, operation.stamp);
    }
    if (changes) model_.begin_write(lba, count, operation.stamp, operation.begun);
    operations_.emplace(&operation, std::move(owned));
    channel.reactor().post([&channel, &operation] { channel.submit(operation); });
  }

  void add_or_remove() {
    TestDisk& disk = *disks_[random_.below(disks_.size())];
    if (disk.claimed_by().empty()) {
      spawn<Result<void>>(manager_.add_base("r", disk.name()), [](Result<void>) {});
      return;
    }
    const auto volume = manager_.find("r");
    const auto in_sync = std::count_if(volume->slots().begin(), volume->slots().end(), [](const auto& slot) {
      return slot->role == SlotRole::in_sync && !slot->excluding;
    });
    Volume::Slot* slot = volume->slot_of_device(disk);
    if (slot == nullptr || (slot->role == SlotRole::in_sync && in_sync == 1)) return;  // would take it offline
    spawn<Result<void>>(manager_.remove_base(disk.name()), [](Result<void>) {});
  }

  // What whoever keeps the record does when it looks.
  void keep_record() {
    const auto volume = manager_.find("r");
    if (volume == nullptr || !(shape_.confirm || shape_.record)) return;
    for (const auto& slot : volume->slots()) {
      if (slot->wanted && !slot->confirmed) {
        record_.in_sync.erase(slot->name);
        spawn<Result<void>>(volume->confirm_exclusion(volume->epoch(), slot->name), [](Result<void>) {});
      } else if (slot->role == SlotRole::in_sync && !slot->excluding) {
        record_.in_sync.insert(slot->name);
      }
    }
  }

  // A leg that has everything and is called in sync by whoever keeps the record; any of them.
  std::string find_keeper() {
    const auto volume = manager_.find("r");
    if (volume == nullptr || !shape_.caches) return {};
    std::vector<std::string> names;
    for (const auto& slot : volume->slots())
      if (slot->role == SlotRole::in_sync && !slot->excluding && !slot->unsynced &&
          (!shape_.record || record_.in_sync.contains(slot->name)))
        names.push_back(slot->name);
    return names.empty() ? std::string() : names[random_.below(names.size())];
  }

  void lose_a_cache() {
    const auto volume = manager_.find("r");
    TestDisk& disk = *disks_[random_.below(disks_.size())];
    const bool kept =
        volume != nullptr && std::any_of(volume->slots().begin(), volume->slots().end(), [&](const auto& s) {
          return s->role == SlotRole::in_sync && !s->excluding && !s->unsynced && &s->leg->device() != &disk;
        });
    if (kept) disk.lose_cache();
  }

  void turn(Reactor& reactor) {
    clock_.advance_ns(1'000'000);
    reactor.turn();
  }
  void settle() {
    for (int i = 0; i < 60; ++i) {
      for (auto& disk : disks_) {
        disk->complete_some(main_, random_, 1000);
        disk->complete_some(other_, random_, 1000);
      }
      turn(main_);
      turn(other_);
      keep_record();
    }
  }

  void finish() {
    for (auto& disk : disks_) disk->failing_one_in = 0;
    const auto volume = manager_.find("r");
    const auto rebuilding = [&] {
      return std::any_of(volume->slots().begin(), volume->slots().end(), [](const auto& slot) {
        return slot->role == SlotRole::rebuilding || slot->role == SlotRole::attached || slot->excluding;
      });
    };
    for (int i = 0; i < 40 && (i < 3 || rebuilding() || !operations_.empty()); ++i) settle();
    EXPECT_TRUE(operations_.empty()) << operations_.size() << " requests never completed";
    EXPECT_FALSE(rebuilding()) << volume->info_json();
    if (volume->scrub() != nullptr) {
      EXPECT_EQ(volume->scrub()->findings().differing_blocks, 0u) << volume->scrub_json();
    }
    compare_legs(*volume);
    other_.post([this] { channels_.pop_back(); });
    other_.turn();
    channels_.clear();
    bool stopped = false;
    spawn(manager_.stop(), [&] { stopped = true; });
    for (int i = 0; i < 50 && !stopped; ++i) settle();
    EXPECT_TRUE(stopped);
    for (auto& disk : disks_) EXPECT_TRUE(disk->claimed_by().empty() && disk->open.empty());
  }

  void compare_legs(Volume& volume) {
    const TestDisk* first = nullptr;
    for (const auto& slot : volume.slots()) {
      if (slot->role != SlotRole::in_sync) continue;
      const auto& leg = static_cast<const TestDisk&>(slot->leg->device());
      const auto data = [&](const TestDisk& disk) {
        return std::vector<uint8_t>(disk.bytes.begin() + static_cast<std::ptrdiff_t>(header_bytes_), disk.bytes.end());
      };
      if (first == nullptr) {
        first = &leg;
      } else {
        EXPECT_TRUE(data(*first) == data(leg)) << first->name() << " and " << leg.name() << " differ";
      }
      // What the leg holds is what a read now may find.
      for (uint64_t lba = 0; lba < kBlocks; ++lba) {
        const auto stamp = load_le<uint64_t>(leg.bytes.data() + header_bytes_ + lba * TestDisk::kBlockSize);
        EXPECT_TRUE(model_.allows(lba, stamp, time_ + 1, time_ + 1)) << leg.name() << " block " << lba << ": " << stamp;
      }
    }
    EXPECT_NE(first, nullptr);
  }

  friend struct Operation;
  Random random_;
  Shape shape_;
  ManualClock clock_;
  Reactor main_{{.name = "main", .id = 0, .clock = &clock_, .use_ring = false}};
  Reactor other_{{.name = "other", .id = 1, .clock = &clock_, .use_ring = false}};
  DeviceRegistry registry_{main_};
  RaidManager manager_{registry_, 1};
  std::vector<std::shared_ptr<TestDisk>> disks_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::map<Operation*, std::unique_ptr<Operation>> operations_;
  std::vector<std::unique_ptr<Operation>> finished_;
  Model model_;
  uint64_t time_ = 0;
  Record record_;
  uint64_t healing_ = 0;
  uint64_t header_bytes_ = 0;
};

inline void Operation::on_done(Request& request) noexcept {
  auto& operation = static_cast<Operation&>(request);
  operation.history.completed(operation);
}

// Seeds to run: DISKENGINE_RAID_SEED replays one, DISKENGINE_RAID_HISTORIES sets how many.
template <typename OneHistory>
void run_seeds(uint64_t count, OneHistory&& run_one) {
  log_set_level(std::getenv("DISKENGINE_RAID_LOG") != nullptr ? LogLevel::debug : static_cast<LogLevel>(99));
  uint64_t first = Random::from_system().below(1'000'000'000);
  if (const char* many = std::getenv("DISKENGINE_RAID_HISTORIES")) count = std::strtoull(many, nullptr, 10);
  if (const char* seed = std::getenv("DISKENGINE_RAID_SEED")) {
    first = std::strtoull(seed, nullptr, 10);
    count = 1;
  }
  for (uint64_t seed = first; seed < first + count && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("replay with DISKENGINE_RAID_SEED=" + std::to_string(seed));
    run_one(seed);
  }
}

}  // namespace diskengine::raid
