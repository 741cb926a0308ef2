#include "control/store/store.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <thread>

#include "control/naming.h"
#include "control/store/migrations.h"
#include "control/store/open_database.h"
#include "control/store/postgres.h"
#include "control/store/rows.h"
#include "control/store/sqlite.h"
#include "control/testing/postgres_server.h"
#include "control/testing/test_environment.h"

namespace diskengine::control {
namespace {

// Each test runs on both databases.
class StoreTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (on_postgres()) PostgresServer::shared().clear();
    directory_ = std::filesystem::temp_directory_path() / ("store-test-" + std::to_string(::getpid()));
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    store_ = reopen();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static bool on_postgres() { return std::string_view(GetParam()) == "postgres"; }
  std::string database() const {
    return on_postgres() ? PostgresServer::shared().conninfo() : (directory_ / "test.db").string();
  }
  std::unique_ptr<SqlConnection> connect() {
    auto connection = open_database(database(), environment_);
    EXPECT_TRUE(connection) << connection.error().message();
    return std::move(*connection);
  }

  std::unique_ptr<Store> reopen() {
    auto store = Store::open(connect(), environment_);
    EXPECT_TRUE(store) << store.error().message();
    return std::move(*store);
  }

  Node storage_node(const std::string& name) {
    Node node;
    node.name = name;
    node.role = kRoleStorage;
    node.rpc_socket = "/tmp/" + name + ".sock";
    node.address = "127.0.0.1";
    node.port = 4420;
    return node;
  }

  // Two storage nodes with a disk each, a compute node, a volume; returns the volume's id.
  int64_t make_volume(const std::string& name = "v") {
    std::vector<int64_t> disks;
    for (const char* node_name : {"s1", "s2"}) {
      const int64_t node = store_->put_node(storage_node(node_name)).value();
      Disk disk;
      disk.node_id = node;
      disk.path = "/d";
      disks.push_back(store_->add_disk(disk).value());
    }
    Node compute;
    compute.name = "c1";
    compute.role = kRoleCompute;
    compute.vhost_dir = "/vhost";
    compute_ = store_->put_node(compute).value();
    return store_->create_volume({.name = name, .size_bytes = 1 << 20, .block_size = 512, .disk_ids = disks}).value();
  }

  TestEnvironment environment_;
  std::filesystem::path directory_;
  std::unique_ptr<Store> store_;
  int64_t compute_ = 0;
};

TEST_P(StoreTest, a_volume_is_there_with_its_replicas_after_the_process_starts_again) {
  const int64_t id = make_volume();
  store_ = reopen();
  const Graph graph = store_->load_graph().value();
  const Volume* volume = graph.volume_named("v");
  ASSERT_NE(volume, nullptr);
  EXPECT_EQ(volume->id, id);
  const auto replicas = graph.replicas_of(id);
  ASSERT_EQ(replicas.size(), 2u);
  EXPECT_EQ(volume->in_sync, (std::vector<int64_t>{replicas[0]->id, replicas[1]->id}));
  EXPECT_NE(graph.node_of(*replicas[0]), graph.node_of(*replicas[1]));
  EXPECT_EQ(graph.promised_bytes(graph.disks[0].id), 1 << 20);
}

TEST_P(StoreTest, a_name_that_is_taken_is_refused_and_changes_nothing) {
  make_volume();
  const auto again = store_->create_volume({.name = "v", .size_bytes = 1, .block_size = 512, .disk_ids = {1, 2}});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Errc::already_exists);
  EXPECT_EQ(store_->load_graph()->lvols.size(), 2u);
}

TEST_P(StoreTest, attaching_takes_the_next_epoch_and_only_one_of_two_callers_wins) {
  const int64_t volume = make_volume();
  const auto first = store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 0});
  ASSERT_TRUE(first);
  const auto second = store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 0});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::conflict);
  const Graph graph = store_->load_graph().value();
  EXPECT_EQ(graph.volume(volume)->epoch, 1);
  EXPECT_EQ(graph.volume(volume)->writer, *first);
  EXPECT_EQ(graph.attachment(*first)->socket_path, "/vhost/vhost" + std::to_string(*first));
}

TEST_P(StoreTest, ids_are_never_used_twice) {
  const int64_t volume = make_volume();
  const int64_t first =
      store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 0}).value();
  ASSERT_TRUE(store_->remove_attachment(first));
  const int64_t second =
      store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 1}).value();
  EXPECT_GT(second, first);
}

