#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "control/baremetal/raid_watcher.h"
#include "control/naming.h"
#include "control/node_loop.h"
#include "control/storagenode/disk_init.h"
#include "control/store/sqlite.h"
#include "control/testing/fake_data_plane.h"
#include "control/testing/test_environment.h"

namespace diskengine::control {

void PrintTo(const Status& status, std::ostream* out) { *out << status.state << " (" << status.reason << ")"; }

namespace {

constexpr int64_t kSize = 1 << 20;

// For threads that wait in real time.
class RealPauses final : public Environment {
 public:
  int64_t unix_ms() const override { return 0; }
  int64_t monotonic_ms() const override { return 0; }
  uint64_t random() override { return 0; }
  void pause_ms(int64_t ms) override { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }
  std::string process_identity() const override { return {}; }
  bool has_ended(const std::string&) const override { return false; }
};

// Two storage nodes and a compute node over fake data planes; loops are run by hand, time moves by hand. Each test runs
// with superblocks on the replicas and without.
class LoopsTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() / ("loops-test-" + std::to_string(::getpid()));
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    open_store();
    for (int i = 0; i < 3; ++i) {
      planes_.push_back(std::make_unique<FakeDataPlane>(socket(i), fabric_));
      planes_.back()->start();
    }
    for (const char* name : {"s1", "s2"}) add_storage_node(name);
    Node compute;
    compute.name = "c1";
    compute.role = kRoleCompute;
    compute.rpc_socket = socket(2);
    compute.vhost_dir = "/vhost";
    compute_ = store_->put_node(compute).value();
    make_loops();
  }
  void TearDown() override {
    loops_.clear();
    planes_.clear();
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string socket(int index) const { return directory_ / ("rpc" + std::to_string(index)); }
  FakeDataPlane& s1() { return *planes_[0]; }
  FakeDataPlane& s2() { return *planes_[1]; }
  FakeDataPlane& c1() { return *planes_[2]; }

  void open_store() {
    store_.reset();
    auto connection = open_sqlite(directory_ / "test.db");
    ASSERT_TRUE(connection);
    store_ = std::move(*Store::open(std::move(*connection), environment_));
  }

  // A disk of 16 MiB.
  std::string make_disk_file(const std::string& name) {
    const std::filesystem::path path = directory_ / (name + ".disk");
    std::ofstream(path).close();
    std::filesystem::resize_file(path, 16 << 20);
    return path;
  }
  void add_storage_node(const std::string& name) {
    const int index = name == "s1" ? 0 : 1;
    Node node;
    node.name = name;
    node.role = kRoleStorage;
    node.rpc_socket = socket(index);
    node.address = "127.0.0." + std::to_string(index + 1);
    node.port = 4420;
    const int64_t id = store_->put_node(node).value();
    Disk disk;
    disk.node_id = id;
    disk.path = make_disk_file(name);
    disks_.push_back(store_->add_disk(disk).value());
  }

  // What a serve process that starts does.
  void make_loops() {
    loops_.clear();
    const Graph graph = store_->load_graph().value();
    for (const Node& node : graph.nodes)
      loops_.push_back(std::make_unique<NodeLoop>(*store_, environment_, node, LoopLimits{}));
  }

  // Rounds of all loops, a second apart.
  void run(int rounds = 3) {
    for (int i = 0; i < rounds; ++i) {
      for (const auto& loop : loops_) {
        const Result<int> ran = loop->run();
        ASSERT_TRUE(ran) << ran.error().message();
      }
      environment_.pause_ms(1000);
    }
  }

  // Only the storage nodes' loops: the compute node's cannot be reached.
  void run_storage(int rounds) {
    for (int i = 0; i < rounds; ++i) {
      for (size_t loop = 0; loop < 2; ++loop) ASSERT_TRUE(loops_[loop]->run());
      environment_.pause_ms(1000);
    }
  }

  bool has_superblock() const { return GetParam(); }
  // The call that puts the mirror together.
  std::string creation() const {
    return (has_superblock() ? "diskengine_raid_assemble " : "bdev_raid_create ") + raid_bdev_name(volume_);
  }
  int64_t make_volume() {
    return store_
        ->create_volume(
            {.name = "v", .size_bytes = kSize, .block_size = 512, .superblock = has_superblock(), .disk_ids = disks_})
        .value();
  }
  int64_t attach(int64_t volume) {
    const int64_t epoch = store_->load_graph()->volume(volume)->epoch;
    return store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = epoch}).value();
  }
  // A volume that is attached and ready.
  void make_ready() {
    volume_ = make_volume();
    run();
    attachment_ = attach(volume_);
    run();
    ASSERT_EQ(attachment().status, (Status{"ready", ""}));
  }

  Graph graph() { return store_->load_graph().value(); }
  VolumeVmMapping attachment() { return *graph().attachment(attachment_); }
  Volume volume() { return *graph().volume(volume_); }
  std::string everything() {
    std::string all;
    for (const auto& plane : planes_)
      for (const char* method : {"bdev_get_bdevs", "nvmf_get_subsystems", "bdev_nvme_get_controllers",
                                 "bdev_raid_get_bdevs", "vhost_get_controllers"})
        all += plane->ask(method) + "\n";
    return all;
  }
  int64_t changes() {
    int64_t count = 0;
    for (const auto& plane : planes_) count += static_cast<int64_t>(plane->changes().size());
    return count;
  }

  TestEnvironment environment_;
  std::filesystem::path directory_;
  std::shared_ptr<FakeFabric> fabric_ = std::make_shared<FakeFabric>();
  std::vector<std::unique_ptr<FakeDataPlane>> planes_;
  std::unique_ptr<Store> store_;
  std::vector<std::unique_ptr<NodeLoop>> loops_;
  std::vector<int64_t> disks_;
  int64_t compute_ = 0;
  int64_t volume_ = 0;
  int64_t attachment_ = 0;
};

