// One agent for each node: this process's leases on the nodes that it serves (NodeLease). It renews those it has, and
// takes one that nobody has, whose owner is seen to have ended, or that did not count on for kTakeOverMs.
//
// No clock is compared with another: the owner stops by its own monotonic time since it began its last renewal that
// succeeded, kValidMs; whoever takes over has watched the same count for longer than that by its own. A jump of the
// clock changes nothing. While the database is away nobody renews, and nobody takes over either: the time in which it
// could not be read does not count.
//
// tick() and give_back() on one thread; the rest on any.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "control/environment.h"
#include "control/store/store.h"

namespace diskengine::control {

class LeaseKeeper {
 public:
  static constexpr int64_t kRenewMs = 1'000;
  static constexpr int64_t kValidMs = 3'000;
  static constexpr int64_t kTakeOverMs = 5'000;
  static constexpr int64_t kReadGapMs = 2'500;  // between two reads, beyond which watching begins anew

  LeaseKeeper(Store& store, Environment& environment);

  // Renews when it is time, and takes what is free of `node_ids`. True if one was taken.
  Result<bool> tick(const std::vector<int64_t>& node_ids);
  // At the end: the next process need not wait.
  void give_back();

  // This process may run the node's loops now.
  bool holds(int64_t node_id) const;
  // Who does instead, for people; empty when nobody is known to.
  std::string other_owner(int64_t node_id) const;

 private:
  struct Watched {
    NodeLease lease;
    int64_t since_ms = 0;  // it was first read so
    int64_t read_ms = 0;   // and last
  };

  Result<void> renew(int64_t now_ms);
  bool may_take(const NodeLease& lease, int64_t now_ms);

  Store& store_;
  Environment& environment_;
  const std::string identity_;
  int64_t renewed_ms_ = -kRenewMs;
  std::map<int64_t, Watched> watched_;

  mutable std::mutex mutex_;
  std::map<int64_t, int64_t> held_since_ms_;  // node -> when its last renewal that succeeded began; under mutex_
  std::map<int64_t, std::string> others_;     // node -> owner; under mutex_
};

// The part of a process identity that people know it by.
std::string shown_process(const std::string& identity);

}  // namespace diskengine::control
