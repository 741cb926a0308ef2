// diagnose() on facts made by hand: each of the misleading symptoms, and what must not be taken for one.
#include "control/diagnose/diagnose.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace diskengine::control {
namespace {

constexpr const char* kHost = "nqn.2026-01.io.diskengine:host:1:1";

ExpectedReplica expected_replica(int64_t id, const std::string& node) {
  ExpectedReplica replica;
  replica.id = id;
  replica.node = node;
  replica.disk_id = id;
  replica.disk_bdev = "NvmeDisk" + std::to_string(id) + "n1";
  replica.store = "lvs_" + node;
  replica.lvol = "lvol-uuid-" + node;
  replica.nqn = "nqn-" + node;
  replica.controller = "replica-" + node;
  replica.base_bdev = "replica-" + node + "n1";
  replica.in_sync = true;
  replica.state = "ready";
  return replica;
}

Flow moving(double mean_us) {
  return {.exists = true,
          .completed = 1000,
          .errors = 0,
          .total_errors = 0,
          .mean_us = mean_us,
          .outstanding = 1,
          .oldest_us = 90};
}

NodeFacts node(const std::string& name, const std::string& role) {
  NodeFacts facts;
  facts.expected.name = name;
  facts.expected.role = role;
  facts.expected.rpc_socket = "/run/" + name + ".sock";
  facts.expected.state = "ready";
  facts.reach = {Reach::answers, "", "diskengine"};
  facts.seen_age_ms = 2'000;
  facts.busiest_share = 0.3;
  facts.busiest_name = "core 0";
  facts.ages_known = true;
  return facts;
}

ReplicaFacts sound_replica(int64_t id, const std::string& name) {
  ReplicaFacts replica;
  replica.expected = expected_replica(id, name);
  replica.leg.in_mirror = true;
  replica.leg.state = "in_sync";
  replica.leg.controller = true;
  replica.leg.controller_state = "enabled";
  replica.leg.host_nqn = kHost;
  replica.leg.paths = 1;
  replica.leg.base = moving(200);
  ExportFacts& exported = replica.exported;
  exported.transport = exported.subsystem = exported.listener = exported.admitted = exported.connected = true;
  exported.namespaces = replica.expected.lvol;
  exported.ns_is_lvol = true;
  exported.store = true;
  exported.free_clusters = 900;
  exported.total_clusters = 1000;
  exported.lvol = moving(80);
  exported.disk = moving(60);
  return replica;
}

// An attached volume with two replicas, through which I/O moves.
Facts sound() {
  Facts facts;
  facts.window_ms = 1'000;
  facts.path.volume = "data";
  facts.path.raid = "raid_1";
  facts.path.epoch = facts.path.attachment_epoch = 1;
  facts.path.attached = true;
  facts.path.attachment_id = 1;
  facts.path.compute_node = "c1";
  facts.path.vhost = "vhost1";
  facts.path.host_nqn = kHost;
  facts.path.attachment_state = "ready";
  facts.nodes = {node("c1", "baremetal"), node("s1", "storagenode"), node("s2", "storagenode")};
  facts.vhost = {
      .exists = true, .tells_bdev = true, .bdev = "raid_1", .connected = true, .tells_sessions = true, .queues = {}};
  facts.vhost.queues.push_back(
      {.index = 0, .inflight = 1, .waiting = 0, .unseen = 0, .completed = 1000, .notified = 900, .broken = false});
  facts.raid.exists = true;
  facts.raid.state = "online";
  facts.raid.flow = moving(250);
  facts.replicas = {sound_replica(1, "s1"), sound_replica(2, "s2")};
  for (const ReplicaFacts& replica : facts.replicas) facts.path.replicas.push_back(replica.expected);
  return facts;
}

void stand_still(Flow* flow) {
  flow->completed = 0;
  flow->mean_us = 0;
  flow->outstanding = 4;
  flow->oldest_us = 4'000'000;
}

void stop_moving(Flow* flow) { *flow = {.exists = true}; }

std::string first(const Diagnosis& diagnosis) {
  if (diagnosis.causes.empty()) return "none";
  const Cause& cause = diagnosis.causes.front();
  return cause.layer + "/" + cause.code + "@" + cause.node + " " + std::string(name_of(cause.certainty));
}

bool names(const Diagnosis& diagnosis, const std::string& code) {
  return std::any_of(diagnosis.causes.begin(), diagnosis.causes.end(),
                     [&](const Cause& cause) { return cause.code == code; });
}

TEST(Diagnose, a_sound_path_has_no_cause_and_every_layer_is_ok) {
  const Diagnosis diagnosis = diagnose(sound());
  EXPECT_EQ(first(diagnosis), "none");
  EXPECT_TRUE(diagnosis.graph_exists);
  for (const LayerReport& layer : diagnosis.layers) EXPECT_EQ(layer.state, LayerState::ok) << layer.layer << layer.text;
}

TEST(Diagnose, a_completion_without_its_interrupt_is_not_blamed_on_the_storage) {
  Facts facts = sound();
  stop_moving(&facts.raid.flow);
  for (ReplicaFacts& replica : facts.replicas)
    for (Flow* flow : {&replica.leg.base, &replica.exported.lvol, &replica.exported.disk}) stop_moving(flow);
  facts.vhost.queues[0] = {
      .index = 0, .inflight = 0, .waiting = 0, .unseen = 4, .completed = 0, .notified = 77, .broken = false};
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "vhost/completion-not-seen@c1 likely");
  EXPECT_EQ(diagnosis.causes.size(), 1u);
  facts.vhost.queues[0].completed = 1;
  EXPECT_FALSE(names(diagnose(facts), "completion-not-seen")) << "it moves: the guest only has not looked yet";
}

