#include "control/baremetal/raid_watcher.h"

#include "base/log.h"
#include "control/baremetal/exclusions.h"

namespace diskengine::control {
namespace {

constexpr int kRpcTimeoutMs = 5'000;  // for one call, RaidWatcher::kWaitMs of waiting included

}  // namespace

RaidWatcher::RaidWatcher(Store& store, Environment& environment, const std::string& rpc_socket,
                         std::function<void()> on_change)
    : store_(store),
      environment_(environment),
      data_plane_(client::JsonRpcClient({.socket_path = rpc_socket, .timeout_ms = kRpcTimeoutMs})),
      on_change_(std::move(on_change)) {}

void RaidWatcher::run(const std::atomic<bool>& is_stopping) {
  while (!is_stopping) {
    const Result<bool> waited = round();
    if (waited && *waited) continue;
    if (!waited) is_able_ = false;  // it may come back as another program
    environment_.pause_ms(kPauseMs);
  }
}

Result<bool> RaidWatcher::round() {
  if (!is_able_) {
    TRY_ASSIGN(const Abilities abilities, data_plane_.abilities());
    if (!abilities.holds_writes) return false;
    is_able_ = true;
  }
  TRY_ASSIGN(const RaidEvents events, data_plane_.wait_raid_events(after_, is_pending_ ? 0 : kWaitMs));
  const bool is_new = events.is_lost || events.instance != instance_;
  instance_ = events.instance;
  after_ = events.last_id;
  if (!is_new && events.exclusions.empty() && !is_pending_) return true;

  is_pending_ = true;  // until it was seen that nothing waits
  TRY_ASSIGN(const std::vector<RaidView> raids, data_plane_.raids());
  TRY_ASSIGN(const ExclusionOutcome outcome, settle_exclusions(store_, data_plane_, raids));
  is_pending_ = outcome.pending > 0;
  if (outcome.trouble != told_ && is_pending_) LOG_WARN("control", "{}", outcome.trouble);
  told_ = outcome.trouble;
  if (outcome.steps > 0) on_change_();
  return !is_pending_;
}

}  // namespace diskengine::control
