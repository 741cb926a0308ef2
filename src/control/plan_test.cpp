// The loops' decisions alone: what is wished and observed on one side, the one next step on the other.
#include <gtest/gtest.h>

#include "control/baremetal/attach.h"
#include "control/baremetal/baremetal_health.h"
#include "control/baremetal/exclusions.h"
#include "control/baremetal/nvme_attach.h"
#include "control/baremetal/raidensure.h"
#include "control/naming.h"
#include "control/placement.h"
#include "control/storagenode/nvmeofexport.h"
#include "control/storagenode/provisionlvol.h"
#include "control/volume_status.h"

namespace diskengine::control {
namespace {

constexpr int64_t kBlocks = 2048;
constexpr LoopLimits kLimits;

ExportWish export_of(const std::string& host) {
  ExportWish wish;
  wish.nqn = "nqn:a";
  wish.bdev_name = "uuid-a";
  wish.address = "10.0.0.1";
  wish.port = 4420;
  wish.host = host;
  return wish;
}

// A target on which everything of export_of(host) is in place.
TargetView target_of(const std::string& host) {
  TargetView view;
  view.transports = {"TCP"};
  view.bdevs.resize(1);
  view.bdevs[0].name = "uuid-a";
  view.subsystems.resize(1);
  view.subsystems[0].nqn = "nqn:a";
  view.subsystems[0].namespaces = {{1, "uuid-a"}};
  view.subsystems[0].listeners = {{"TCP", "10.0.0.1", "4420"}};
  if (!host.empty()) view.subsystems[0].hosts = {host};
  return view;
}

TEST(PlanExport, nothing_is_done_when_all_is_in_place) {
  EXPECT_EQ(plan_export(export_of("h1"), target_of("h1")).step, ExportStep::none);
  EXPECT_EQ(plan_export(export_of("h1"), target_of("h1")).status.state, "ready");
  EXPECT_EQ(plan_export(export_of(""), target_of("")).step, ExportStep::none);
}

TEST(PlanExport, the_old_writer_is_removed_before_the_new_one_is_admitted) {
  const ExportPlan plan = plan_export(export_of("h2"), target_of("h1"));
  EXPECT_EQ(plan.step, ExportStep::remove_host);
  EXPECT_EQ(plan.host, "h1");
  EXPECT_EQ(plan_export(export_of("h2"), target_of("")).step, ExportStep::admit_host);
}

TEST(PlanExport, a_subsystem_open_to_any_host_is_closed_first) {
  TargetView view = target_of("h1");
  view.subsystems[0].allow_any_host = true;
  EXPECT_EQ(plan_export(export_of("h1"), view).step, ExportStep::disallow_any_host);
}

TEST(PlanExport, a_namespace_on_another_bdev_is_removed) {
  TargetView view = target_of("h1");
  view.subsystems[0].namespaces = {{3, "other"}};
  const ExportPlan plan = plan_export(export_of("h1"), view);
  EXPECT_EQ(plan.step, ExportStep::remove_namespace);
  EXPECT_EQ(plan.nsid, 3);
}

TEST(PlanExport, an_export_on_another_address_gets_its_listener) {
  ExportWish wish = export_of("h1");
  wish.port = 4421;
  EXPECT_EQ(plan_export(wish, target_of("h1")).step, ExportStep::add_listener);
}

TEST(PlanExport, without_its_lvol_it_waits_and_says_why) {
  TargetView view = target_of("h1");
  view.bdevs.clear();
  ExportWish wish = export_of("h1");
  wish.lvol_reason = "its lvol is failed";
  EXPECT_EQ(plan_export(wish, view).status, (Status{"waiting", "its lvol is failed"}));
}

TEST(PlanExport, an_unwanted_export_is_deleted_and_then_withdrawn) {
  ExportWish wish = export_of("");
  wish.wanted = false;
  EXPECT_EQ(plan_export(wish, target_of("")).step, ExportStep::delete_subsystem);
  EXPECT_EQ(plan_export(wish, TargetView{}).status.state, "withdrawn");
}

TEST(PlanExport, a_target_that_keeps_epochs_gets_the_next_one_before_the_old_host_is_removed) {
  ExportWish wish = export_of("h2");
  wish.epoch = 2;
  TargetView view = target_of("h1");
  view.subsystems[0].epoch = 1;
  EXPECT_EQ(plan_export(wish, view).step, ExportStep::remove_host) << "this one keeps none";
  view.abilities.keeps_epochs = true;
  EXPECT_EQ(plan_export(wish, view).step, ExportStep::set_epoch);
  view.subsystems[0].epoch = 2;
  EXPECT_EQ(plan_export(wish, view).step, ExportStep::remove_host);
  view.subsystems[0].epoch = 3;
  EXPECT_EQ(plan_export(wish, view).status.state, "failed") << "the database went back in time";
}

TEST(PlanExport, a_replica_that_its_own_data_plane_holds_for_a_mirror_is_released_first) {
  TargetView view = target_of("h1");
  view.subsystems.clear();
  view.raids.resize(1);
  view.raids[0].name = "raid_3";
  view.raids[0].legs = {{.name = "uuid-a", .configured = true, .state = {}}};
  const ExportPlan plan = plan_export(export_of("h1"), view);
  EXPECT_EQ(plan.step, ExportStep::release_leg);
  EXPECT_EQ(plan.raid, "raid_3");
}

TEST(PlanLvol, data_goes_only_after_its_export) {
  Lvol lvol;
  lvol.wanted = false;
  Disk disk;
  disk.status.state = "ready";
  const BdevView bdev;
  EXPECT_EQ(plan_lvol(lvol, disk, &bdev, false).step, LvolStep::none);
  EXPECT_EQ(plan_lvol(lvol, disk, &bdev, true).step, LvolStep::remove);
  EXPECT_EQ(plan_lvol(lvol, disk, nullptr, true).step, LvolStep::forget);
  disk.status.state = "failed";
  EXPECT_EQ(plan_lvol(lvol, disk, nullptr, true).status.state, "deleting") << "it may be on the disk that is away";
}

TEST(PlanLvol, one_that_has_existed_is_never_made_again) {
  Disk disk;
  disk.status.state = "ready";
  Lvol lvol;
  EXPECT_EQ(plan_lvol(lvol, disk, nullptr, false).step, LvolStep::create);
  BdevView bdev;
  bdev.name = "u1";
  EXPECT_EQ(plan_lvol(lvol, disk, &bdev, false).step, LvolStep::adopt);
  lvol.provisioned = true;
  lvol.uuid = "u1";
  EXPECT_EQ(plan_lvol(lvol, disk, &bdev, false).status.state, "ready");
  EXPECT_EQ(plan_lvol(lvol, disk, nullptr, false).status.state, "failed");
  bdev.name = "u2";
  EXPECT_EQ(plan_lvol(lvol, disk, &bdev, false).status.state, "failed") << "another lvol under its name";
}

// An attachment with two legs, both in sync.
AttachmentWish attachment_of_two() {
  AttachmentWish wish;
  wish.id = 7;
  wish.volume_id = 3;
  wish.size_bytes = wish.replica_bytes = kBlocks * 512;
  wish.epoch = 1;
  wish.in_sync = {1, 2};
  wish.host_nqn = "host";
  wish.raid_name = "raid_3";
  wish.vhost_name = "vhost7";
  for (int64_t i = 1; i <= 2; ++i) {
    LegWish leg;
    leg.replica_id = i;
    leg.slot = i - 1;
    leg.nqn = "nqn:" + std::to_string(i);
    leg.controller_name = "leg" + std::to_string(i);
    leg.bdev_name = leg.controller_name + "n1";
    leg.node_name = "s" + std::to_string(i);
    leg.address = "10.0.0." + std::to_string(i);
    leg.port = 4420;
    leg.admitted = true;
    leg.in_sync = true;
    wish.legs.push_back(leg);
  }
  return wish;
}

void connect(const AttachmentWish& wish, size_t leg, ComputeView* view, const std::string& state = "enabled") {
  ControllerView controller;
  controller.name = wish.legs[leg].controller_name;
  controller.state = state;
  controller.traddr = wish.legs[leg].address;
  controller.trsvcid = "4420";
  controller.subnqn = wish.legs[leg].nqn;
  controller.hostnqn = wish.host_nqn;
  view->controllers.push_back(controller);
  BdevView bdev;
  bdev.name = wish.legs[leg].bdev_name;
  bdev.num_blocks = kBlocks;
  bdev.block_size = 512;
  view->bdevs.push_back(bdev);
}

ComputeView connected_view(const AttachmentWish& wish) {
  ComputeView view;
  connect(wish, 0, &view);
  connect(wish, 1, &view);
  return view;
}

RaidView online_raid(const std::vector<std::string>& legs) {
  RaidView raid;
  raid.name = "raid_3";
  raid.state = "online";
  for (const std::string& leg : legs) raid.legs.push_back({.name = leg, .configured = !leg.empty(), .state = {}});
  return raid;
}

TEST(PlanConnection, waits_until_the_export_admits_this_host) {
  AttachmentWish wish = attachment_of_two();
  wish.legs[0].admitted = false;
  wish.legs[0].replica_reason = "its export is waiting";
  const ConnectionPlan plan = plan_connection(wish, wish.legs[0], ComputeView{});
  EXPECT_EQ(plan.step, ConnectionStep::none);
  EXPECT_NE(plan.reason.find("its export is waiting"), std::string::npos);
  EXPECT_EQ(plan_connection(wish, wish.legs[1], ComputeView{}).step, ConnectionStep::attach);
}

TEST(PlanConnection, a_controller_of_another_epoch_or_address_is_detached) {
  AttachmentWish wish = attachment_of_two();
  const ComputeView view = connected_view(wish);
  EXPECT_EQ(plan_connection(wish, wish.legs[0], view), ConnectionPlan{});
  wish.host_nqn = "host of the next epoch";
  EXPECT_EQ(plan_connection(wish, wish.legs[0], view).step, ConnectionStep::detach);
  wish = attachment_of_two();
  wish.legs[0].address = "10.9.9.9";
  EXPECT_EQ(plan_connection(wish, wish.legs[0], view).step, ConnectionStep::detach);
}

TEST(PlanConnection, an_unwanted_controller_goes_after_its_mirror) {
  AttachmentWish wish = attachment_of_two();
  ComputeView view = connected_view(wish);
  view.raids = {online_raid({"leg1n1", "leg2n1"})};
  wish.wanted = false;
  EXPECT_EQ(plan_connection(wish, wish.legs[0], view).step, ConnectionStep::none);
  view.raids.clear();
  EXPECT_EQ(plan_connection(wish, wish.legs[0], view).step, ConnectionStep::detach);
}

TEST(PlanRaid, is_created_from_all_in_sync_legs) {
  const AttachmentWish wish = attachment_of_two();
  const RaidPlan plan = plan_raid(wish, connected_view(wish), 0, kLimits);
  EXPECT_EQ(plan.step, RaidStep::create);
  EXPECT_EQ(plan.legs, (std::vector<std::string>{"leg1n1", "leg2n1"}));
}

TEST(PlanRaid, a_leg_that_is_not_in_sync_is_never_put_in_even_when_it_is_there) {
  AttachmentWish wish = attachment_of_two();
  wish.legs[1].in_sync = false;
  wish.in_sync = {1};
  ComputeView view = connected_view(wish);
  RaidPlan plan = plan_raid(wish, view, 0, kLimits);
  EXPECT_EQ(plan.step, RaidStep::create_stand_in);
  EXPECT_EQ(plan.bdev, "standin_3_1");
  view.bdevs.resize(view.bdevs.size() + 1);
  view.bdevs.back().name = "standin_3_1";
  plan = plan_raid(wish, view, 0, kLimits);
  EXPECT_EQ(plan.step, RaidStep::create);
  EXPECT_EQ(plan.legs, (std::vector<std::string>{"leg1n1", "standin_3_1"}));
  view.raids = {online_raid({"leg1n1", "standin_3_1"})};
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::remove_stand_in);
  EXPECT_FALSE(plan_raid(wish, view, 0, kLimits).online);
  view.raids = {online_raid({"leg1n1", ""})};
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::delete_stand_in);
  view.bdevs.pop_back();
  EXPECT_TRUE(plan_raid(wish, view, 0, kLimits).online);
}

