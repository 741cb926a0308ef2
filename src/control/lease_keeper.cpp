#include "control/lease_keeper.h"

#include "base/log.h"

namespace diskengine::control {

std::string shown_process(const std::string& identity) { return identity.substr(0, identity.find(';')); }

LeaseKeeper::LeaseKeeper(Store& store, Environment& environment)
    : store_(store), environment_(environment), identity_(environment.process_identity()) {}

Result<void> LeaseKeeper::renew(int64_t now_ms) {
  TRY_ASSIGN(const std::vector<NodeLease> held, store_.renew_node_leases(identity_));
  renewed_ms_ = now_ms;
  const std::lock_guard lock(mutex_);
  held_since_ms_.clear();
  for (const NodeLease& lease : held) held_since_ms_[lease.node_id] = now_ms;
  return {};
}

// Watches the lease; true when its owner is gone, or has not counted on for long enough.
bool LeaseKeeper::may_take(const NodeLease& lease, int64_t now_ms) {
  Watched& watched = watched_[lease.node_id];
  if (watched.lease != lease || now_ms - watched.read_ms > kReadGapMs)
    watched = {.lease = lease, .since_ms = now_ms, .read_ms = now_ms};
  watched.read_ms = now_ms;
  if (lease.owner.empty() || environment_.has_ended(lease.owner)) return true;
  return now_ms - watched.since_ms >= kTakeOverMs;
}

Result<bool> LeaseKeeper::tick(const std::vector<int64_t>& node_ids) {
  const int64_t now_ms = environment_.monotonic_ms();
  if (now_ms - renewed_ms_ >= kRenewMs) TRY(renew(now_ms));
  TRY_ASSIGN(const std::vector<NodeLease> leases, store_.node_leases());
  bool is_taken = false;
  for (const int64_t node_id : node_ids) {
    NodeLease lease{.node_id = node_id, .owner = {}, .number = 0, .beat = 0};
    for (const NodeLease& found : leases)
      if (found.node_id == node_id) lease = found;
    if (lease.owner == identity_) continue;
    bool is_mine = false;
    if (may_take(lease, now_ms)) {
      TRY_ASSIGN(is_mine, store_.take_node_lease(lease, identity_));
    }
    if (is_mine && !lease.owner.empty())
      LOG_WARN("control",
               "node {}: its loops were served by {}, which has ended or is cut off; they are served here now", node_id,
               shown_process(lease.owner));
    is_taken = is_taken || is_mine;
    const std::lock_guard lock(mutex_);
    others_[node_id] = is_mine ? std::string() : lease.owner;
    if (is_mine) held_since_ms_[node_id] = now_ms;
  }
  return is_taken;
}

void LeaseKeeper::give_back() {
  {
    const std::lock_guard lock(mutex_);
    held_since_ms_.clear();
  }
  const Result<void> given = store_.give_back_node_leases(identity_);
  if (!given) LOG_WARN("control", "the leases of this process end by themselves: {}", given.error().message());
}

bool LeaseKeeper::holds(int64_t node_id) const {
  const std::lock_guard lock(mutex_);
  const auto held = held_since_ms_.find(node_id);
  return held != held_since_ms_.end() && environment_.monotonic_ms() - held->second < kValidMs;
}

std::string LeaseKeeper::other_owner(int64_t node_id) const {
  const std::lock_guard lock(mutex_);
  const auto other = others_.find(node_id);
  return other == others_.end() ? std::string() : shown_process(other->second);
}

}  // namespace diskengine::control