TEST_P(LoopsTest, a_volume_and_its_attachment_become_ready_under_the_names_of_the_checklist) {
  make_ready();
  const std::string all = everything();
  for (const VolumeLvolMapping& replica : graph().replicas) {
    EXPECT_NE(all.find(replica.nqn), std::string::npos);
    EXPECT_NE(c1().ask("bdev_raid_get_bdevs").find(base_bdev_name_from_nqn(replica.nqn)), std::string::npos);
  }
  EXPECT_NE(c1().ask("vhost_get_controllers").find(vhost_controller_name(attachment_)), std::string::npos);
  EXPECT_NE(c1().ask("bdev_raid_get_bdevs").find(raid_bdev_name(volume_)), std::string::npos);
  EXPECT_EQ(volume().status, (Status{"ready", ""}));
}

TEST_P(LoopsTest, each_export_admits_exactly_the_current_writer) {
  make_ready();
  const std::string host = "\"hosts\":[{\"nqn\":\"" + host_nqn(attachment_, 1) + "\"}]";
  EXPECT_NE(s1().ask("nvmf_get_subsystems").find(host), std::string::npos);
  EXPECT_NE(s2().ask("nvmf_get_subsystems").find(host), std::string::npos);
  ASSERT_TRUE(store_->request_delete_attachment(attachment_));
  run();
  EXPECT_NE(s1().ask("nvmf_get_subsystems").find("\"hosts\":[]"), std::string::npos);
  attachment_ = attach(volume_);
  run();
  EXPECT_NE(s1().ask("nvmf_get_subsystems").find(host_nqn(attachment_, 2)), std::string::npos);
  EXPECT_EQ(s1().ask("nvmf_get_subsystems").find(host_nqn(attachment_ - 1, 1)), std::string::npos);
}

