// What a lvol may hold after a power cut, for the crash tests: every write there ever was, with the moments of its
// submission and its completion, and every property with the operation that changed it. A Moment orders what the test
// saw: its upper part counts the events of a recording (block/decorators/crash.h) so far, its lower part what the test
// did meanwhile. A cut at `c` means that the events before number c have happened.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/uuid.h"

namespace diskengine::lvol {

using Moment = int64_t;
inline constexpr Moment kNotYet = INT64_MAX;
inline constexpr Moment kBeforeAll = -1;  // what was durable when the recording began
constexpr Moment moment(uint64_t events, uint64_t serial) noexcept {
  return static_cast<Moment>(events << 32 | serial);
}
// Number of events that had happened.
constexpr int64_t events_at(Moment when) noexcept { return when >> 32; }

// The time of an operation.
struct Span {
  Moment begin = kNotYet;
  Moment end = kNotYet;
  bool acknowledged(int64_t cut) const noexcept { return events_at(end) <= cut; }
  // What took no event of the disk may have been acknowledged before the next one.
  bool may_show(int64_t cut) const noexcept { return events_at(begin) < cut || acknowledged(cut); }
};

// A property that operations change one after the other.
template <typename T>
class Versions {
 public:
  explicit Versions(T first) : versions_{{std::move(first), {kBeforeAll, kBeforeAll}}} {}
  // Returns its number, for end().
  size_t begin(T value, Moment now) {
    versions_.push_back({std::move(value), {.begin = now}});
    return versions_.size() - 1;
  }
  void end(size_t number, Moment now) { versions_[number].when.end = now; }
  const T& latest() const { return versions_.back().value; }
  bool allows(const T& value, int64_t cut) const {
    bool allowed = false;
    for (const Version& version : versions_) {
      if (version.when.acknowledged(cut)) allowed = false;
      if (version.when.may_show(cut) && version.value == value) allowed = true;
    }
    return allowed;
  }

 private:
  struct Version {
    T value;
    Span when;
  };
  std::vector<Version> versions_;
};

// One lvol. Its content is its own changes over what it began as: `initial`, or what `base` was at the moment when this
// one was created from it.
class Tracked {
 public:
  struct Change {
    uint64_t first = 0;  // sector
    uint64_t count = 0;
    uint64_t stamp = 0;
    Span when;
    bool fua = false;
    bool may_keep = false;  // an unmap: nobody can rely on its zeroes, nor on what was there before it
    bool ok = false;
  };

  Tracked(std::string with_name, const Uuid& with_uuid, uint64_t sectors, Span when, const Tracked* over = nullptr)
      : uuid(with_uuid), created(when), name(std::move(with_name)), size(sectors), parent(""), base(over) {}

  size_t begin_change(Change change) {
    for (uint64_t i = change.first; i < change.first + change.count; ++i) by_sector_[i].push_back(changes_.size());
    changes_.push_back(change);
    return changes_.size() - 1;
  }
  void end_change(size_t number, Moment now, bool ok) {
    changes_[number].when.end = now;
    changes_[number].ok = ok;
  }
  void flushed(Span when) { flushes_.push_back(when); }
  bool may_exist(int64_t cut) const { return created.may_show(cut) && !removed.acknowledged(cut); }
  bool must_exist(int64_t cut) const { return created.acknowledged(cut) && !removed.may_show(cut); }

  // Whether a sector may hold `stamp` after a cut.
  bool allows(uint64_t sector, uint64_t stamp, int64_t cut, bool write_cache) const {
    return allows(sector, stamp, {.at = cut, .write_cache = write_cache, .until = kNotYet, .settled = kNotYet});
  }
  // Whether a read that was under way during `read` may find `stamp`, without a cut.
  bool reads_as(uint64_t sector, uint64_t stamp, Span read) const {
    return allows(sector, stamp,
                  {.at = events_at(kNotYet), .write_cache = false, .until = read.end, .settled = read.begin});
  }
  // Sectors that something was ever written to, here or where this one comes from.
  void collect_sectors(std::map<uint64_t, bool>& into) const {
    for (const auto& entry : by_sector_) into[entry.first] = true;
    for (const auto& entry : initial) into[entry.first] = true;
    if (base != nullptr) base->collect_sectors(into);
  }
  std::string describe(uint64_t sector) const;

