// What a PostgreSQL server that dies, hangs up or is away does to the store: no answer is ever wrong, and nothing is
// lost for good.
#include "control/store/postgres.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/unique_fd.h"
#include "control/api/service.h"
#include "control/store/postgres_connect.h"
#include "control/store/store.h"
#include "control/testing/commit_cutter.h"
#include "control/testing/postgres_server.h"
#include "control/testing/test_environment.h"

namespace diskengine::control {
namespace {

template <typename TimePoint>
int64_t ms_of(TimePoint time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

// Time as it passes.
class RealTimeEnvironment final : public Environment {
 public:
  int64_t unix_ms() const override { return ms_of(std::chrono::system_clock::now()); }
  int64_t monotonic_ms() const override { return ms_of(std::chrono::steady_clock::now()); }
  uint64_t random() override { return numbers_.random(); }
  void pause_ms(int64_t ms) override { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }
  std::string process_identity() const override { return {}; }
  bool has_ended(const std::string&) const override { return false; }

 private:
  TestEnvironment numbers_;
};

class PostgresTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server().clear();
    directory_ = std::filesystem::temp_directory_path() / ("postgres-test-" + std::to_string(::getpid()));
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    cutter_ = std::make_unique<CommitCutter>(directory_, PostgresServer::socket_in(server().socket_directory()));
    direct_ = open(server().conninfo(), environment_);
    store_ = open(PostgresServer::conninfo_at(directory_), environment_);
    make_volume();
  }
  void TearDown() override {
    store_.reset();
    cutter_.reset();
    std::filesystem::remove_all(directory_);
  }

  static PostgresServer& server() { return PostgresServer::shared(); }

  static std::unique_ptr<Store> open(const std::string& conninfo, Environment& environment) {
    auto connection = open_postgres(conninfo, environment);
    EXPECT_TRUE(connection) << connection.error().message();
    auto store = Store::open(std::move(*connection), environment);
    EXPECT_TRUE(store) << store.error().message();
    return std::move(*store);
  }

  void make_volume() {
    std::vector<int64_t> disks;
    for (const char* name : {"s1", "s2"}) {
      Node node;
      node.name = name;
      node.role = kRoleStorage;
      Disk disk;
      disk.node_id = direct_->put_node(node).value();
      disk.path = "/d";
      disks.push_back(direct_->add_disk(disk).value());
    }
    Node compute;
    compute.name = "c1";
    compute.role = kRoleCompute;
    compute_ = direct_->put_node(compute).value();
    volume_ =
        direct_->create_volume({.name = "v", .size_bytes = 1 << 20, .block_size = 512, .disk_ids = disks}).value();
    both_ = direct_->load_graph()->volume(volume_)->in_sync;
  }

  Volume volume() { return *direct_->load_graph().value().volume(volume_); }
  Result<bool> exclude_second() {
    const int64_t version = direct_->load_graph().value().volume(volume_)->in_sync_version;
    return store_->change_in_sync(
        {.volume_id = volume_, .epoch = 0, .version = version, .expected = both_, .next = {both_[0]}});
  }

