// What the compute node's data plane shows: vhost and the mirror.
#include <fmt/format.h>

#include <algorithm>

#include "control/diagnose/rpc_command.h"
#include "control/diagnose/rules.h"

namespace diskengine::control {
namespace {

std::string vhost_command(const ExpectedPath& path) {
  return rpc_command(path.compute_node, "vhost_get_controllers", {{"name", path.vhost}});
}

std::string raid_command(const ExpectedPath& path) {
  return rpc_command(path.compute_node, "bdev_raid_get_bdevs", {{"category", "all"}});
}

Cause vhost_cause(const Facts& facts, std::string code, Certainty certainty, std::string summary) {
  return {.layer = "vhost",
          .code = std::move(code),
          .node = facts.path.compute_node,
          .object = facts.path.vhost,
          .certainty = certainty,
          .impact = Impact::outage,
          .summary = std::move(summary),
          .evidence = {},
          .next = vhost_command(facts.path)};
}

Cause raid_cause(const Facts& facts, std::string code, Certainty certainty, std::string summary) {
  return {.layer = "raid",
          .code = std::move(code),
          .node = facts.path.compute_node,
          .object = facts.path.raid,
          .certainty = certainty,
          .impact = Impact::outage,
          .summary = std::move(summary),
          .evidence = {},
          .next = raid_command(facts.path)};
}

// No leg that has the current data: nothing is lost, and nothing moves.
void add_standstill_causes(const Facts& facts, std::vector<Cause>* causes) {
  const RaidFacts& raid = facts.raid;
  if (raid.stopped) {
    Cause cause =
        raid_cause(facts, "mirror-stopped", Certainty::certain,
                   "the mirror stopped: every replica may have lost writes that were acknowledged and not yet "
                   "flushed, and the guest waits to be told");
    cause.evidence = {"the mirror says `stopped`: " + raid.reason,
                      "a person decides: restart the VM from what is flushed, or let it go on with what the legs hold"};
    cause.next = fmt::format("diskengine volume resume {}", facts.path.volume);
    causes->push_back(std::move(cause));
  }
  if (raid.waiting) {
    Cause cause = raid_cause(
        facts, "mirror-waiting", Certainty::certain,
        raid.gave_up ? "no replica with the current data could be reached in time: I/O fails until one is back"
                     : "the guest's I/O waits for a replica with the current data: none can be reached");
    cause.evidence = {
        fmt::format("the mirror says `waiting`: for {:.1f} s, {}", static_cast<double>(raid.waited_ms) / 1000,
                    raid.wait_limit_s == 0 ? std::string("and it may not wait")
                                           : fmt::format("at most {} s", raid.wait_limit_s)),
        "it goes on by itself once one of them is back; what keeps them away is the matter"};
    cause.next = fmt::format("diskengine volume checklist {}", facts.path.volume);
    causes->push_back(std::move(cause));
  }
}

bool is_made_in_order(const Facts& facts) { return facts.path.attachment_state != "ready"; }

void add_queue_causes(const Facts& facts, const QueueFacts& queue, std::vector<Cause>* causes) {
  const std::string name = fmt::format("{} queue {}", facts.path.vhost, queue.index);
  if (queue.broken) {
    Cause cause = vhost_cause(facts, "queue-broken", Certainty::certain,
                              name + " was stopped: the guest's driver wrote nonsense into its ring");
    cause.next = "reset the disk in the VM (restart it); the data plane's log says what was wrong";
    causes->push_back(std::move(cause));
    return;
  }
  const bool moves = queue.completed > 0;
  if (queue.unseen > 0 && !moves) {
    Cause cause = vhost_cause(facts, "completion-not-seen", Certainty::likely,
                              "the I/O is complete and the guest does not know: a completion without an interrupt");
    cause.evidence = {
        fmt::format("{}: {} completions are in the used ring and the guest has not looked at them; it was notified {} "
                    "times; nothing moved for {} ms",
                    name, queue.unseen, queue.notified, facts.window_ms),
        queue.inflight == 0
            ? std::string("nothing of it is under way below vhost: the storage is not what it waits for")
            : fmt::format("{} further requests are under way", queue.inflight)};
    cause.next = "look at the VM, not at the storage: is its vCPU running, does its interrupt reach it? " +
                 vhost_command(facts.path);
    causes->push_back(std::move(cause));
  }
  if (queue.waiting > 0 && !moves && queue.inflight == 0) {
    Cause cause = vhost_cause(facts, "requests-not-taken", Certainty::likely,
                              "requests wait in the guest's ring and vhost does not take them: a kick was missed");
    cause.evidence = {fmt::format("{}: {} requests waited through {} ms", name, queue.waiting, facts.window_ms)};
    cause.next = rpc_command(facts.path.compute_node, "thread_get_pollers", {});
    causes->push_back(std::move(cause));
  }
}

}  // namespace

bool is_stuck(const Facts& facts) { return stands_still(facts.raid.flow); }

bool stands_still(const Flow& flow) { return flow.oldest_us >= kStuckUs && flow.completed == 0; }

bool is_saturated(const Facts& facts, const std::string& node) {
  const NodeFacts* found = facts.node(node);
  return found != nullptr && found->busiest_share >= kSaturatedShare;
}

std::string describe(const ReplicaFacts& replica) {
  return fmt::format("replica {} on {}", replica.expected.id, replica.expected.node);
}

void add_vhost_causes(const Facts& facts, std::vector<Cause>* causes) {
  if (!facts.path.attached || !facts.answers(facts.path.compute_node)) return;
  const VhostFacts& vhost = facts.vhost;
  if (!vhost.exists) {
    const bool is_early = is_made_in_order(facts);
    Cause cause = vhost_cause(
        facts, "controller-missing", is_early ? Certainty::possible : Certainty::certain,
        is_early ? fmt::format("{} does not exist yet: the control plane makes it last", facts.path.vhost)
                 : fmt::format("{} is gone: the VM's disk has nothing behind its socket", facts.path.vhost));
    cause.evidence = {fmt::format("vhost_get_controllers knows no {}; the attachment is {}", facts.path.vhost,
                                  facts.path.attachment_state)};
    causes->push_back(std::move(cause));
    return;
  }
  // Without a mirror there is nothing that could be behind it.
  if (vhost.tells_bdev && vhost.bdev != facts.path.raid && facts.raid.exists) {
    Cause cause =
        vhost_cause(facts, "bdev-lost", Certainty::certain,
                    fmt::format("{} has lost its bdev {}: the guest's I/O fails", facts.path.vhost, facts.path.raid));
    cause.evidence = {fmt::format("behind it is {}", vhost.bdev.empty() ? "nothing" : vhost.bdev)};
    causes->push_back(std::move(cause));
  }
  if (vhost.tells_sessions && !vhost.connected) {
    Cause cause =
        vhost_cause(facts, "no-front-end", Certainty::likely,
                    "no VM is connected to the disk's socket: it is off, or was started before the disk was ready");
    cause.layer = "guest";
    cause.evidence = {fmt::format("{} has no session", facts.path.vhost)};
    cause.next =
        fmt::format("look at the VM: is it running, with {}? `diskengine attachment show {}` prints its settings",
                    facts.path.socket, facts.path.volume);
    causes->push_back(std::move(cause));
  }
  for (const QueueFacts& queue : vhost.queues) add_queue_causes(facts, queue, causes);
}

void add_raid_causes(const Facts& facts, std::vector<Cause>* causes) {
  if (!facts.path.attached || !facts.answers(facts.path.compute_node)) return;
  const RaidFacts& raid = facts.raid;
  if (!raid.exists) {
    Cause cause =
        raid_cause(facts, "mirror-missing", is_made_in_order(facts) ? Certainty::possible : Certainty::certain,
                   fmt::format("the mirror {} does not exist", facts.path.raid));
    cause.evidence = {fmt::format("bdev_raid_get_bdevs knows no {}; the attachment is {}", facts.path.raid,
                                  facts.path.attachment_state)};
    causes->push_back(std::move(cause));
    return;
  }
  if (raid.fenced) {
    Cause cause = raid_cause(facts, "writer-fenced", Certainty::certain,
                             "the mirror's writer was stopped for good: a later epoch began");
    cause.evidence = {"the mirror says `fenced`"};
    cause.next = fmt::format("diskengine attachment show {}", facts.path.volume);
    causes->push_back(std::move(cause));
  }
  add_standstill_causes(facts, causes);
  if (raid.state != "online") {
    Cause cause = raid_cause(facts, "mirror-offline", Certainty::likely,
                             fmt::format("the mirror {} is {}, not online", facts.path.raid, raid.state));
    cause.evidence = {"state " + raid.state};
    causes->push_back(std::move(cause));
  }
  if (raid.held_writes > 0 && !raid.exclusions_wanted.empty()) {
    Cause cause = raid_cause(facts, "writes-held", is_stuck(facts) ? Certainty::certain : Certainty::likely,
                             "writes wait until the exclusion of a failed leg is on record: the control plane or its "
                             "database does not answer");
    cause.evidence = {fmt::format("{} writes are held; {}", raid.held_writes, raid.exclusions_wanted)};
    cause.next = "diskengine status";
    causes->push_back(std::move(cause));
  }
  if (!raid.rebuild_target.empty()) {
    Cause cause =
        raid_cause(facts, "rebuilding", Certainty::certain,
                   fmt::format("a rebuild runs: {} is filled, {} %", raid.rebuild_target, raid.rebuild_percent));
    cause.impact = Impact::redundancy;
    cause.evidence = {"an online mirror; one replica does not have the current data yet"};
    cause.next = fmt::format("diskengine attachment wait {} --for ready", facts.path.volume);
    causes->push_back(std::move(cause));
  }
}

}  // namespace diskengine::control