  Uuid uuid;
  bool read_only = false;
  Span created;
  Span removed;
  Versions<std::string> name;
  Versions<uint64_t> size;       // in sectors
  Versions<std::string> parent;  // name of the snapshot, "" for none
  uint64_t size_limit = 0;       // sectors that stay whatever the shrinking under way comes to; 0: all
  const Tracked* base = nullptr;
  const Tracked* snapshot_of = nullptr;  // which became its clone in the same operation
  std::map<uint64_t, uint64_t> initial;  // sector -> stamp; others hold zeroes

 private:
  struct Question {
    int64_t at = 0;  // the cut
    bool write_cache = true;
    Moment until = kNotYet;    // changes submitted from here on do not show
    Moment settled = kNotYet;  // only changes that ended by then rule older ones out
  };
  bool durable(const Change& change, const Question& question) const {
    if (!change.ok || change.may_keep || !change.when.acknowledged(question.at)) return false;
    if (change.when.end > question.settled) return false;
    if (change.fua || !question.write_cache) return true;
    for (const Span& flush : flushes_)
      if (flush.begin >= change.when.end && flush.acknowledged(question.at)) return true;
    return false;
  }
  bool allows(uint64_t sector, uint64_t stamp, const Question& question) const {
    Moment newest_durable = INT64_MIN;  // the latest submission of one that is durable
    bool hidden = false;
    const auto found = by_sector_.find(sector);
    static const std::vector<size_t> kNone;
    const std::vector<size_t>& changes = found == by_sector_.end() ? kNone : found->second;
    for (const size_t number : changes) {
      if (!durable(changes_[number], question)) continue;
      newest_durable = std::max(newest_durable, changes_[number].when.begin);
      hidden = true;
    }
    for (const size_t number : changes) {
      const Change& change = changes_[number];
      if (!change.when.may_show(question.at) || change.when.begin >= question.until) continue;
      const bool ruled_out = change.when.end != kNotYet && change.when.end <= newest_durable;
      if (change.stamp == stamp && !ruled_out) return true;
    }
    if (hidden) return false;
    if (base != nullptr) {
      Question before = question;
      before.until = std::min(question.until, created.end);
      before.settled = std::min(question.settled, created.begin);
      return base->allows(sector, stamp, before);
    }
    const auto first = initial.find(sector);
    return stamp == (first == initial.end() ? 0 : first->second);
  }

  std::vector<Change> changes_;
  std::map<uint64_t, std::vector<size_t>> by_sector_;
  std::vector<Span> flushes_;
};

// For a failure's message: what happened to a sector last.
inline std::string Tracked::describe(uint64_t sector) const {
  constexpr size_t kShown = 12;
  const auto text_of = [](Moment when) { return when == kNotYet ? std::string() : std::to_string(events_at(when)); };
  const auto text_of_span = [&](const Span& span) { return "[" + text_of(span.begin) + "," + text_of(span.end) + "]"; };
  std::string text = name.latest() + " sector " + std::to_string(sector) + ", written as:";
  const auto found = by_sector_.find(sector);
  const size_t count = found == by_sector_.end() ? 0 : found->second.size();
  for (size_t i = count > kShown ? count - kShown : 0; i < count; ++i) {
    const Change& change = changes_[found->second[i]];
    text += " " + std::to_string(change.stamp) + (change.may_keep ? "(unmap)" : "") + (change.fua ? "(fua)" : "") +
            text_of_span(change.when) + (change.ok ? "" : "?");
  }
  text += "; flushed:";
  for (size_t i = flushes_.size() > kShown ? flushes_.size() - kShown : 0; i < flushes_.size(); ++i)
    text += " " + text_of_span(flushes_[i]);
  const auto first = initial.find(sector);
  text += "; at first " + std::to_string(first == initial.end() ? 0 : first->second);
  return base == nullptr ? text : text + "; over " + base->describe(sector);
}

}  // namespace diskengine::lvol