TEST(Diagnose, an_online_mirror_does_not_hide_a_bad_replica) {
  Facts facts = sound();
  facts.replicas[1].leg.in_mirror = false;
  facts.replicas[1].leg.reason = "write error";
  EXPECT_EQ(first(diagnose(facts)), "raid/leg-out@c1 certain");
  facts.replicas[1].exported.disk.errors = 3;
  const Diagnosis deeper = diagnose(facts);
  EXPECT_EQ(first(deeper), "disk/disk-errors@s2 certain");
  EXPECT_FALSE(names(deeper, "leg-out")) << "that follows from it";
}

TEST(Diagnose, an_enabled_controller_with_a_dead_path_is_the_network_if_the_other_end_is_well) {
  Facts facts = sound();
  stand_still(&facts.raid.flow);
  stand_still(&facts.replicas[0].leg.base);
  stop_moving(&facts.replicas[0].exported.lvol);
  stop_moving(&facts.replicas[0].exported.disk);
  EXPECT_EQ(first(diagnose(facts)), "network/path-dead@c1 likely");
  facts.nodes[1].reach = {Reach::silent, "timed out", ""};
  EXPECT_EQ(first(diagnose(facts)), "target/data-plane-silent@s1 likely");
  facts.nodes[1].reach = {Reach::elsewhere, "on another machine", ""};
  EXPECT_EQ(first(diagnose(facts)), "network/path-dead@c1 possible") << "nobody has looked at the other end";
}

TEST(Diagnose, a_lvol_that_is_not_exported_is_no_network_trouble) {
  Facts facts = sound();
  facts.replicas[0].exported.subsystem = facts.replicas[0].exported.listener = false;
  facts.replicas[0].exported.admitted = facts.replicas[0].exported.ns_is_lvol = false;
  facts.replicas[0].exported.namespaces.clear();
  facts.replicas[0].leg.controller_state = "reconnect_is_delayed";
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "target/not-exported@s1 certain");
  EXPECT_FALSE(diagnosis.graph_exists);
  EXPECT_FALSE(names(diagnosis, "path-down"));
}

TEST(Diagnose, a_healthy_disk_does_not_prove_its_export) {
  Facts facts = sound();
  facts.replicas[0].exported.listener = false;
  EXPECT_EQ(first(diagnose(facts)), "target/listener-missing@s1 certain");
  facts = sound();
  facts.replicas[0].exported.admitted = false;
  EXPECT_EQ(first(diagnose(facts)), "target/host-not-admitted@s1 certain");
  facts = sound();
  facts.replicas[0].exported.ns_is_lvol = false;
  facts.replicas[0].exported.namespaces = "other";
  EXPECT_EQ(first(diagnose(facts)), "target/namespace-wrong@s1 certain");
}

