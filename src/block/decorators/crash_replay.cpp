#include "block/decorators/crash_replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace diskengine {
namespace {

using What = CrashRecording::What;

uint64_t mix(uint64_t a, uint64_t b) noexcept {
  Random random(a ^ (b * 0x9e3779b97f4a7c15));
  return random.next();
}

// A sector of an unmapped range keeps what it held.
bool keeps(uint64_t seed, uint64_t sector) noexcept { return (mix(seed, sector) & 1) != 0; }

bool reads_number(std::string_view text, auto& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string CrashReplay::State::to_string() const { return fmt::format("{}:{}", cut, choice); }

Result<CrashReplay::State> CrashReplay::State::parse(std::string_view text) {
  State state;
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos || !reads_number(text.substr(0, colon), state.cut) ||
      !reads_number(text.substr(colon + 1), state.choice))
    return Error(Errc::invalid_argument, fmt::format("'{}' is not a state: two numbers as in 57:1234", text));
  return state;
}

CrashReplay::CrashReplay(const CrashRecording& recording, CrashImage& image, Options options)
    : recording_(recording), image_(image), options_(options) {}

CrashReplay::Totals CrashReplay::run(const std::function<bool(const State&)>& check) {
  if (options_.only.has_value()) {
    plan_ = {*options_.only};
  } else {
    plan_boundaries();
    plan_random();
    std::sort(plan_.begin(), plan_.end());
  }
  Totals totals;
  for (const CrashRecording::Operation& operation : recording_.operations)
    totals.flushes += operation.op == Op::flush && operation.ok ? 1 : 0;
  Moment moment{.events = 0, .pending = {}, .image = &image_};
  size_t last_cut = CrashRecording::kNever;
  for (const State& state : plan_) {
    while (moment.events < state.cut && moment.events < recording_.events.size()) advance(moment);
    image_.begin_trial();
    for (const Chosen& chosen : choose(moment, state.choice)) apply(image_, chosen.operation, chosen.there);
    const bool go_on = check(state);
    image_.end_trial();
    totals.states += 1;
    totals.cuts += state.cut != last_cut ? 1 : 0;
    last_cut = state.cut;
    if (!go_on) return totals;
  }
  while (moment.events < recording_.events.size()) advance(moment);
  return totals;
}

void CrashReplay::advance(Moment& moment) const {
  const CrashRecording::Event& event = recording_.events[moment.events++];
  if (event.what == What::mark) return;
  const auto index = static_cast<uint32_t>(event.value);
  const CrashRecording::Operation& operation = recording_.operations[index];
  if (event.what == What::completed) {
    if (operation.op == Op::flush) {
      flush(moment, operation);
    } else {
      complete(moment, index);
    }
  } else if (operation.op != Op::flush) {
    moment.pending.push_back({.operation = index, .alive = {{.begin = 0, .end = operation.length}}});
  }
}

void CrashReplay::complete(Moment& moment, uint32_t index) const {
  const CrashRecording::Operation& operation = recording_.operations[index];
  if (operation.ok && (operation.fua || !options_.write_cache)) make_durable(moment, index);
}

void CrashReplay::flush(Moment& moment, const CrashRecording::Operation& flush) const {
  if (!flush.ok) return;
  std::vector<uint32_t> covered;
  for (const Pending& pending : moment.pending) {
    const CrashRecording::Operation& operation = recording_.operations[pending.operation];
    if (operation.ok && operation.completed < flush.submitted) covered.push_back(pending.operation);
  }
  std::sort(covered.begin(), covered.end(), [this](uint32_t a, uint32_t b) {
    return recording_.operations[a].completed < recording_.operations[b].completed;
  });
  for (const uint32_t index : covered) make_durable(moment, index);
}

// What is durable beats what completed before it, also where that was not flushed yet.
void CrashReplay::make_durable(Moment& moment, uint32_t index) const {
  const auto at = std::find_if(moment.pending.begin(), moment.pending.end(),
                               [&](const Pending& pending) { return pending.operation == index; });
  DE_ASSERT(at != moment.pending.end());
  const Pending durable = std::move(*at);
  moment.pending.erase(at);
  if (moment.image != nullptr) apply(*moment.image, index, durable.alive);
  const CrashRecording::Operation& operation = recording_.operations[index];
  for (Pending& other : moment.pending) {
    const CrashRecording::Operation& older = recording_.operations[other.operation];
    if (older.completed >= operation.completed) continue;
    for (const Range& range : durable.alive)
      supersede(other, older.offset, {.begin = operation.offset + range.begin, .end = operation.offset + range.end});
  }
}

void CrashReplay::supersede(Pending& pending, uint64_t operation_offset, Range by) {
  std::vector<Range> left;
  for (const Range& range : pending.alive) {
    const Range disk{.begin = operation_offset + range.begin, .end = operation_offset + range.end};
    if (by.begin >= disk.end || by.end <= disk.begin) {
      left.push_back(range);
      continue;
    }
    if (disk.begin < by.begin) left.push_back({.begin = range.begin, .end = by.begin - operation_offset});
    if (by.end < disk.end) left.push_back({.begin = by.end - operation_offset, .end = range.end});
  }
  pending.alive = std::move(left);
}

void CrashReplay::apply(CrashImage& image, uint32_t index, const std::vector<Range>& ranges) const {
  const CrashRecording::Operation& operation = recording_.operations[index];
  for (const Range& range : ranges) {
    const uint64_t begin = operation.offset + range.begin;
    if (operation.op == Op::write) {
      image.write(begin, operation.payload + range.begin, range.end - range.begin);
    } else if (operation.op == Op::unmap && options_.unmap_may_keep) {
      for (uint64_t at = begin; at < operation.offset + range.end; at += kSectorBytes)
        if (!keeps(mix(options_.seed, index), at)) image.zero(at, kSectorBytes);
    } else {
      image.zero(begin, range.end - range.begin);
    }
  }
}

namespace {

// Which sectors of a torn write are there: up to `ends`, as alternating runs, the first of which is there if `first`.
struct Tear {
  bool first = false;
  std::vector<uint64_t> ends;  // in sectors, ascending
};

Tear tear(Random& random, uint64_t sectors) {
  constexpr uint64_t kSectorsOneByOneMax = 256;
  Tear torn{.first = random.chance(1, 2), .ends = {}};
  switch (random.below(4)) {
    case 0:  // a beginning or an end
      torn.ends = {random.below(sectors)};
      break;
    case 1: {  // one sector is missing, or alone
      const uint64_t sector = random.below(sectors);
      torn.ends = {sector, sector + 1};
      break;
    }
    case 2: {  // a run
      const uint64_t a = random.below(sectors + 1), b = random.below(sectors + 1);
      torn.ends = {std::min(a, b), std::max(a, b)};
      break;
    }
    default: {  // any subset; of long ones the sectors go in groups
      const uint64_t group = 1 + sectors / kSectorsOneByOneMax;
      for (uint64_t at = 1 + random.below(group); at < sectors; at += 1 + random.below(2 * group - 1))
        if (random.chance(1, 2)) torn.ends.push_back(at);
    }
  }
  torn.ends.push_back(sectors);
  return torn;
}

// How much of the writes that are not durable a state has.
struct Mood {
  uint64_t whole_of_8 = 4;
  uint64_t torn_of_8 = 2;
  size_t special = SIZE_MAX;  // one write that is treated otherwise
  bool others_whole = false;  // with a special one: whether the others are there

