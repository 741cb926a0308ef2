// The disks a power cut could have left behind, out of a recording (crash.h): for tests of crash safety.
//
// What a cut leaves, of what was submitted before it:
//   - a write is there if it completed before a flush was submitted that completed; with FUA, or on a disk without a
//     volatile cache, if it completed;
//   - any other write is there, or not, or torn: any of its 512-byte sectors may be there. So may those of a write that
//     failed. The same holds for write_zeroes and unmap;
//   - where writes to the same sector are both durable, the one that completed later has won.
//
// A state is named by a cut, the number of events that came before it, and a choice: kNothing or kEverything of what
// was not yet durable, or any other number, from which a random part of it follows. Equal recordings give equal states.
//
// Threads: one. The recording and the image outlive the replay.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "block/decorators/crash.h"
#include "block/decorators/crash_image.h"

namespace diskengine {

class CrashReplay {
 public:
  static constexpr uint64_t kSectorBytes = 512;
  static constexpr uint64_t kNothing = 0;
  static constexpr uint64_t kEverything = 1;

  struct State {
    size_t cut = 0;
    uint64_t choice = 0;

    bool operator==(const State&) const = default;
    bool operator<(const State& other) const noexcept {
      return cut != other.cut ? cut < other.cut : choice < other.choice;
    }
    std::string to_string() const;  // "cut:choice"
    static Result<State> parse(std::string_view text);
  };
  struct Options {
    uint64_t seed = 1;
    // How many different states to make, if there are so many. Nothing and everything at every flush boundary and after
    // every mark come on top if they are more.
    uint64_t states = 1000;
    std::optional<State> only{};  // replay this one
    bool write_cache = true;      // of the disk that was recorded
    bool unmap_may_keep = false;  // an unmapped sector holds zeroes or what it held before, as the seed chooses
  };
  struct Totals {
    uint64_t states = 0;   // made and checked
    uint64_t cuts = 0;     // at so many different moments
    uint64_t flushes = 0;  // that completed in the recording
  };

  // `image` holds what the disk held when the recording began.
  CrashReplay(const CrashRecording& recording, CrashImage& image, Options options);

  // Makes one state after the other in the image and calls `check` for each; whatever `check` changes there is undone
  // after it. Ends early when `check` returns false. To be called once: the image ends with all that became durable.
  Totals run(const std::function<bool(const State&)>& check);

 private:
  struct Range {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  // An operation that was submitted and is not durable.
  struct Pending {
    uint32_t operation = 0;
    std::vector<Range> alive;  // the bytes of it, from its offset, that no durable write has replaced
  };
  // What was pending after some number of events; `image`, if not null, holds what was durable.
  struct Moment {
    size_t events = 0;
    std::vector<Pending> pending;  // in order of submission
    CrashImage* image = nullptr;
  };
  struct Chosen {
    uint32_t operation = 0;
    std::vector<Range> there;
  };

  static void supersede(Pending& pending, uint64_t operation_offset, Range by);
  void advance(Moment& moment) const;
  void complete(Moment& moment, uint32_t index) const;
  void flush(Moment& moment, const CrashRecording::Operation& flush) const;
  void make_durable(Moment& moment, uint32_t index) const;
  void apply(CrashImage& image, uint32_t index, const std::vector<Range>& ranges) const;
  std::vector<Chosen> choose(const Moment& moment, uint64_t choice) const;
  // True if this state differs from all that were planned.
  bool plan(const Moment& moment, uint64_t choice);
  void plan_boundaries();
  void plan_random();

  const CrashRecording& recording_;
  CrashImage& image_;
  const Options options_;
  std::vector<State> plan_;
  std::unordered_set<uint64_t> planned_;  // fingerprints of the states in plan_
};

}  // namespace diskengine
