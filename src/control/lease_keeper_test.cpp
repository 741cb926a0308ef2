#include "control/lease_keeper.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "control/store/open_database.h"
#include "control/testing/postgres_server.h"
#include "control/testing/test_environment.h"

namespace diskengine::control {
namespace {

// Two processes that want the same node, each with its own clock and its own connection, on both databases.
class LeaseKeeperTest : public ::testing::TestWithParam<const char*> {
 protected:
  struct Process {
    TestEnvironment environment;
    std::unique_ptr<Store> store;
    std::unique_ptr<LeaseKeeper> keeper;
  };

  void SetUp() override {
    if (on_postgres()) PostgresServer::shared().clear();
    directory_ = std::filesystem::temp_directory_path() / ("lease-test-" + std::to_string(::getpid()));
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    first_ = start("pid 1 on here;1");
    second_ = start("pid 2 on here;2");
    Node node;
    node.name = "s1";
    node.role = kRoleStorage;
    node_ = first_->store->put_node(node).value();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static bool on_postgres() { return std::string_view(GetParam()) == "postgres"; }
  std::unique_ptr<Process> start(const std::string& identity) {
    auto process = std::make_unique<Process>();
    process->environment.identity = identity;
    const std::string database =
        on_postgres() ? PostgresServer::shared().conninfo() : (directory_ / "test.db").string();
    process->store =
        std::move(*Store::open(std::move(*open_database(database, process->environment)), process->environment));
    process->keeper = std::make_unique<LeaseKeeper>(*process->store, process->environment);
    return process;
  }
  bool tick(Process& process) { return process.keeper->tick({node_}).value(); }
  // Both go on for `seconds`, each by its own clock.
  void run_both(int seconds) {
    for (int i = 0; i < seconds; ++i) {
      for (Process* process : {first_.get(), second_.get()}) {
        process->environment.pause_ms(1000);
        tick(*process);
      }
    }
  }
  void run(Process& process, int seconds) {
    for (int i = 0; i < seconds; ++i) {
      process.environment.pause_ms(1000);
      tick(process);
    }
  }
  int64_t number() { return second_->store->node_leases()->at(0).number; }

  std::filesystem::path directory_;
  std::unique_ptr<Process> first_;
  std::unique_ptr<Process> second_;
  int64_t node_ = 0;
};

TEST_P(LeaseKeeperTest, of_two_processes_one_serves_the_node_and_the_other_knows_which) {
  EXPECT_TRUE(tick(*first_));
  EXPECT_FALSE(tick(*second_));
  run_both(30);
  EXPECT_TRUE(first_->keeper->holds(node_));
  EXPECT_FALSE(second_->keeper->holds(node_));
  EXPECT_EQ(second_->keeper->other_owner(node_), "pid 1 on here");
  EXPECT_EQ(shown_process(second_->store->load_graph()->node(node_)->served_by), "pid 1 on here");
  EXPECT_EQ(number(), 1);
}

TEST_P(LeaseKeeperTest, one_that_does_not_count_on_stops_before_another_takes_over) {
  tick(*first_);
  run_both(2);
  first_->environment.pause_ms(LeaseKeeper::kValidMs);
  EXPECT_FALSE(first_->keeper->holds(node_)) << "it could not renew in time";
  run(*second_, 4);
  EXPECT_FALSE(second_->keeper->holds(node_));
  run(*second_, 2);
  EXPECT_TRUE(second_->keeper->holds(node_));
  EXPECT_EQ(number(), 2);
  // The first goes on where it was stopped: it stands by.
  EXPECT_FALSE(tick(*first_));
  EXPECT_FALSE(first_->keeper->holds(node_));
  EXPECT_EQ(first_->keeper->other_owner(node_), "pid 2 on here");
}

TEST_P(LeaseKeeperTest, one_that_is_seen_to_have_ended_is_replaced_at_once) {
  tick(*first_);
  EXPECT_FALSE(tick(*second_));
  second_->environment.ended = first_->environment.identity;
  EXPECT_TRUE(tick(*second_));
  EXPECT_TRUE(second_->keeper->holds(node_));
}

TEST_P(LeaseKeeperTest, a_lease_that_was_given_back_is_taken_at_once_under_a_new_number) {
  tick(*first_);
  first_->keeper->give_back();
  EXPECT_FALSE(first_->keeper->holds(node_));
  EXPECT_TRUE(tick(*second_));
  EXPECT_EQ(number(), 2);
}

// While nobody could read the database, its owner could not renew either.
TEST_P(LeaseKeeperTest, time_in_which_the_database_was_not_read_does_not_count) {
  tick(*first_);
  tick(*second_);
  first_->environment.pause_ms(60'000);
  second_->environment.pause_ms(60'000);
  EXPECT_FALSE(tick(*second_));
  EXPECT_FALSE(tick(*first_));
  EXPECT_TRUE(first_->keeper->holds(node_));
}

TEST_P(LeaseKeeperTest, a_lease_is_taken_only_as_it_was_seen) {
  tick(*first_);
  const NodeLease seen = first_->store->node_leases()->at(0);
  first_->environment.pause_ms(1000);
  tick(*first_);
  EXPECT_FALSE(*second_->store->take_node_lease(seen, "pid 2 on here;2")) << "its owner has counted on";
  EXPECT_TRUE(*second_->store->take_node_lease(second_->store->node_leases()->at(0), "pid 2 on here;2"));
}

INSTANTIATE_TEST_SUITE_P(On, LeaseKeeperTest, ::testing::Values("sqlite", "postgres"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace diskengine::control