TEST(PlanRaid, gets_the_epoch_before_it_is_online_where_writes_can_be_held) {
  const AttachmentWish wish = attachment_of_two();
  ComputeView view = connected_view(wish);
  view.raids = {online_raid({"leg1n1", "leg2n1"})};
  view.abilities.holds_writes = true;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::set_epoch);
  view.raids[0].epoch = wish.epoch;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::set_epoch) << "exclusions are not confirmed yet";
  view.raids[0].is_confirmed = true;
  EXPECT_TRUE(plan_raid(wish, view, 0, kLimits).online);
}

TEST(PlanRaid, one_that_was_fenced_or_stands_under_an_earlier_epoch_is_made_anew) {
  AttachmentWish wish = attachment_of_two();
  wish.epoch = wish.volume_epoch = 4;
  ComputeView view = connected_view(wish);
  view.raids = {online_raid({"leg1n1", "leg2n1"})};
  view.raids[0].epoch = 3;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::delete_raid);
  view.raids[0].epoch = 4;
  view.raids[0].is_fenced = true;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::delete_raid);
  view.raids[0].epoch = 5;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).status.state, "failed") << "the database has forgotten something";
}

TEST(PlanRaid, one_with_superblocks_is_assembled_from_exactly_the_legs_in_sync_without_stand_ins) {
  AttachmentWish wish = attachment_of_two();
  wish.superblock = true;
  wish.legs[1].in_sync = false;
  wish.in_sync = {1};
  ComputeView view = connected_view(wish);
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).status.state, "failed") << "this data plane cannot";
  view.abilities.assembles = true;
  RaidPlan plan = plan_raid(wish, view, 0, kLimits);
  EXPECT_EQ(plan.step, RaidStep::assemble);
  EXPECT_EQ(plan.legs, std::vector<std::string>{"leg1n1"});
  // Found by its superblocks: it waits for the same.
  view.raids = {online_raid({"leg1n1", "leg2n1"})};
  view.raids[0].state = "configuring";
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits), plan);
  wish.wanted = false;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::delete_raid);
}