TEST(Diagnose, a_vm_that_was_started_before_its_disk_is_told_to_wait) {
  Facts facts = sound();
  facts.path.attachment_state = "waiting";
  facts.path.attachment_reason = "its replicas are not connected yet";
  facts.vhost = {};
  facts.raid = {};
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "control-plane/not-ready@c1 likely");
  EXPECT_FALSE(diagnosis.graph_exists);
  EXPECT_NE(diagnosis.headline.find("control plane"), std::string::npos);
}

TEST(Diagnose, the_deepest_device_that_holds_requests_is_where_they_wait) {
  Facts facts = sound();
  for (Flow* flow : {&facts.raid.flow, &facts.replicas[0].leg.base, &facts.replicas[0].exported.lvol})
    stand_still(flow);
  stop_moving(&facts.replicas[0].exported.disk);
  EXPECT_EQ(first(diagnose(facts)), "lvol/lvol-stuck@s1 likely");
  stand_still(&facts.replicas[0].exported.disk);
  EXPECT_EQ(first(diagnose(facts)), "disk/disk-stuck@s1 certain");
  facts = sound();
  for (Flow* flow : {&facts.raid.flow, &facts.replicas[0].leg.base, &facts.replicas[0].exported.lvol})
    stand_still(flow);
  facts.replicas[0].exported.free_clusters = 0;
  EXPECT_EQ(first(diagnose(facts)), "lvol/store-full@s1 certain");
}