// An agent read the volume's row, was stopped, and goes on after another attachment has the volume: the target refuses
// what it does, also after it was restarted.
TEST_P(LoopsTest, an_agent_of_an_old_epoch_is_refused_by_the_target) {
  make_ready();
  ASSERT_TRUE(store_->request_delete_attachment(attachment_));
  run();
  const std::string former = host_nqn(attachment_, 1);
  attachment_ = attach(volume_);
  run();
  const std::string nqn = graph().replicas[0].nqn;
  DataPlane stale(client::JsonRpcClient({.socket_path = socket(0), .timeout_ms = 5'000}));
  for (int restart = 0; restart < 2; ++restart) {
    EXPECT_FALSE(stale.admit_host(nqn, former));
    EXPECT_EQ(stale.set_subsystem_epoch(nqn, 1).error().code(), Errc::conflict);
    s1().stop();
    s1().start();
    run(3);
  }
  EXPECT_NE(s1().ask("nvmf_get_subsystems").find("\"epoch\":2"), std::string::npos);
}

// The compute node cannot be reached by its loops, and its volume goes to another attachment: what the old host has
// under way at a storage node keeps the replica there out until it is drained.
TEST_P(LoopsTest, a_replica_is_used_only_when_the_former_hosts_io_is_drained) {
  make_ready();
  const std::string former = host_nqn(attachment_, 1);
  s1().hold_io_of(former);
  ASSERT_TRUE(store_->remove_attachment(attachment_));
  attachment_ = attach(volume_);
  run_storage(3);
  EXPECT_EQ(graph().replicas[0].status.state, "waiting");
  EXPECT_NE(graph().replicas[0].status.reason.find("I/O of the former host " + former), std::string::npos)
      << graph().replicas[0].status.reason;
  EXPECT_EQ(graph().replicas[0].fenced_epoch, 1);
  EXPECT_EQ(graph().replicas[0].admitted_host, "");
  EXPECT_EQ(graph().replicas[1].fenced_epoch, 2);
  c1().stop();
  c1().start();
  run(2);
  EXPECT_EQ(attachment().status.state, "waiting") << attachment().status.reason;
  EXPECT_EQ(c1().ask("bdev_raid_get_bdevs"), "[]");
  s1().let_drain();
  run(6);
  EXPECT_EQ(graph().replicas[0].fenced_epoch, 2);
  EXPECT_EQ(attachment().status, (Status{"ready", ""}));
}

TEST_P(LoopsTest, a_replica_that_cannot_be_fenced_leaves_in_sync_before_the_mirror_starts_without_it) {
  make_ready();
  const std::vector<int64_t> both = volume().in_sync;
  s1().hold_io_of(host_nqn(attachment_, 1));
  ASSERT_TRUE(store_->remove_attachment(attachment_));
  attachment_ = attach(volume_);
  run_storage(2);
  c1().stop();
  c1().start();
  run(13);
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[1]});
  EXPECT_EQ(attachment().status.state, "degraded");
  EXPECT_NE(attachment().status.reason.find("former host"), std::string::npos) << attachment().status.reason;
  s1().let_drain();
  run(4);
  EXPECT_EQ(attachment().status.state, "rebuilding");
}

TEST_P(LoopsTest, a_data_plane_that_does_not_tell_who_is_connected_is_not_trusted_to_be_fenced) {
  s1().lack("nvmf_subsystem_get_controllers");
  volume_ = make_volume();
  run();
  attachment_ = attach(volume_);
  run();
  EXPECT_NE(graph().replicas[0].status.reason.find("cannot be seen whether former hosts are gone"), std::string::npos);
  EXPECT_EQ(graph().replicas[0].fenced_epoch, 0);
}

TEST_P(LoopsTest, an_attachment_that_lost_its_epoch_is_taken_down_and_never_writes_again) {
  make_ready();
  auto connection = open_sqlite(directory_ / "test.db");
  ASSERT_TRUE((*connection)->execute("UPDATE volumes SET epoch = epoch + 1", {}));
  run();
  EXPECT_EQ(attachment().status.state, "failed");
  EXPECT_NE(attachment().status.reason.find("has epoch 2 by now, this attachment 1"), std::string::npos)
      << attachment().status.reason;
  for (const char* method : {"vhost_get_controllers", "bdev_raid_get_bdevs", "bdev_nvme_get_controllers"})
    EXPECT_EQ(c1().ask(method), "[]") << method;
}

TEST_P(LoopsTest, running_again_when_all_is_ready_changes_nothing) {
  make_ready();
  const int64_t before = changes();
  const int64_t events = store_->events(1)->at(0).id;
  run(5);
  make_loops();
  run(5);
  EXPECT_EQ(changes(), before);
  EXPECT_EQ(store_->events(1)->at(0).id, events);
}

TEST_P(LoopsTest, any_one_data_plane_that_starts_again_ends_in_the_same_graph) {
  make_ready();
  const std::string before = everything();
  for (size_t i = 0; i < planes_.size(); ++i) {
    planes_[i]->stop();
    run(1);
    planes_[i]->start();
    run(4);
    c1().reconnect();
    run(4);
    EXPECT_EQ(everything(), before) << "after restart of data plane " << i;
    EXPECT_EQ(attachment().status, (Status{"ready", ""})) << "after restart of data plane " << i;
  }
}

TEST_P(LoopsTest, the_control_plane_may_stop_between_any_two_steps) {
  volume_ = make_volume();
  attachment_ = attach(volume_);
  for (int i = 0; i < 12; ++i) {
    open_store();
    make_loops();
    run(1);
  }
  EXPECT_EQ(attachment().status, (Status{"ready", ""}));
}

TEST_P(LoopsTest, a_node_that_does_not_answer_says_what_to_start_on_all_its_objects) {
  make_ready();
  s2().stop();
  run(1);
  const Graph now = graph();
  EXPECT_EQ(now.node_named("s2")->status.state, "down");
  EXPECT_NE(now.node_named("s2")->status.reason.find("start diskengine-io -r " + socket(1)), std::string::npos);
  EXPECT_EQ(now.replicas[1].status.state, "down");
  EXPECT_EQ(now.replicas[0].status.state, "ready");
  EXPECT_EQ(now.volume(volume_)->status.state, "degraded");
  c1().stop();
  run(1);
  EXPECT_EQ(attachment().status.state, "down");
}

TEST_P(LoopsTest, a_lost_replica_leaves_in_sync_and_comes_back_by_rebuild) {
  make_ready();
  const std::vector<int64_t> both = volume().in_sync;
  s2().stop();
  c1().drop_lost_legs();
  run(1);
  EXPECT_EQ(attachment().status.state, "degraded");
  EXPECT_NE(attachment().status.reason.find("on s2"), std::string::npos) << attachment().status.reason;
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[0]});

  s2().start();
  run(2);
  c1().reconnect();
  run(1);
  c1().rebuild_to(43);
  run(1);
  EXPECT_EQ(attachment().status.state, "rebuilding");
  EXPECT_EQ(attachment().rebuild_percent, 43);
  EXPECT_NE(attachment().status.reason.find("43 %"), std::string::npos);
  EXPECT_EQ(volume().status.state, "rebuilding");
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[0]}) << "a half filled leg is not in sync";

  c1().rebuild_to(100);
  run(1);
  EXPECT_EQ(attachment().status, (Status{"ready", ""}));
  EXPECT_EQ(attachment().rebuild_percent, -1);
  EXPECT_EQ(volume().in_sync, both);
}

