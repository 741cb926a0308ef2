// What a volume has to tell whoever keeps the record of its legs, in order, pushed: a caller waits for the next event
// (wait) instead of asking again and again. Everything that an event says can also be read from the volume's
// description, so a caller that missed some starts anew from there.
//
// Threads: the main reactor. Owner: RaidManager, which closes it before it goes.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/uuid.h"
#include "runtime/task.h"

namespace diskengine::raid {

enum class EventType : uint8_t {
  exclusion_wanted,  // a leg failed: writes wait until its exclusion is confirmed under the event's epoch
  excluded,          // the leg is out, on every reactor
  in_sync,           // a leg holds everything and is read from
  fenced,            // the volume's writer was stopped for good
  cache_lost,        // the leg may lack writes that were acknowledged and not flushed
  stopped,           // so may every leg: the volume waits until it is told to go on
  resumed,           // it was told
  waiting,           // no leg to read from can be reached: I/O waits
  gave_up,           // that lasted too long: I/O fails
  reached,           // a leg can be reached again: I/O goes on
  repair_failed,     // the leg cannot read what was rewritten on it
  legs_differ,       // a scrub found blocks in which legs in sync differ
  scrub_ended,       // a scrub is done, or was stopped
};
std::string_view name_of(EventType type) noexcept;

struct Event {
  uint64_t id = 0;  // one higher than the one before; set by add()
  EventType type = EventType::excluded;
  std::string volume;
  Uuid volume_uuid;
  uint64_t epoch = 0;  // 0: the volume was given none
  unsigned slot = 0;
  std::string leg;  // name of the device; empty if the event is of the whole volume
  Uuid leg_uuid;
  std::string reason;
};

class RaidEvents {
 public:
  static constexpr size_t kEventsMax = 1024;  // kept; the oldest go
  static constexpr size_t kWaitersMax = 64;
  static constexpr uint64_t kWaitMaxNs = 60'000'000'000;

  struct Batch {
    uint64_t instance = 0;  // of this process: another one means that ids began anew
    uint64_t last_id = 0;   // to wait after
    bool lost = false;      // events after the asked one are gone: read the volumes' descriptions
    std::vector<Event> events;
  };

  // `instance` is a random number.
  RaidEvents(Reactor& main, uint64_t instance) : main_(main), instance_(instance) {}
  ~RaidEvents() { DE_ASSERT(waiters_.empty()); }

  void add(Event event);
  // The events after id `after` (0: all that are kept); waits for one, at most `wait_ns`, if there is none yet. An id
  // that was never given out is taken as 0: the caller knows another process. Errc::busy: too many wait already;
  // Errc::canceled: closed.
  Task<Result<Batch>> wait(uint64_t after, uint64_t wait_ns);
  // Ends every wait, and refuses new ones.
  void close();

 private:
  void wake();
  Batch batch_after(uint64_t after) const;

  Reactor& main_;
  uint64_t instance_;
  uint64_t last_id_ = 0;
  std::deque<Event> events_;
  std::vector<OneShot<bool>*> waiters_;
  bool closed_ = false;
};

}  // namespace diskengine::raid