// A volume with two replicas, fenced at epoch 1, and its mirror that waits for the exclusion of `wanted`.
struct Held {
  explicit Held(std::vector<std::string> wanted) {
    Volume volume;
    volume.id = 3;
    volume.epoch = 1;
    volume.in_sync = {1, 2};
    volume.in_sync_version = 9;
    graph.volumes = {volume};
    for (int64_t i = 1; i <= 2; ++i) {
      VolumeLvolMapping replica;
      replica.id = i;
      replica.volume_id = 3;
      replica.nqn = replica_nqn(std::to_string(i));
      replica.fenced_epoch = 1;
      graph.replicas.push_back(replica);
    }
    raid = online_raid({"replica-1n1", "replica-2n1"});
    raid.epoch = 1;
    raid.exclusions_wanted = std::move(wanted);
    for (RaidLegView& leg : raid.legs) leg.state = "in_sync";
  }
  Graph graph;
  RaidView raid;
};

TEST(PlanExclusion, a_failed_leg_leaves_the_set_on_the_version_that_was_read) {
  const Held held({"replica-2n1"});
  const ExclusionPlan plan = plan_exclusion(held.graph, held.raid);
  EXPECT_EQ(plan.step, ExclusionStep::exclude);
  EXPECT_EQ(plan.change.version, 9);
  EXPECT_EQ(plan.change.next, std::vector<int64_t>{1});
  EXPECT_EQ(plan.legs, std::vector<std::string>{"replica-2n1"});
}