  enum class Fate : uint8_t { absent, whole, torn };
  Fate fate(Random& random, size_t at) const {
    if (special != SIZE_MAX && at != special) return others_whole ? Fate::whole : Fate::absent;
    const uint64_t roll = random.below(8);
    return roll < whole_of_8 ? Fate::whole : roll < whole_of_8 + torn_of_8 ? Fate::torn : Fate::absent;
  }
};

Mood mood(Random& random, size_t writes) {
  switch (random.below(6)) {
    case 0:
      return {.whole_of_8 = 4, .torn_of_8 = 0};
    case 1:
      return {.whole_of_8 = 6, .torn_of_8 = 1};
    case 2:
      return {.whole_of_8 = 1, .torn_of_8 = 1};
    case 3:  // all but one
      return {.whole_of_8 = 0, .torn_of_8 = 5, .special = random.below(writes), .others_whole = true};
    case 4:  // one alone
      return {.whole_of_8 = 3, .torn_of_8 = 5, .special = random.below(writes), .others_whole = false};
    default:
      return {.whole_of_8 = 3, .torn_of_8 = 3};
  }
}

}  // namespace

std::vector<CrashReplay::Chosen> CrashReplay::choose(const Moment& moment, uint64_t choice) const {
  std::vector<Chosen> chosen;
  if (choice == kNothing || moment.pending.empty()) return chosen;
  Random random(choice);
  const Mood how = mood(random, moment.pending.size());
  for (size_t i = 0; i < moment.pending.size(); ++i) {
    const Pending& pending = moment.pending[i];
    const Mood::Fate fate = choice == kEverything ? Mood::Fate::whole : how.fate(random, i);
    if (fate == Mood::Fate::absent) continue;
    Chosen& now = chosen.emplace_back();
    now.operation = pending.operation;
    if (fate == Mood::Fate::whole) {
      now.there = pending.alive;
      continue;
    }
    const Tear torn = tear(random, recording_.operations[pending.operation].length / kSectorBytes);
    bool there = torn.first;
    uint64_t begin = 0;
    for (const uint64_t sectors : torn.ends) {
      const uint64_t end = sectors * kSectorBytes;
      for (const Range& alive : pending.alive)
        if (there && std::max(alive.begin, begin) < std::min(alive.end, end))
          now.there.push_back({.begin = std::max(alive.begin, begin), .end = std::min(alive.end, end)});
      begin = end;
      there = !there;
    }
  }
  // Of those to one place, the one that completed last has the last word; those in flight come after them.
  std::stable_sort(chosen.begin(), chosen.end(), [this](const Chosen& a, const Chosen& b) {
    return recording_.operations[a.operation].completed < recording_.operations[b.operation].completed;
  });
  return chosen;
}

bool CrashReplay::plan(const Moment& moment, uint64_t choice) {
  uint64_t fingerprint = mix(options_.seed, moment.events);
  for (const Chosen& chosen : choose(moment, choice))
    for (const Range& range : chosen.there)
      fingerprint = mix(fingerprint, mix(chosen.operation, mix(range.begin, range.end)));
  if (!planned_.insert(fingerprint).second) return false;
  plan_.push_back({.cut = moment.events, .choice = choice});
  return true;
}

void CrashReplay::plan_boundaries() {
  Moment moment;
  for (size_t cut = 0; cut <= recording_.events.size(); ++cut) {
    const auto flushes = [&](size_t at) {
      const CrashRecording::Event& event = recording_.events[at];
      return event.what == What::completed && recording_.operations[event.value].op == Op::flush;
    };
    const bool at_end = cut == recording_.events.size();
    const bool before = !at_end && flushes(cut);
    const bool after = cut > 0 && (flushes(cut - 1) || recording_.events[cut - 1].what == What::mark);
    if (cut == 0 || at_end || before || after) {
      plan(moment, kNothing);
      plan(moment, kEverything);
    }
    if (!at_end) advance(moment);
  }
}

// Each pass gives every moment its share; moments that have not so many different states leave theirs to later ones.
void CrashReplay::plan_random() {
  constexpr unsigned kPasses = 4;
  constexpr uint64_t kTriesPerState = 4;
  Random random(options_.seed);
  for (unsigned pass = 0; pass < kPasses && plan_.size() < options_.states; ++pass) {
    const size_t moments = recording_.events.size() + 1;
    Moment moment;
    for (size_t cut = 0; cut < moments; ++cut) {
      const uint64_t left = plan_.size() < options_.states ? options_.states - plan_.size() : 0;
      uint64_t share = left / (moments - cut);
      share += random.chance(left % (moments - cut), moments - cut) ? 1 : 0;
      uint64_t tries = moment.pending.empty() ? 0 : share * kTriesPerState;
      for (; share > 0 && tries > 0; --tries) share -= plan(moment, random.next() | 2) ? 1 : 0;
      if (cut + 1 < moments) advance(moment);
    }
  }
}

}  // namespace diskengine