TEST_P(LoopsTest, a_mirror_is_held_by_its_epoch_before_a_guest_can_reach_it) {
  make_ready();
  const std::vector<std::string> order = c1().changes();
  const auto at = [&](const std::string& change) {
    return std::find(order.begin(), order.end(), change) - order.begin();
  };
  const std::string raid = raid_bdev_name(volume_);
  const auto vhost = at("vhost_create_blk_controller " + vhost_controller_name(attachment_));
  EXPECT_LT(at(creation()), vhost);
  if (!has_superblock()) {
    EXPECT_LT(at(creation()), at("diskengine_raid_set_epoch " + raid));
    EXPECT_LT(at("diskengine_raid_set_epoch " + raid), vhost);
  }
  EXPECT_NE(c1().ask("bdev_raid_get_bdevs").find("\"epoch\":1"), std::string::npos);
  EXPECT_TRUE(graph().node(compute_)->holds_writes);
}

// No watcher runs here: the event is missed, and the loops' next pass finds what the mirror waits for.
TEST_P(LoopsTest, a_missed_exclusion_is_found_recorded_and_then_confirmed) {
  make_ready();
  const std::vector<int64_t> both = volume().in_sync;
  s2().stop();
  c1().drop_lost_legs();
  EXPECT_NE(c1().ask("bdev_raid_get_bdevs").find("leaving"), std::string::npos) << "its writes are held";
  c1().forget_changes();
  run(1);
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[0]});
  const std::string raid = raid_bdev_name(volume_);
  EXPECT_EQ(c1().changes(), std::vector<std::string>{"diskengine_raid_confirm_exclusion " + raid});
  EXPECT_EQ(c1().ask("bdev_raid_get_bdevs").find("leaving"), std::string::npos);
}