TEST(PlanExclusion, a_leg_outside_the_set_is_a_decision_too) {
  Held held({"replica-2n1"});
  held.graph.volumes[0].in_sync = {1};
  const ExclusionPlan plan = plan_exclusion(held.graph, held.raid);
  EXPECT_EQ(plan.step, ExclusionStep::exclude);
  EXPECT_EQ(plan.change.next, plan.change.expected);
}

TEST(PlanExclusion, a_leg_that_is_whole_and_not_recorded_yet_takes_over_from_the_last_recorded_one) {
  Held held({"replica-1n1"});
  held.graph.volumes[0].in_sync = {1};
  EXPECT_EQ(plan_exclusion(held.graph, held.raid).change.next, std::vector<int64_t>{2});
  held.raid.process_target = "replica-2n1";
  EXPECT_EQ(plan_exclusion(held.graph, held.raid).step, ExclusionStep::none) << "it is not whole";
  held.raid.process_target.clear();
  held.graph.replicas[1].fenced_epoch = 0;
  EXPECT_FALSE(plan_exclusion(held.graph, held.raid).trouble.empty()) << "it is not fenced";
}

TEST(PlanExclusion, the_last_replica_never_leaves) {
  const Held held({"replica-1n1", "replica-2n1"});
  const ExclusionPlan plan = plan_exclusion(held.graph, held.raid);
  EXPECT_EQ(plan.step, ExclusionStep::none);
  EXPECT_NE(plan.trouble.find("last replica"), std::string::npos);
}