TEST_P(StoreTest, in_sync_changes_only_from_the_expected_set_in_the_expected_epoch) {
  const int64_t volume = make_volume();
  const std::vector<int64_t> both = store_->load_graph()->volume(volume)->in_sync;
  const std::vector<int64_t> one = {both[0]};
  const auto change = [&](int64_t epoch, int64_t version, const auto& expected, const auto& next) {
    return *store_->change_in_sync(
        {.volume_id = volume, .epoch = epoch, .version = version, .expected = expected, .next = next});
  };
  EXPECT_FALSE(change(7, 0, both, one));
  EXPECT_FALSE(change(0, 0, one, both));
  EXPECT_TRUE(change(0, 0, both, one));
  EXPECT_EQ(store_->load_graph()->volume(volume)->in_sync, one);
}

// A replica is excluded that is not in the set: whoever saw it well before that may not record it any more.
TEST_P(StoreTest, no_decision_about_in_sync_is_made_on_an_old_one_even_if_the_set_is_the_same) {
  const int64_t volume = make_volume();
  const std::vector<int64_t> both = store_->load_graph()->volume(volume)->in_sync;
  const std::vector<int64_t> one = {both[0]};
  const auto change = [&](int64_t version, const auto& expected, const auto& next) {
    return *store_->change_in_sync(
        {.volume_id = volume, .epoch = 0, .version = version, .expected = expected, .next = next});
  };
  ASSERT_TRUE(change(0, both, one));
  const int64_t events = store_->events(1)->at(0).id;
  EXPECT_TRUE(change(1, one, one));
  EXPECT_EQ(store_->events(1)->at(0).id, events) << "nothing that people need to know of";
  EXPECT_FALSE(change(1, one, both));
  EXPECT_EQ(store_->load_graph()->volume(volume)->in_sync_version, 2);
  EXPECT_TRUE(change(2, one, both));
}

TEST_P(StoreTest, a_recovery_mints_an_epoch_for_the_attachment_too_and_is_decided_on_what_was_read) {
  const int64_t id = make_volume();
  const int64_t attachment =
      store_->create_attachment({.volume_id = id, .node_id = compute_, .expected_epoch = 0}).value();
  const std::vector<int64_t> both = store_->load_graph()->volume(id)->in_sync;
  environment_.pause_ms(5000);
  ASSERT_TRUE(
      *store_->change_in_sync({.volume_id = id, .epoch = 1, .version = 0, .expected = both, .next = {both[0]}}));
  const int64_t left_ms = store_->load_graph()->replica(both[1])->left_ms;
  EXPECT_NE(left_ms, 0);
  Recovery recovery{.volume_id = id, .epoch = 1, .version = 0, .replica_id = both[1], .lost = "all"};
  EXPECT_EQ(store_->recover_volume(recovery).error().code(), Errc::conflict);
  recovery.version = 1;
  ASSERT_TRUE(store_->recover_volume(recovery));
  const Graph graph = store_->load_graph().value();
  EXPECT_EQ(graph.volume(id)->epoch, 2);
  EXPECT_EQ(graph.attachment(attachment)->epoch, 2);
  EXPECT_EQ(graph.volume(id)->writer, attachment);
  EXPECT_EQ(graph.volume(id)->in_sync, std::vector<int64_t>{both[1]});
  EXPECT_EQ(graph.replica(both[1])->left_ms, 0);
  EXPECT_NE(graph.replica(both[0])->left_ms, 0);
  EXPECT_EQ(store_->events(1)->at(0).state, "recovered");
  EXPECT_FALSE(
      *store_->change_in_sync({.volume_id = id, .epoch = 1, .version = 2, .expected = {both[1]}, .next = both}))
      << "the old epoch is over";
}

TEST_P(StoreTest, a_move_takes_the_next_epoch_to_another_node_and_only_from_the_epoch_it_was_decided_on) {
  const int64_t id = make_volume();
  const int64_t attachment =
      store_->create_attachment({.volume_id = id, .node_id = compute_, .expected_epoch = 0}).value();
  Node other;
  other.name = "c2";
  other.role = kRoleCompute;
  other.vhost_dir = "/other/";
  const int64_t node = store_->put_node(other).value();
  EXPECT_EQ(store_->move_attachment({.attachment_id = attachment, .node_id = node, .expected_epoch = 0}).error().code(),
            Errc::conflict);
  EXPECT_EQ(store_->move_attachment({.attachment_id = attachment, .node_id = 99, .expected_epoch = 1}).error().code(),
            Errc::not_found);
  ASSERT_TRUE(store_->move_attachment({.attachment_id = attachment, .node_id = node, .expected_epoch = 1}));
  const Graph graph = store_->load_graph().value();
  EXPECT_EQ(graph.volume(id)->epoch, 2);
  EXPECT_EQ(graph.volume(id)->writer, attachment);
  EXPECT_EQ(graph.attachment(attachment)->epoch, 2);
  EXPECT_EQ(graph.attachment(attachment)->node_id, node);
  EXPECT_EQ(graph.attachment(attachment)->socket_path, "/other/" + vhost_controller_name(attachment));
  const std::vector<int64_t> both = graph.volume(id)->in_sync;
  EXPECT_FALSE(
      *store_->change_in_sync({.volume_id = id, .epoch = 1, .version = 0, .expected = both, .next = {both[0]}}))
      << "the node that had it decides nothing any more";
}