TEST(Diagnose, what_waits_on_a_saturated_reactor_is_not_stuck_in_its_device) {
  Facts facts = sound();
  for (Flow* flow : {&facts.replicas[0].exported.lvol, &facts.replicas[0].exported.disk}) stand_still(flow);
  facts.nodes[1].busiest_share = 1;
  facts.raid.flow = facts.replicas[0].leg.base = moving(800'000);
  EXPECT_EQ(first(diagnose(facts)), "target/reactor-saturated@s1 likely");
  stand_still(&facts.raid.flow);
  stand_still(&facts.replicas[0].leg.base);
  EXPECT_EQ(first(diagnose(facts)), "target/reactor-saturated@s1 likely") << "it takes longer than the look";
}

TEST(Diagnose, latency_is_charged_to_the_stage_that_has_it) {
  Facts facts = sound();
  facts.raid.flow = moving(20'100);
  facts.replicas[0].leg.base = moving(20'050);
  facts.replicas[0].exported.lvol = moving(20'020);
  facts.replicas[0].exported.disk = moving(20'000);
  EXPECT_EQ(first(diagnose(facts)), "disk/disk-slow@s1 certain") << "the other leg takes 0.2 ms under the same load";
  facts.replicas[1] = facts.replicas[0];
  facts.replicas[1].expected = expected_replica(2, "s2");
  EXPECT_EQ(first(diagnose(facts)), "disk/disk-slow@s1 likely") << "it may be the load";
  facts.replicas[0].exported.disk = moving(100);
  EXPECT_EQ(first(diagnose(facts)), "lvol/lvol-slow@s1 likely");
  facts.replicas[0].exported.lvol = moving(150);
  EXPECT_EQ(first(diagnose(facts)), "network/network-slow@s1 possible");
  facts.nodes[1].busiest_share = 0.99;
  EXPECT_EQ(first(diagnose(facts)), "target/reactor-saturated@s1 likely");
  facts.nodes[1].busiest_share = 0.3;
  facts.replicas[0].leg.base = facts.replicas[1].leg.base = moving(300);
  EXPECT_EQ(first(diagnose(facts)), "raid/mirror-slow@c1 possible");
  facts.nodes[0].busiest_share = 0.99;
  EXPECT_EQ(first(diagnose(facts)), "vhost/reactor-saturated@c1 likely");
}

TEST(Diagnose, a_busy_reactor_without_latency_is_no_trouble) {
  Facts facts = sound();
  for (NodeFacts& one : facts.nodes) one.busiest_share = 1;
  EXPECT_EQ(first(diagnose(facts)), "none");
}

TEST(Diagnose, a_loop_that_does_not_look_is_named_behind_what_it_does_not_repair) {
  Facts facts = sound();
  facts.nodes[1].seen_age_ms = 3'600'000;
  EXPECT_EQ(first(diagnose(facts)), "control-plane/loop-stopped@s1 certain");
  facts.replicas[0].exported.listener = false;
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "target/listener-missing@s1 certain");
  EXPECT_TRUE(names(diagnosis, "loop-stopped"));
}

TEST(Diagnose, what_could_not_be_asked_is_unknown_and_never_certain) {
  Facts facts = sound();
  for (NodeFacts& one : facts.nodes) one.reach = {Reach::elsewhere, "run it there", ""};
  facts.vhost = {};
  facts.raid = {};
  for (ReplicaFacts& replica : facts.replicas) replica = {.expected = replica.expected, .leg = {}, .exported = {}};
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "none");
  for (const LayerReport& layer : diagnosis.layers) EXPECT_EQ(layer.state, LayerState::unknown) << layer.layer;
}

TEST(Diagnose, writes_that_are_held_for_a_record_are_told_from_a_slow_leg) {
  Facts facts = sound();
  facts.raid.held_writes = 4;
  facts.raid.exclusions_wanted = "replica-s1n1: I/O failed";
  EXPECT_EQ(first(diagnose(facts)), "raid/writes-held@c1 likely") << "it may be over in a moment";
  stand_still(&facts.raid.flow);
  EXPECT_EQ(first(diagnose(facts)), "raid/writes-held@c1 certain");
}

TEST(Diagnose, two_faults_are_both_named) {
  Facts facts = sound();
  facts.nodes[2].reach = {Reach::closed, "connection refused", ""};
  facts.replicas[1].exported = {};
  facts.replicas[1].leg.in_mirror = false;
  facts.raid.flow = moving(30'000);
  facts.replicas[0].leg.base = facts.replicas[0].exported.lvol = facts.replicas[0].exported.disk = moving(29'900);
  facts.replicas[1].leg.base = {};
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "target/data-plane-down@s2 certain");
  EXPECT_TRUE(names(diagnosis, "disk-slow"));
}

TEST(Diagnose, what_is_found_is_shown_to_programs_too) {
  Facts facts = sound();
  facts.replicas[0].exported.listener = false;
  const boost::json::object encoded = encode(diagnose(facts));
  const boost::json::value& cause = encoded.at("causes").as_array().at(0);
  EXPECT_EQ(cause.at("code"), "listener-missing");
  EXPECT_EQ(cause.at("certainty"), "certain");
  EXPECT_EQ(encoded.at("graph_exists"), false);
}

TEST(Diagnose, a_mirror_that_waits_for_its_legs_is_named_after_what_keeps_them_away) {
  Facts facts = sound();
  stand_still(&facts.raid.flow);
  facts.raid.waiting = true;
  facts.raid.waited_ms = 4'500;
  facts.raid.wait_limit_s = 300;
  for (size_t i = 1; i < facts.nodes.size(); ++i) facts.nodes[i].reach = {Reach::closed, "nobody listens", ""};
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "target/data-plane-down@s1 certain");
  const auto waiting = std::find_if(diagnosis.causes.begin(), diagnosis.causes.end(),
                                    [](const Cause& cause) { return cause.code == "mirror-waiting"; });
  ASSERT_NE(waiting, diagnosis.causes.end());
  EXPECT_EQ(waiting->certainty, Certainty::certain);
  EXPECT_NE(waiting->evidence[0].find("4.5 s, at most 300 s"), std::string::npos);
  facts = sound();
  facts.raid.waiting = facts.raid.gave_up = true;
  EXPECT_EQ(first(diagnose(facts)), "raid/mirror-waiting@c1 certain");
  EXPECT_NE(diagnose(facts).causes[0].summary.find("I/O fails"), std::string::npos);
}

TEST(Diagnose, a_mirror_whose_legs_all_lost_their_caches_is_named_with_the_call_that_lets_it_go_on) {
  Facts facts = sound();
  stand_still(&facts.raid.flow);
  facts.raid.stopped = true;
  facts.raid.reason = "every leg may have lost writes";
  const Diagnosis diagnosis = diagnose(facts);
  EXPECT_EQ(first(diagnosis), "raid/mirror-stopped@c1 certain");
  EXPECT_NE(diagnosis.causes[0].next.find("volume resume"), std::string::npos);
}

}  // namespace
}  // namespace diskengine::control