TEST(PlanExclusion, the_epoch_decides_whether_the_mirror_is_answered_or_fenced) {
  Held held({"replica-2n1"});
  held.graph.volumes[0].epoch = 2;
  EXPECT_EQ(plan_exclusion(held.graph, held.raid).step, ExclusionStep::fence);
  EXPECT_EQ(plan_exclusion(held.graph, held.raid).later_epoch, 2);
  held.raid.epoch = 5;
  EXPECT_EQ(plan_exclusion(held.graph, held.raid).step, ExclusionStep::none) << "the database went back in time";
  held.raid.name = "raid_of_others";
  EXPECT_EQ(plan_exclusion(held.graph, held.raid), ExclusionPlan{});
}

TEST(PlanRaid, a_missing_in_sync_leg_is_waited_for_and_then_excluded) {
  const AttachmentWish wish = attachment_of_two();
  ComputeView view;
  connect(wish, 0, &view);
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).status.state, "waiting");
  const RaidPlan plan = plan_raid(wish, view, kLimits.leg_grace_ms, kLimits);
  EXPECT_EQ(plan.step, RaidStep::exclude_missing);
  EXPECT_EQ(plan.in_sync, std::vector<int64_t>{1});
}

TEST(PlanRaid, the_last_in_sync_leg_is_never_excluded) {
  AttachmentWish wish = attachment_of_two();
  wish.legs[0].in_sync = false;
  wish.in_sync = {2};
  ComputeView view;
  connect(wish, 0, &view);
  const RaidPlan plan = plan_raid(wish, view, 1'000'000, kLimits);
  EXPECT_EQ(plan.step, RaidStep::none);
  EXPECT_EQ(plan.status.state, "down");
}

TEST(PlanRaid, before_its_hosts_are_admitted_a_volume_waits_and_is_not_down) {
  AttachmentWish wish = attachment_of_two();
  wish.legs[0].admitted = wish.legs[1].admitted = false;
  EXPECT_EQ(plan_raid(wish, ComputeView{}, 0, kLimits).status.state, "waiting");
}

TEST(PlanRaid, a_leg_of_the_wrong_size_is_refused) {
  const AttachmentWish wish = attachment_of_two();
  ComputeView view = connected_view(wish);
  view.bdevs[1].num_blocks -= 1;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).status.state, "failed");
  view = connected_view(wish);
  view.bdevs[0].block_size = 4096;
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).status.state, "failed");
}

TEST(PlanRaid, one_that_is_not_online_is_made_anew) {
  const AttachmentWish wish = attachment_of_two();
  ComputeView view = connected_view(wish);
  view.raids = {online_raid({"leg1n1", "leg2n1"})};
  view.raids[0].state = "offline";
  EXPECT_EQ(plan_raid(wish, view, 0, kLimits).step, RaidStep::delete_raid);
}