TEST_P(LoopsTest, a_watcher_settles_an_exclusion_as_soon_as_it_is_wanted) {
  make_ready();
  const std::vector<int64_t> both = volume().in_sync;
  std::atomic<int> settled{0};
  std::atomic<bool> is_over{false};
  RealPauses pauses;
  RaidWatcher watcher(*store_, pauses, socket(2), [&] { ++settled; });
  std::thread watching([&] { watcher.run(is_over); });
  s2().stop();
  c1().drop_lost_legs();
  for (int i = 0; i < 500 && settled == 0; ++i) pauses.pause_ms(10);
  EXPECT_EQ(settled, 1);
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[0]});
  // The data plane starts again, with ids that begin anew; the watcher finds it.
  c1().stop();
  s2().start();
  c1().start();
  run(3);
  c1().rebuild_to(100);
  run(1);
  ASSERT_EQ(volume().in_sync, both);
  s1().stop();
  c1().drop_lost_legs();
  for (int i = 0; i < 500 && settled == 1; ++i) pauses.pause_ms(10);
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[1]});
  is_over = true;
  watching.join();
}

TEST_P(LoopsTest, while_the_database_is_away_an_exclusion_waits_and_is_settled_when_it_is_back) {
  make_ready();
  s2().stop();
  c1().drop_lost_legs();
  auto blocking = open_sqlite(directory_ / "test.db");
  ASSERT_TRUE((*blocking)->script("ALTER TABLE volumes RENAME TO volumes_away"));
  RaidWatcher watcher(*store_, environment_, socket(2), [] {});
  EXPECT_EQ(watcher.round().value(), false);
  EXPECT_EQ(watcher.round().value(), false) << "it looks again although no event comes";
  EXPECT_NE(c1().ask("bdev_raid_get_bdevs").find("leaving"), std::string::npos);
  ASSERT_TRUE((*blocking)->script("ALTER TABLE volumes_away RENAME TO volumes"));
  EXPECT_EQ(watcher.round().value(), true);
  EXPECT_EQ(volume().in_sync.size(), 1u);
  EXPECT_EQ(c1().ask("bdev_raid_get_bdevs").find("leaving"), std::string::npos);
}

// It waits for an exclusion while its volume goes to somebody else: the writes that it holds are never acknowledged.
TEST_P(LoopsTest, a_mirror_whose_epoch_is_over_is_fenced_and_not_confirmed) {
  make_ready();
  s2().stop();
  c1().drop_lost_legs();
  auto connection = open_sqlite(directory_ / "test.db");
  ASSERT_TRUE((*connection)->execute("UPDATE volumes SET epoch = epoch + 1", {}));
  const std::vector<int64_t> both = volume().in_sync;
  RaidWatcher watcher(*store_, environment_, socket(2), [] {});
  c1().forget_changes();
  EXPECT_TRUE(watcher.round().value());
  EXPECT_EQ(c1().changes(), std::vector<std::string>{"diskengine_raid_fence " + raid_bdev_name(volume_)});
  EXPECT_EQ(volume().in_sync, both);
}

TEST_P(LoopsTest, a_mirror_is_fenced_before_it_is_taken_from_under_its_guest) {
  make_ready();
  auto connection = open_sqlite(directory_ / "test.db");
  ASSERT_TRUE((*connection)->execute("UPDATE volumes SET epoch = epoch + 1", {}));
  c1().forget_changes();
  run();
  const std::vector<std::string> order = c1().changes();
  ASSERT_GE(order.size(), 3u);
  EXPECT_EQ(order[0], "diskengine_raid_fence " + raid_bdev_name(volume_));
  EXPECT_EQ(order[1], "vhost_delete_controller " + vhost_controller_name(attachment_));
}

TEST_P(LoopsTest, a_data_plane_that_holds_no_writes_works_as_before_and_is_known_for_it) {
  c1().lack("diskengine_raid_set_epoch");
  if (has_superblock()) {
    volume_ = make_volume();
    run();
    attachment_ = attach(volume_);
    run();
    EXPECT_EQ(attachment().status.state, "failed");
    EXPECT_NE(attachment().status.reason.find("no diskengine_raid_assemble"), std::string::npos);
    EXPECT_EQ(c1().ask("bdev_raid_get_bdevs"), "[]");
    return;
  }
  make_ready();
  EXPECT_FALSE(graph().node(compute_)->holds_writes);
  s2().stop();
  c1().drop_lost_legs();
  run(1);
  EXPECT_EQ(attachment().status.state, "degraded");
  EXPECT_EQ(volume().in_sync.size(), 1u);
}