TEST_P(StoreTest, a_fence_is_recorded_for_the_current_epoch_alone_and_never_goes_back) {
  const int64_t volume = make_volume();
  const int64_t replica = store_->load_graph()->replicas[0].id;
  EXPECT_FALSE(*store_->set_fenced({.replica_id = replica, .epoch = 1, .host_nqn = "h1"})) << "not attached yet";
  const int64_t first =
      store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 0}).value();
  EXPECT_TRUE(*store_->set_fenced({.replica_id = replica, .epoch = 1, .host_nqn = "h1"}));
  EXPECT_TRUE(*store_->set_fenced({.replica_id = replica, .epoch = 1, .host_nqn = "h1"})) << "twice is no harm";
  ASSERT_TRUE(store_->remove_attachment(first));
  ASSERT_TRUE(store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 1}));
  EXPECT_FALSE(*store_->set_fenced({.replica_id = replica, .epoch = 1, .host_nqn = "h1"})) << "the epoch is over";
  EXPECT_TRUE(*store_->set_fenced({.replica_id = replica, .epoch = 2, .host_nqn = "h2"}));
  EXPECT_EQ(store_->load_graph()->replica(replica)->fenced_epoch, 2);
  EXPECT_EQ(store_->load_graph()->replica(replica)->admitted_host, "h2");
}

TEST_P(StoreTest, an_epoch_is_held_only_with_its_writer_and_its_set) {
  const int64_t volume = make_volume();
  const std::vector<int64_t> both = store_->load_graph()->volume(volume)->in_sync;
  const int64_t writer =
      store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 0}).value();
  EXPECT_TRUE(*store_->is_held({.volume_id = volume, .epoch = 1, .writer = writer, .in_sync = both}));
  EXPECT_TRUE(*store_->is_held({.volume_id = volume, .epoch = 1, .writer = writer, .in_sync = {}}));
  EXPECT_FALSE(*store_->is_held({.volume_id = volume, .epoch = 0, .writer = writer, .in_sync = both}));
  EXPECT_FALSE(*store_->is_held({.volume_id = volume, .epoch = 1, .writer = writer + 1, .in_sync = both}));
  EXPECT_FALSE(*store_->is_held({.volume_id = volume, .epoch = 1, .writer = writer, .in_sync = {both[0]}}));
}

TEST_P(StoreTest, an_attached_volume_is_not_deleted) {
  const int64_t volume = make_volume();
  ASSERT_TRUE(store_->create_attachment({.volume_id = volume, .node_id = compute_, .expected_epoch = 0}));
  const auto refused = store_->request_delete_volume(volume);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::conflict);
  EXPECT_TRUE(store_->load_graph()->volume(volume)->wanted);
}

TEST_P(StoreTest, a_volume_goes_with_its_last_lvol) {
  const int64_t volume = make_volume();
  ASSERT_TRUE(store_->request_delete_volume(volume));
  ASSERT_TRUE(store_->request_delete_volume(volume)) << "asking twice is no error";
  const Graph graph = store_->load_graph().value();
  ASSERT_TRUE(store_->remove_lvol(graph.lvols[0].id));
  EXPECT_NE(store_->load_graph()->volume(volume), nullptr);
  ASSERT_TRUE(store_->remove_lvol(graph.lvols[1].id));
  const Graph after = store_->load_graph().value();
  EXPECT_EQ(after.volume(volume), nullptr);
  EXPECT_TRUE(after.replicas.empty());
  EXPECT_EQ(store_->operations(1)->at(0).state, "done");
}