TEST(PlanVhost, stands_only_on_the_right_online_mirror) {
  AttachmentWish wish = attachment_of_two();
  ComputeView view;
  EXPECT_EQ(plan_vhost(wish, view, false), VhostStep::none);
  EXPECT_EQ(plan_vhost(wish, view, true), VhostStep::create);
  view.vhosts.resize(1);
  view.vhosts[0].name = "vhost7";
  view.vhosts[0].bdev_name = "raid_3";
  EXPECT_EQ(plan_vhost(wish, view, true), VhostStep::none);
  view.vhosts[0].bdev_name = "";
  EXPECT_EQ(plan_vhost(wish, view, true), VhostStep::remove);
  EXPECT_EQ(plan_vhost(wish, view, false), VhostStep::none) << "not before there is a mirror to put it on";
  view.vhosts[0].bdev_name.reset();
  EXPECT_EQ(plan_vhost(wish, view, true), VhostStep::none) << "a data plane that does not tell is believed";
  wish.wanted = false;
  EXPECT_EQ(plan_vhost(wish, view, true), VhostStep::remove);
}

TEST(PlanHealth, what_left_is_recorded_before_it_is_brought_back) {
  AttachmentWish wish = attachment_of_two();
  const ComputeView view = connected_view(wish);
  HealthPlan plan = plan_health(wish, view, online_raid({"leg1n1", ""}));
  EXPECT_EQ(plan.step, HealthStep::record_in_sync);
  EXPECT_EQ(plan.in_sync, std::vector<int64_t>{1});
  wish.in_sync = {1};
  wish.legs[1].in_sync = false;
  plan = plan_health(wish, view, online_raid({"leg1n1", ""}));
  EXPECT_EQ(plan.step, HealthStep::add_leg);
  EXPECT_EQ(plan.bdev, "leg2n1");
  EXPECT_EQ(plan.status.state, "degraded");
}

TEST(PlanHealth, a_leg_under_rebuild_is_not_in_sync_and_no_second_one_is_added) {
  AttachmentWish wish = attachment_of_two();
  wish.in_sync = {1};
  RaidView raid = online_raid({"leg1n1", "leg2n1"});
  raid.process_type = "rebuild";
  raid.process_target = "leg2n1";
  raid.process_percent = 12;
  const HealthPlan plan = plan_health(wish, connected_view(wish), raid);
  EXPECT_EQ(plan.step, HealthStep::none);
  EXPECT_EQ(plan.status.state, "rebuilding");
  EXPECT_EQ(plan.rebuild_percent, 12);
}

TEST(PlanHealth, a_leg_whose_controller_is_away_is_not_added) {
  AttachmentWish wish = attachment_of_two();
  wish.in_sync = {1};
  ComputeView view;
  connect(wish, 0, &view);
  connect(wish, 1, &view, "reconnect_is_delayed");
  const HealthPlan plan = plan_health(wish, view, online_raid({"leg1n1", ""}));
  EXPECT_EQ(plan.step, HealthStep::none);
  EXPECT_EQ(plan.status.state, "degraded");
  EXPECT_NE(plan.status.reason.find("10.0.0.2:4420"), std::string::npos) << plan.status.reason;
}

TEST(PlanHealth, a_mirror_that_waits_or_stopped_says_why_since_when_and_what_to_do) {
  AttachmentWish wish = attachment_of_two();
  wish.in_sync = {1};
  RaidView raid = online_raid({"leg1n1", ""});
  raid.is_waiting = true;
  raid.waiting_since_unix_ms = 1'700'000'000'000;
  raid.waiting_limit_s = 300;
  HealthPlan plan = plan_health(wish, ComputeView{}, raid);
  EXPECT_EQ(plan.step, HealthStep::none) << "the last one in sync stays that";
  EXPECT_EQ(plan.status.state, "down");
  for (const char* part : {"since 2023-11-14 22:13:20 UTC", "waits, at most 300 s", "bring a storage node back"})
    EXPECT_NE(plan.status.reason.find(part), std::string::npos) << plan.status.reason;
  raid.has_given_up = true;
  plan = plan_health(wish, ComputeView{}, raid);
  EXPECT_NE(plan.status.reason.find("waited 300 s and fails now"), std::string::npos) << plan.status.reason;
  raid.is_waiting = false;
  raid.is_stopped = true;
  raid.stop_reason = "every leg may have lost writes";
  plan = plan_health(wish, ComputeView{}, raid);
  EXPECT_EQ(plan.status.state, "down");
  for (const char* part : {"every leg may have lost writes", "`diskengine volume resume "})
    EXPECT_NE(plan.status.reason.find(part), std::string::npos) << plan.status.reason;
}

