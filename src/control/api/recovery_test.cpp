#include "control/api/recovery.h"

#include <gtest/gtest.h>

namespace diskengine::control {
namespace {

constexpr int64_t kNow = 1'700'000'100'000;

// Replicas 1, 2 and 3 on nodes of their own; 1 is in sync and its node is down, the others left 60 s and 90 s ago.
Graph lost_volume() {
  Graph graph;
  Volume volume;
  volume.id = 7;
  volume.name = "v";
  volume.epoch = 4;
  volume.in_sync = {1};
  volume.in_sync_version = 6;
  graph.volumes = {volume};
  for (int64_t id = 1; id <= 3; ++id) {
    Node node;
    node.id = id;
    node.name = "s" + std::to_string(id);
    node.seen_ms = kNow - 1'000;
    graph.nodes.push_back(node);
    Disk disk;
    disk.id = disk.node_id = id;
    graph.disks.push_back(disk);
    Lvol lvol;
    lvol.id = lvol.disk_id = id;
    lvol.provisioned = true;
    graph.lvols.push_back(lvol);
    VolumeLvolMapping replica;
    replica.id = replica.lvol_id = id;
    replica.volume_id = 7;
    replica.status.state = id == 1 ? "down" : "ready";
    replica.left_ms = id == 1 ? 0 : kNow - 30'000 * id;
    graph.replicas.push_back(replica);
  }
  return graph;
}

Result<RecoveryPlan> plan(const Graph& graph, int64_t replica) {
  return plan_recovery(graph, graph.volumes[0], {.replica_id = replica, .accept_data_loss = true}, kNow);
}

TEST(PlanRecovery, says_what_is_lost_and_decides_on_what_was_read) {
  const auto planned = plan(lost_volume(), 2);
  ASSERT_TRUE(planned) << planned.error().message();
  EXPECT_EQ(planned->recovery.replica_id, 2);
  EXPECT_EQ(planned->recovery.epoch, 4);
  EXPECT_EQ(planned->recovery.version, 6);
  EXPECT_NE(planned->steps[0].find("replica 2 on s2 alone, under epoch 5: what was acknowledged to the guest after "
                                   "2023-11-14T22:14:00Z, 60 s ago is lost"),
            std::string::npos)
      << planned->steps[0];
  EXPECT_EQ(planned->steps.size(), 3u);
}

TEST(PlanRecovery, of_several_that_may_differ_a_person_chooses) {
  Graph graph = lost_volume();
  EXPECT_NE(plan(graph, 0).error().message().find("--replica"), std::string::npos);
  graph.replicas[2].status.state = "down";
  EXPECT_EQ(plan(graph, 0)->recovery.replica_id, 2);
  EXPECT_EQ(plan(graph, 3).error().code(), Errc::invalid_argument);
  EXPECT_EQ(plan(graph, 1).error().code(), Errc::invalid_argument);
}

TEST(PlanRecovery, nothing_is_lost_while_a_current_replica_is_there) {
  Graph graph = lost_volume();
  graph.replicas[0].status.state = "ready";
  EXPECT_NE(plan(graph, 2).error().message().find("nothing has to be lost"), std::string::npos);
  graph.nodes[0].seen_ms = kNow - 60'000;
  EXPECT_TRUE(plan(graph, 2)) << "its node is gone together with the loops that would say so";
}

TEST(DecodeRecovery, refuses_what_it_does_not_know) {
  EXPECT_TRUE(decode_recovery(R"({"replica": 2, "accept_data_loss": true})")->accept_data_loss);
  EXPECT_FALSE(decode_recovery(R"({})")->accept_data_loss);
  for (const char* bad : {"", "[]", R"({"replica": "2"})", R"({"accept_data_loss": 1})", R"({"force": true})"})
    EXPECT_FALSE(decode_recovery(bad)) << bad;
}

}  // namespace
}  // namespace diskengine::control