TEST_P(StoreTest, a_new_state_is_an_event_and_a_new_reason_alone_is_not) {
  const int64_t volume = make_volume();
  EXPECT_TRUE(*store_->set_status(Kind::volume, volume, {"working", "1 %"}));
  const int64_t events = store_->events(100)->at(0).id;
  EXPECT_TRUE(*store_->set_status(Kind::volume, volume, {"working", "2 %"}));
  EXPECT_FALSE(*store_->set_status(Kind::volume, volume, {"working", "2 %"}));
  EXPECT_EQ(store_->events(100)->at(0).id, events);
  EXPECT_EQ(store_->load_graph()->volume(volume)->status.reason, "2 %");
  EXPECT_TRUE(*store_->set_status(Kind::volume, volume, {"ready", ""}));
  EXPECT_EQ(store_->events(1)->at(0).state, "ready");
  EXPECT_EQ(store_->events(1)->at(0).object_name, "v");
}

TEST_P(StoreTest, a_state_for_an_object_that_is_gone_is_no_error) {
  EXPECT_FALSE(*store_->set_status(Kind::volume, 99, {"ready", ""}));
}

TEST_P(StoreTest, a_node_gets_new_addresses_and_keeps_its_id_but_never_another_role) {
  const int64_t id = store_->put_node(storage_node("s1")).value();
  Node moved = storage_node("s1");
  moved.address = "127.0.0.9";
  EXPECT_EQ(store_->put_node(moved).value(), id);
  EXPECT_EQ(store_->load_graph()->node(id)->address, "127.0.0.9");
  moved.role = kRoleCompute;
  const auto refused = store_->put_node(moved);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::conflict);
}

TEST_P(StoreTest, two_processes_see_each_others_changes) {
  const auto other = reopen();
  const int64_t volume = make_volume();
  EXPECT_NE(other->load_graph()->volume(volume), nullptr);
}

TEST_P(StoreTest, migrating_twice_changes_nothing) {
  make_volume();
  const auto connection = connect();
  ASSERT_TRUE(migrate(*connection, 1));
  const auto rows = connection->query("SELECT COUNT(*) FROM schema_migrations", {});
  EXPECT_EQ(rows->at(0).integer(0), static_cast<int64_t>(migrations().size()));
  EXPECT_EQ(store_->load_graph()->volumes.size(), 1u);
}

TEST_P(StoreTest, a_database_from_a_newer_program_is_refused) {
  const auto connection = connect();
  ASSERT_TRUE(connection->execute("INSERT INTO schema_migrations (version, name, applied_ms) VALUES (99, 'x', 0)", {}));
  const auto refused = migrate(*connection, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::not_supported);
}

TEST_P(StoreTest, several_processes_may_start_on_a_new_database_at_once) {
  store_.reset();
  std::filesystem::remove_all(directory_);
  std::filesystem::create_directories(directory_);
  if (on_postgres()) PostgresServer::shared().clear();
  constexpr int kProcesses = 16;
  std::vector<std::thread> starting;
  std::atomic<int> started{0};
  for (int i = 0; i < kProcesses; ++i)
    starting.emplace_back([&] {
      TestEnvironment own;
      auto connection = open_database(database(), own);
      if (!connection) return;
      auto store = Store::open(std::move(*connection), own);
      started += store && (*store)->load_graph() ? 1 : 0;
    });
  for (std::thread& thread : starting) thread.join();
  EXPECT_EQ(started, kProcesses);
}

// Many at once from the same row: each epoch is given to exactly one of them, and what they read is never torn.
TEST_P(StoreTest, of_many_changes_at_once_exactly_one_wins_each_round) {
  const int64_t volume = make_volume();
  const std::vector<int64_t> both = store_->load_graph()->volume(volume)->in_sync;
  const std::vector<std::vector<int64_t>> sets = {both, {both[0]}, {both[1]}};
  constexpr int kRounds = 20;
  for (int round = 0; round < kRounds; ++round) {
    const Volume before = *store_->load_graph().value().volume(volume);
    const std::vector<int64_t>& from = before.in_sync;
    std::atomic<int> winners{0};
    std::vector<std::thread> callers;
    std::mutex mutex;
    std::vector<int64_t> won;
    for (size_t i = 0; i < sets.size(); ++i)
      callers.emplace_back([&, i] {
        TestEnvironment own;
        auto store = Store::open(std::move(*open_database(database(), own)), own);
        const std::vector<int64_t>& to = sets[i];
        if (to == from) return;
        const auto changed = (*store)->change_in_sync(
            {.volume_id = volume, .epoch = 0, .version = before.in_sync_version, .expected = from, .next = to});
        const std::lock_guard lock(mutex);
        EXPECT_TRUE(changed) << changed.error().message();
        if (!changed || !*changed) return;
        ++winners;
        won = to;
      });
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(winners, 1);
    EXPECT_EQ(store_->load_graph()->volume(volume)->in_sync, won);
  }
}