TEST(PlanHealth, an_empty_set_is_never_recorded) {
  const AttachmentWish wish = attachment_of_two();
  EXPECT_EQ(plan_health(wish, ComputeView{}, online_raid({"", ""})).step, HealthStep::none);
}

// Three storage nodes with one disk each, of the given capacities.
Graph graph_with_disks(const std::vector<int64_t>& capacities) {
  Graph graph;
  for (size_t i = 0; i < capacities.size(); ++i) {
    Node node;
    node.id = static_cast<int64_t>(i) + 1;
    node.name = "s" + std::to_string(node.id);
    node.role = kRoleStorage;
    node.status.state = "ready";
    graph.nodes.push_back(node);
    Disk disk;
    disk.id = node.id * 10;
    disk.node_id = node.id;
    disk.capacity_bytes = capacities[i];
    disk.status.state = "ready";
    graph.disks.push_back(disk);
  }
  return graph;
}

TEST(Placement, takes_different_nodes_with_the_most_room) {
  Graph graph = graph_with_disks({100, 300, 200});
  EXPECT_EQ(*place_replicas(graph, {.size_bytes = 50}), (std::vector<int64_t>{20, 30}));
  Lvol lvol;
  lvol.disk_id = 20;
  lvol.size_bytes = 260;
  graph.lvols.push_back(lvol);
  EXPECT_EQ(*place_replicas(graph, {.size_bytes = 50}), (std::vector<int64_t>{30, 10}))
      << "what is promised counts as used";
}

TEST(Placement, two_disks_of_one_node_are_not_two_nodes) {
  Graph graph = graph_with_disks({100});
  Disk second = graph.disks[0];
  second.id = 11;
  graph.disks.push_back(second);
  EXPECT_EQ(place_replicas(graph, {.size_bytes = 50}).error().code(), Errc::no_space);
}

TEST(Placement, disks_with_other_blocks_do_not_count) {
  Graph graph = graph_with_disks({100, 100, 100});
  graph.disks[0].block_size = graph.disks[2].block_size = 4096;
  EXPECT_EQ(place_replicas(graph, {.size_bytes = 50}).error().code(), Errc::no_space);
  EXPECT_EQ(*place_replicas(graph, {.size_bytes = 50, .block_size = 4096}), (std::vector<int64_t>{10, 30}));
}

TEST(Placement, says_what_each_node_has) {
  Graph graph = graph_with_disks({1 << 20, 1 << 21, 1 << 22});
  graph.nodes[2].status.state = "down";
  const auto refused = place_replicas(graph, {.size_bytes = 1 << 30});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("s1: 1 MiB free, s2: 2 MiB free, s3: does not answer"), std::string::npos)
      << refused.error().message();
}

TEST(VolumeStatus, a_volume_with_a_stale_replica_is_not_ready) {
  Graph graph = graph_with_disks({100, 100});
  Volume volume;
  volume.id = 1;
  volume.in_sync = {1};
  graph.volumes = {volume};
  for (int64_t i = 1; i <= 2; ++i) {
    Lvol lvol;
    lvol.id = i;
    lvol.disk_id = i * 10;
    lvol.provisioned = true;
    graph.lvols.push_back(lvol);
    VolumeLvolMapping replica;
    replica.id = i;
    replica.volume_id = 1;
    replica.lvol_id = i;
    replica.status.state = "ready";
    graph.replicas.push_back(replica);
  }
  EXPECT_EQ(volume_status(graph, graph.volumes[0]).state, "degraded");
  graph.volumes[0].in_sync = {1, 2};
  EXPECT_EQ(volume_status(graph, graph.volumes[0]).state, "ready");
  graph.replicas[0].status = {"waiting", "its lvol"};
  EXPECT_EQ(volume_status(graph, graph.volumes[0]).state, "working") << "it is new";
  graph.replicas[0].status = {"down", "no answer"};
  EXPECT_EQ(volume_status(graph, graph.volumes[0]).state, "degraded");
  graph.replicas[1].status = {"down", "no answer"};
  EXPECT_EQ(volume_status(graph, graph.volumes[0]).state, "down");
}

}  // namespace
}  // namespace diskengine::control