// The stale leg must come back by rebuild although the mirror itself has forgotten who was in it.
TEST_P(LoopsTest, a_compute_node_that_restarts_while_degraded_never_mirrors_the_stale_replica) {
  make_ready();
  const std::vector<int64_t> both = volume().in_sync;
  s2().stop();
  c1().drop_lost_legs();
  run(1);
  c1().stop();
  s2().start();
  run(2);
  c1().forget_changes();
  c1().start();
  run(3);
  const std::string stale = base_bdev_name_from_nqn(graph().replicas[1].nqn);
  bool rebuilt = false;
  for (const std::string& change : c1().changes()) rebuilt = rebuilt || change == "bdev_raid_add_base_bdev " + stale;
  EXPECT_TRUE(rebuilt);
  EXPECT_EQ(attachment().status.state, "rebuilding");
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[0]});
  EXPECT_EQ(c1().ask("bdev_get_bdevs").find("standin"), std::string::npos) << "the stand-in is gone";
}

TEST_P(LoopsTest, a_mirror_starts_without_a_missing_replica_only_after_the_grace_and_its_exclusion) {
  volume_ = make_volume();
  run();
  s2().stop();
  attachment_ = attach(volume_);
  run(2);
  EXPECT_EQ(attachment().status.state, "waiting");
  EXPECT_NE(attachment().status.reason.find("starting without it in"), std::string::npos) << attachment().status.reason;
  EXPECT_EQ(volume().in_sync.size(), 2u);
  run(12);
  EXPECT_EQ(attachment().status.state, "degraded");
  EXPECT_EQ(volume().in_sync.size(), 1u);
}

TEST_P(LoopsTest, with_no_current_replica_reachable_the_volume_stays_down_and_keeps_its_in_sync_set) {
  make_ready();
  const std::vector<int64_t> both = volume().in_sync;
  s2().stop();
  c1().drop_lost_legs();
  run(1);
  s1().stop();
  c1().stop();
  s2().start();
  run(1);
  c1().start();
  run(20);
  EXPECT_EQ(attachment().status.state, "down");
  EXPECT_NE(attachment().status.reason.find("no replica with current data is reachable"), std::string::npos);
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both[0]});
  s1().start();
  run(8);
  EXPECT_EQ(attachment().status.state, "rebuilding");
}

TEST_P(LoopsTest, deleting_takes_apart_from_the_guest_inwards) {
  make_ready();
  c1().forget_changes();
  ASSERT_TRUE(store_->request_delete_attachment(attachment_));
  run();
  const std::vector<std::string> order = c1().changes();
  ASSERT_EQ(order.size(), 4u);
  EXPECT_EQ(order[0], "vhost_delete_controller " + vhost_controller_name(attachment_));
  EXPECT_EQ(order[1], "bdev_raid_delete " + raid_bdev_name(volume_));
  EXPECT_TRUE(order[2].starts_with("bdev_nvme_detach_controller"));
  EXPECT_EQ(graph().attachment(attachment_), nullptr);
  EXPECT_EQ(volume().writer, 0);

  s1().forget_changes();
  ASSERT_TRUE(store_->request_delete_volume(volume_));
  run();
  EXPECT_TRUE(graph().volumes.empty());
  EXPECT_TRUE(graph().lvols.empty());
  EXPECT_EQ(s1().changes().size(), 2u);
  EXPECT_EQ(s1().ask("bdev_get_bdevs").find("Logical Volume"), std::string::npos);
}

TEST_P(LoopsTest, a_step_that_fails_says_why_and_is_tried_again) {
  s1().fail_next("nvmf_create_subsystem", -32603, "Unable to create subsystem");
  volume_ = make_volume();
  run(1);
  EXPECT_EQ(graph().replicas[0].status.state, "waiting");
  EXPECT_NE(graph().replicas[0].status.reason.find("Unable to create subsystem"), std::string::npos);
  run(2);
  EXPECT_EQ(graph().replicas[0].status.state, "ready");
}