// The environment of this test is years behind: its clock is not the one that times are compared by.
TEST_P(StoreTest, what_is_compared_over_processes_is_recorded_by_the_databases_clock) {
  const int64_t id = make_volume();
  const auto real_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch());
  ASSERT_TRUE(store_->set_node_seen(compute_));
  const std::vector<int64_t> both = store_->load_graph()->volume(id)->in_sync;
  ASSERT_TRUE(
      *store_->change_in_sync({.volume_id = id, .epoch = 0, .version = 0, .expected = both, .next = {both[0]}}));
  const Graph graph = store_->load_graph().value();
  constexpr int64_t kMinuteMs = 60'000;
  EXPECT_NEAR(store_->unix_ms().value(), real_ms.count(), kMinuteMs);
  EXPECT_NEAR(graph.node(compute_)->seen_ms, real_ms.count(), kMinuteMs);
  EXPECT_NEAR(graph.replica(both[1])->left_ms, real_ms.count(), kMinuteMs);
}

TEST_P(StoreTest, a_change_of_in_sync_is_an_event_that_names_both_sets) {
  const int64_t volume = make_volume();
  const std::vector<int64_t> both = store_->load_graph()->volume(volume)->in_sync;
  ASSERT_TRUE(*store_->change_in_sync({.volume_id = volume, .epoch = 0, .expected = both, .next = {both[0]}}));
  const Event event = store_->events(1)->at(0);
  EXPECT_EQ(event.state, "in_sync");
  EXPECT_EQ(event.reason, "replicas 1 instead of 1,2 hold the current data, epoch 0");
}

TEST(Sqlite, a_database_that_cannot_be_opened_says_what_to_check) {
  const auto refused = open_sqlite("/tmp/no/such/dir.db");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("check that its directory exists"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(On, StoreTest, ::testing::Values("sqlite", "postgres"),
                         [](const auto& database) { return std::string(database.param); });

// Changing the journal's mode is where SQLite does not wait by itself.
TEST(Sqlite, a_new_file_that_somebody_else_has_locked_is_waited_for) {
  const auto path = std::filesystem::temp_directory_path() / ("locked-" + std::to_string(::getpid()));
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "CREATE TABLE t (a); BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  std::atomic<bool> is_open{false};
  std::thread opening([&] {
    const auto connection = open_sqlite(path.string());
    EXPECT_TRUE(connection) << connection.error().message();
    is_open = true;
  });
  sqlite3_sleep(100);
  EXPECT_FALSE(is_open);
  EXPECT_EQ(sqlite3_exec(other, "ROLLBACK", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(other);
  opening.join();
  EXPECT_TRUE(is_open);
  std::filesystem::remove(path);
}

TEST(Database, is_a_file_or_a_connection_string) {
  EXPECT_TRUE(is_postgres("postgresql://db.example/de"));
  EXPECT_TRUE(is_postgres("host=10.0.0.1 dbname=de"));
  EXPECT_FALSE(is_postgres("/var/lib/diskengine/a=b.db"));
  EXPECT_FALSE(is_postgres("state.db"));
  EXPECT_FALSE(is_postgres(":memory:"));
}

TEST(Database, is_shown_without_its_password) {
  EXPECT_EQ(shown_database("postgresql://de:secret@db.example:5433/fleet"), "postgresql://db.example:5433/fleet");
  EXPECT_EQ(shown_database("host=db password=secret dbname=fleet"), "postgresql://db/fleet");
  EXPECT_EQ(shown_database("postgresql://%zz:secret@"), "postgresql");
  EXPECT_EQ(shown_database("/var/lib/de.db"), "/var/lib/de.db");
}

TEST(Migrations, are_numbered_without_gaps) {
  int64_t expected = 1;
  for (const Migration& step : migrations()) EXPECT_EQ(step.version, expected++);
}

TEST(Rows, lists_of_ids_come_back_as_they_went) {
  for (const std::vector<int64_t>& ids : {std::vector<int64_t>{}, {1}, {12, 3, 900}})
    EXPECT_EQ(ids_from_text(text_from_ids(ids)), ids);
  EXPECT_EQ(ids_from_text("1,2,x"), (std::vector<int64_t>{1, 2}));
}

}  // namespace
}  // namespace diskengine::control