  RealTimeEnvironment environment_;
  std::filesystem::path directory_;
  std::unique_ptr<CommitCutter> cutter_;
  std::unique_ptr<Store> direct_;  // past the proxy
  std::unique_ptr<Store> store_;   // through it
  int64_t volume_ = 0;
  int64_t compute_ = 0;
  std::vector<int64_t> both_;
};

TEST_F(PostgresTest, a_commit_whose_answer_is_lost_is_found_to_be_done) {
  cutter_->cut(Cut::after_commit);
  const Result<bool> changed = exclude_second();
  EXPECT_EQ(cutter_->cuts(), 1);
  ASSERT_TRUE(changed) << changed.error().message();
  EXPECT_TRUE(*changed);
  EXPECT_EQ(volume().in_sync, std::vector<int64_t>{both_[0]});
}

TEST_F(PostgresTest, a_commit_that_never_arrived_is_found_not_to_be_done_and_never_will_be) {
  cutter_->cut(Cut::before_commit);
  const Result<bool> changed = exclude_second();
  ASSERT_FALSE(changed);
  EXPECT_EQ(changed.error().code(), Errc::would_block) << changed.error().message();
  EXPECT_EQ(volume().in_sync, both_);
  const Result<bool> again = exclude_second();
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_TRUE(*again);
}

TEST_F(PostgresTest, attaching_once_gives_one_epoch_whatever_becomes_of_the_answer) {
  for (const Cut cut : {Cut::after_commit, Cut::before_commit}) {
    const int64_t epoch = volume().epoch;
    cutter_->cut(cut);
    const auto made = store_->create_attachment({.volume_id = volume_, .node_id = compute_, .expected_epoch = epoch});
    ASSERT_EQ(made.has_value(), cut == Cut::after_commit);
    EXPECT_EQ(volume().epoch, made ? epoch + 1 : epoch);
    EXPECT_EQ(volume().writer, made ? *made : 0);
    if (!made) continue;
    ASSERT_TRUE(store_->remove_attachment(*made));
  }
}

TEST_F(PostgresTest, a_process_whose_clock_is_years_ahead_takes_nobody_elses_receipt_away) {
  const auto receipts = [&] {
    auto connection = open_postgres(server().conninfo(), environment_).value();
    return connection->query("SELECT COUNT(*) FROM commit_receipts", {}).value().at(0).integer(0);
  };
  const int64_t before = receipts();
  ASSERT_GT(before, 0);
  class AheadEnvironment final : public TestEnvironment {
   public:
    int64_t unix_ms() const override { return 4'000'000'000'000; }
  } ahead;
  for (int i = 0; i < 8; ++i) ahead.random();  // so that it is not taken for one of the others
  const auto store = open(server().conninfo(), ahead);
  ASSERT_TRUE(store->set_status(Kind::volume, volume_, {.state = std::string(state::kReady), .reason = ""}));
  EXPECT_EQ(receipts(), before + 1);
}

TEST_F(PostgresTest, while_the_server_stays_away_the_outcome_is_said_to_be_unknown) {
  TestEnvironment stepped;  // the waits between its tries take no time
  store_ = open(PostgresServer::conninfo_at(directory_), stepped);
  cutter_->cut(Cut::after_commit, true);
  const Result<bool> changed = exclude_second();
  ASSERT_FALSE(changed);
  EXPECT_EQ(changed.error().code(), Errc::unreachable);
  EXPECT_NE(changed.error().message().find("it is not known whether"), std::string::npos) << changed.error().message();
  const auto meanwhile = store_->load_graph();
  ASSERT_FALSE(meanwhile);
  EXPECT_NE(meanwhile.error().message().find("unreachable since 2023-11-14T22:13:2"), std::string::npos)
      << meanwhile.error().message();
  EXPECT_NE(meanwhile.error().message().find("Attached volumes go on serving"), std::string::npos);
  cutter_->let_in();
  EXPECT_FALSE(store_->load_graph()) << "between two tries it does not ask the server";
  stepped.pause_ms(4'000);
  const auto graph = store_->load_graph();
  ASSERT_TRUE(graph) << graph.error().message();
  EXPECT_EQ(graph->volume(volume_)->in_sync, std::vector<int64_t>{both_[0]}) << "reading tells";
}

TEST_F(PostgresTest, the_api_says_since_when_the_database_is_away_and_works_again_after) {
  TestEnvironment stepped;
  store_ = open(PostgresServer::conninfo_at(directory_), stepped);
  ApiService api(*store_, [] {});
  EXPECT_EQ(api.handle(parse_target("GET", "/v1/health", "")).status, 200);
  server().kill();
  for (const char* path : {"/v1/health", "/v1/status", "/v1/volumes/v"}) {
    const ApiReply reply = api.handle(parse_target("GET", path, ""));
    EXPECT_EQ(reply.status, 503) << path;
    EXPECT_NE(reply.body.find("unreachable since"), std::string::npos) << reply.body;
  }
  server().start();
  stepped.pause_ms(4'000);
  EXPECT_EQ(api.handle(parse_target("GET", "/v1/health", "")).status, 200);
}

TEST_F(PostgresTest, a_server_that_was_restarted_meanwhile_is_not_noticed) {
  server().kill();
  server().start();
  const auto graph = store_->load_graph();
  ASSERT_TRUE(graph) << graph.error().message();
  EXPECT_TRUE(*exclude_second());
}

TEST_F(PostgresTest, a_standby_is_not_taken_for_the_database) {
  const auto refused =
      open_postgres(server().conninfo() + " options='-c default_transaction_read_only=on'", environment_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::unreachable);
}

TEST_F(PostgresTest, what_is_no_connection_string_is_refused) {
  const auto refused = open_postgres("host=x nonsense=1", environment_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::invalid_argument);
  EXPECT_NE(refused.error().message().find("nonsense"), std::string::npos) << refused.error().message();
}

TEST(PostgresConnect, has_a_try_for_each_host_with_its_own_address_and_port) {
  const auto options = postgres_options("host=a,b hostaddr=10.0.0.1,10.0.0.2 port=1,2 dbname=x connect_timeout=7");
  ASSERT_TRUE(options);
  const auto split = options_by_host(*options);
  const auto value = [&](size_t host, std::string_view keyword) {
    for (const PostgresOption& option : split[host])
      if (option.keyword == keyword) return option.value;
    return std::string("none");
  };
  ASSERT_EQ(split.size(), 2U);
  EXPECT_EQ(value(0, "host") + value(0, "hostaddr") + value(0, "port"), "a10.0.0.11");
  EXPECT_EQ(value(1, "host") + value(1, "hostaddr") + value(1, "port"), "b10.0.0.22");
  EXPECT_EQ(value(1, "dbname"), "x");
  EXPECT_EQ(value(1, "connect_timeout"), "7") << "given, so not ours";
  EXPECT_EQ(options_by_host(*postgres_options("host=a,b port=5")).at(1).size(),
            options_by_host(*postgres_options("host=a port=5")).at(0).size());
  EXPECT_EQ(options_by_host(*postgres_options("dbname=x")).size(), 1U) << "the environment may name the host";
}

TEST_F(PostgresTest, a_host_that_takes_connections_and_says_nothing_is_passed_over_in_time) {
  const UniqueFd silent(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  ASSERT_EQ(::bind(silent.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
  ASSERT_EQ(::listen(silent.get(), 4), 0);
  ASSERT_EQ(::getsockname(silent.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const int64_t began_ms = environment_.monotonic_ms();
  const auto refused = open_postgres("host=127.0.0.1 connect_timeout=1 dbname=x port=" + port, environment_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::unreachable);
  EXPECT_NE(refused.error().message().find("no answer from"), std::string::npos) << refused.error().message();
  EXPECT_LT(environment_.monotonic_ms() - began_ms, 5'000);

  auto options = *postgres_options(server().conninfo() + " connect_timeout=1");
  for (PostgresOption& option : options)
    if (option.keyword == "host") option.value = "127.0.0.1," + option.value;
  options.push_back({"port", port + ",5432"});
  const auto second = connect_postgres(options);
  EXPECT_TRUE(second) << second.error().message();
}

TEST_F(PostgresTest, a_statement_that_is_refused_leaves_the_connection_usable) {
  auto connection = open_postgres(server().conninfo(), environment_);
  ASSERT_TRUE((*connection)->begin_write());
  const auto taken =
      (*connection)->execute("INSERT INTO nodes SELECT * FROM nodes WHERE name = $1", {std::string("s1")});
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code(), Errc::already_exists) << taken.error().message();
  const auto committed = (*connection)->commit();
  EXPECT_FALSE(committed) << "a transaction in which a statement failed is not committed";
  (*connection)->rollback();
  EXPECT_TRUE((*connection)->query("SELECT id FROM nodes", {}));
}

// Changes back and forth while the server is killed and started again and sessions are cut at COMMIT. After each answer
// the row must be what the answer says; after "unknown" it may be either, and reading decides.
TEST_F(PostgresTest, through_kills_and_cuts_no_answer_is_ever_wrong) {
  constexpr int kKills = 4;
  std::atomic<bool> over{false};
  int done = 0, not_done = 0, unknown = 0, wrong = 0;
  std::thread changing([&] {
    std::vector<int64_t> now = both_;
    int64_t version = 0;
    for (int i = 0; !over; ++i) {
      if (i % 7 == 3) cutter_->cut(i % 2 == 0 ? Cut::before_commit : Cut::after_commit);
      const std::vector<int64_t> next = now.size() == 2 ? std::vector<int64_t>{both_[0]} : both_;
      const Result<bool> changed =
          store_->change_in_sync({.volume_id = volume_, .epoch = 0, .version = version, .expected = now, .next = next});
      Result<Graph> graph = store_->load_graph();
      while (!graph) {
        environment_.pause_ms(20);
        graph = store_->load_graph();
      }
      const std::vector<int64_t> found = graph->volume(volume_)->in_sync;
      const bool is_unknown = !changed && changed.error().code() == Errc::unreachable;
      const bool is_done = changed && *changed;
      if (found != (is_done ? next : now) && !is_unknown) ++wrong;
      if (found != next && found != now) ++wrong;
      ++(is_unknown ? unknown : is_done ? done : not_done);
      now = found;
      version = graph->volume(volume_)->in_sync_version;
    }
  });
  for (int kill = 0; kill < kKills; ++kill) {
    environment_.pause_ms(400);
    server().kill();
    environment_.pause_ms(100 * kill);
    server().start();
  }
  environment_.pause_ms(300);
  over = true;
  changing.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(done, 10);
  EXPECT_GT(not_done + unknown, 0);
  std::printf("%d changes done, %d not done, %d unknown; %d cuts at COMMIT, %d kills\n", done, not_done, unknown,
              cutter_->cuts(), kKills);
}

}  // namespace
}  // namespace diskengine::control