TEST_P(LoopsTest, a_data_plane_without_io_uring_gets_aio_bdevs) {
  s1().lack("bdev_uring_create");
  volume_ = make_volume();
  run();
  EXPECT_EQ(graph().replicas[0].status.state, "ready");
  EXPECT_NE(s1().ask("bdev_get_bdevs").find("AIO disk"), std::string::npos);
  ASSERT_TRUE(store_->request_delete_volume(volume_));
  run();
  EXPECT_TRUE(graph().volumes.empty());
}

TEST_P(LoopsTest, an_lvol_whose_data_vanished_is_never_replaced_by_an_empty_one) {
  make_ready();
  s1().stop();
  s1().lose_lvols();
  s1().start();
  run(3);
  EXPECT_EQ(s1().ask("bdev_get_bdevs").find("Logical Volume"), std::string::npos);
  EXPECT_EQ(graph().lvols[0].status.state, "failed");
  EXPECT_NE(graph().lvols[0].status.reason.find("missing"), std::string::npos);
}

TEST_P(LoopsTest, an_lvol_made_just_before_its_uuid_was_recorded_is_found_by_its_name) {
  volume_ = make_volume();
  run();
  const Lvol lvol = graph().lvols[0];
  ASSERT_TRUE(store_->set_provisioned(lvol.id, ""));
  auto connection = open_sqlite(directory_ / "test.db");
  ASSERT_TRUE((*connection)->execute("UPDATE lvols SET provisioned = 0, uuid = NULL WHERE id = $1", {lvol.id}));
  s1().forget_changes();
  run();
  EXPECT_EQ(graph().lvols[0].uuid, lvol.uuid);
  EXPECT_TRUE(s1().changes().empty());
}

TEST_P(LoopsTest, a_disk_that_is_not_the_initialised_one_is_not_filled) {
  run();
  s1().stop();
  s1().lose_disks();
  s1().start();
  volume_ = make_volume();
  run();
  EXPECT_EQ(graph().disks[0].status.state, "failed");
  EXPECT_NE(graph().disks[0].status.reason.find("is not the disk that was initialised"), std::string::npos);
  EXPECT_EQ(s1().ask("bdev_lvol_get_lvstores"), "[]");
  EXPECT_EQ(graph().lvols[0].status.state, "waiting");
}

TEST_P(LoopsTest, a_disk_whose_store_changes_nothing_any_more_says_so_and_serves_what_it_has) {
  make_ready();
  s1().freeze_stores("a page could not be written");
  run(2);
  EXPECT_EQ(graph().disks[0].status.state, "failed");
  EXPECT_NE(graph().disks[0].status.reason.find("a page could not be written"), std::string::npos);
  EXPECT_EQ(graph().lvols[0].status.state, "ready");
  EXPECT_EQ(graph().replicas[0].status.state, "ready");
  s1().stop();
  s1().start();
  run(3);
  EXPECT_EQ(graph().disks[0].status.state, "ready");
}

TEST_P(LoopsTest, a_disk_of_another_set_up_is_refused) {
  Disk disk;
  disk.node_id = graph().node_named("s1")->id;
  disk.path = make_disk_file("taken");
  s1().put_foreign_store(disk.path);
  const int64_t id = store_->add_disk(disk).value();
  run(2);
  EXPECT_EQ(graph().disk(id)->status.state, "failed");
  EXPECT_NE(graph().disk(id)->status.reason.find("another set-up"), std::string::npos);
}

TEST_P(LoopsTest, a_volume_that_lost_all_its_replicas_works_again_when_they_return) {
  make_ready();
  s1().stop();
  s2().stop();
  c1().give_up_lost_controllers();
  run(2);
  EXPECT_EQ(attachment().status.state, "down");
  EXPECT_FALSE(volume().in_sync.empty());
  s1().start();
  s2().start();
  run(8);
  EXPECT_EQ(attachment().status, (Status{"ready", ""}));
  EXPECT_NE(c1().ask("vhost_get_controllers").find(raid_bdev_name(volume_)), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(On, LoopsTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "superblocks" : "plain"; });

}  // namespace
}  // namespace diskengine::control
