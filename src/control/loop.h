// What every reconcile loop works with. A loop is level-triggered: it observes, compares with the database, takes one
// step per object, records each object's state with its reason, and comes back. Running it twice changes nothing.
//
// One thread runs all loops of one node. A loop function returns how many steps it took (0: nothing to do, or nothing
// that can be done now); an Error means that the data plane or the database could not be reached at all.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/result.h"
#include "control/dataplane/data_plane.h"
#include "control/environment.h"
#include "control/model.h"
#include "control/store/store.h"

namespace diskengine::control {

// How long the loops wait, and how the initiators they set up do.
struct LoopLimits {
  int64_t tick_ms = 1'000;            // between passes that found nothing to do
  int64_t leg_grace_ms = 3'000;       // a mirror is started without an in-sync replica only after this long
  int64_t fence_timeout_ms = 5'000;   // a former host's I/O is waited for that long; then the replica is not fenced yet
  int64_t max_backoff_ms = 2'000;     // between tries of a step that fails
  int64_t ctrlr_loss_timeout_s = -1;  // the initiator never gives a lost target up: a mirror may be waiting for it
  int64_t keep_alive_ms = 2'000;      // a target that vanished without a word is noticed after 1.5 times this
  int64_t reconnect_delay_s = 1;      // between its tries
  int64_t fast_io_fail_timeout_s = 1;  // I/O to a lost target fails, so the mirror goes on without it
};

// Spaces out the tries of steps that fail, per object. One thread.
class Backoff {
 public:
  explicit Backoff(int64_t max_ms) : max_ms_(max_ms) {}
  bool may_try(const std::string& object, int64_t now_ms) const;
  // The error of the last try, for the object's reason while it waits for the next one.
  const std::string& last_error(const std::string& object) const;
  void failed(const std::string& object, int64_t now_ms, std::string error);
  void succeeded(const std::string& object) { entries_.erase(object); }

 private:
  struct Entry {
    int64_t delay_ms = 0;
    int64_t retry_at_ms = 0;
    std::string error;
  };
  int64_t max_ms_;
  std::map<std::string, Entry> entries_;  // at most one per object of the node
};

// What a node's loops remember between passes; losing it costs time, never correctness.
struct LoopMemory {
  explicit LoopMemory(const LoopLimits& limits) : backoff(limits.max_backoff_ms) {}
  Backoff backoff;
  std::map<int64_t, int64_t> raid_waits_since_ms;  // attachment id -> when its mirror first lacked an in-sync replica
};

struct LoopContext {
  Store& store;
  DataPlane& data_plane;
  Environment& environment;
  const LoopLimits& limits;
  LoopMemory& memory;
  int64_t node_id;
};

Status make_status(std::string_view state, std::string reason = {});

// Runs one step on `object` unless its last failure was too recent; records the failure as the object's status.
// Returns 1 when the step was taken, else 0.
template <typename Step>
Result<int> take_step(LoopContext& context, Kind kind, int64_t id, const std::string& object, Step step) {
  const int64_t now_ms = context.environment.monotonic_ms();
  if (!context.memory.backoff.may_try(object, now_ms)) {
    TRY(context.store.set_status(kind, id, make_status(state::kWaiting, context.memory.backoff.last_error(object))));
    return 0;
  }
  Result<void> done = step();
  if (done) {
    context.memory.backoff.succeeded(object);
    return 1;
  }
  // A data plane that is gone is the node's trouble, not this object's.
  if (done.error().code() == Errc::unreachable) return std::move(done).error();
  const std::string error = done.error().message() + "; it is tried again";
  context.memory.backoff.failed(object, now_ms, error);
  TRY(context.store.set_status(kind, id, make_status(state::kWaiting, error)));
  return 0;
}

}  // namespace diskengine::control
