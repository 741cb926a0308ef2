#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <deque>
#include <mutex>
#include <sstream>

#include "control/api/http_server.h"
#include "control/cli/command_line.h"
#include "control/cli/exit_code.h"
#include "control/cli/output.h"
#include "control/cli/serve_options.h"
#include "control/cli/snippets.h"
#include "control/sizes.h"
#include "control/testing/test_environment.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

// The command against an API with scripted answers: each request takes the next one for its "METHOD /path", the last
// one is repeated.
class CommandTest : public ::testing::Test {
 protected:
  CommandTest()
      : socket_("/tmp/de-cli-" + std::to_string(::getpid())),
        server_(*HttpServer::start(socket_, [this](const ApiRequest& request) { return answer(request); })) {}

  ApiReply answer(const ApiRequest& request) {
    const std::lock_guard lock(mutex_);
    const bool dry = request.query.contains("dry_run");
    const std::string key = request.method + " " + request.path + (dry ? "?dry_run" : "");
    requests_.push_back(key + " " + request.body);
    auto found = answers_.find(key);
    if (found == answers_.end())
      return {404, R"({"error":{"code":"not_found","message":"there is no )" + request.path + "\"}}"};
    ApiReply reply = found->second.front();
    if (found->second.size() > 1) found->second.pop_front();
    return reply;
  }

  int run(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), {"diskengine", "--api", socket_.c_str()});
    out_.str("");
    err_.str("");
    Console console{.out = out_, .err = err_, .environment = environment_, .version = "1.2.3"};
    return run_command_line(static_cast<int>(arguments.size()), arguments.data(), console,
                            [this](const ServeOptions& options, Console&) {
                              served_ = options;
                              return kExitOk;
                            });
  }

  static std::string attachment(const std::string& state, const std::string& reason,
                                const std::string& percent = "null") {
    return R"({"id":1,"volume":"data","node":"c1","socket":"/run/v/vhost1","raid":"raid_1","host_nqn":"h","state":")" +
           state + R"(","reason":")" + reason + R"(","rebuild_percent":)" + percent + "}";
  }

  std::string socket_;
  std::mutex mutex_;
  std::map<std::string, std::deque<ApiReply>> answers_;
  std::vector<std::string> requests_;
  TestEnvironment environment_;
  std::ostringstream out_;
  std::ostringstream err_;
  ServeOptions served_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(CommandTest, a_store_is_checked_where_its_disk_is) {
  answers_["GET /v1/disks"] = {{200, R"([{"id":3,"node":"s1","path":"/dev/sdx"}])"}};
  answers_["GET /v1/nodes"] = {
      {200, R"([{"name":"s0","data_plane":"/x"},{"name":"s1","data_plane":"/no/such.sock"}])"}};
  for (const char* disk : {"3", "NvmeDisk3", "NvmeDisk3n1"}) {
    EXPECT_EQ(run({"store", "check", disk}), kExitUnreachable) << disk;
    EXPECT_NE(err_.str().find("disk 3 belongs to node s1"), std::string::npos) << err_.str();
    EXPECT_NE(err_.str().find("/no/such.sock"), std::string::npos) << err_.str();
  }
  EXPECT_EQ(run({"store", "check", "4"}), kExitNotFound);
  EXPECT_EQ(run({"store", "check", "lvs"}), kExitUsage);
  EXPECT_NE(err_.str().find("--data-plane"), std::string::npos) << err_.str();
}

TEST_F(CommandTest, data_goes_to_stdout_and_progress_to_stderr) {
  answers_["POST /v1/attachments"] = {{201, attachment("new", "")}};
  answers_["GET /v1/attachments/1"] = {{200, attachment("waiting", "replica 1 on s1: not yet")},
                                       {200, attachment("ready", "")}};
  EXPECT_EQ(run({"attachment", "create", "data", "--node", "c1"}), kExitOk);
  EXPECT_NE(err_.str().find("attachment 1 is waiting: replica 1 on s1: not yet"), std::string::npos) << err_.str();
  EXPECT_EQ(out_.str().find("waiting"), std::string::npos);
  EXPECT_NE(out_.str().find("path=/run/v/vhost1"), std::string::npos);
  EXPECT_NE(out_.str().find("<source type='unix' path='/run/v/vhost1'>"), std::string::npos);
  EXPECT_NE(out_.str().find("vhost_user=on,socket=/run/v/vhost1"), std::string::npos);
  EXPECT_EQ(requests_[0], R"(POST /v1/attachments {"volume":"data","node":"c1"})");
}

TEST_F(CommandTest, a_program_gets_json_with_the_snippets_in_it) {
  answers_["GET /v1/attachments/data"] = {{200, attachment("ready", "")}};
  EXPECT_EQ(run({"attachment", "show", "data", "-o", "json"}), kExitOk);
  const json::value shown = json::parse(out_.str());
  EXPECT_TRUE(shown.at("snippets").at("qemu").is_string());
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CommandTest, a_rebuild_shows_its_progress_and_the_time_left) {
  answers_["GET /v1/attachments/1"] = {{200, attachment("rebuilding", "rebuilding replica 2: 10 %", "10")},
                                       {200, attachment("rebuilding", "rebuilding replica 2: 20 %", "20")},
                                       {200, attachment("ready", "")}};
  EXPECT_EQ(run({"attachment", "wait", "1"}), kExitOk);
  EXPECT_NE(err_.str().find("20 % (about 1 s left)"), std::string::npos) << err_.str();
}

TEST_F(CommandTest, waiting_too_long_is_exit_5_and_says_for_what) {
  answers_["GET /v1/attachments/1"] = {{200, attachment("down", "no replica is reachable")}};
  EXPECT_EQ(run({"attachment", "wait", "1", "--timeout", "2s"}), kExitTimedOut);
  EXPECT_NE(err_.str().find("after 2 s attachment 1 is still down: no replica is reachable"), std::string::npos);
}

TEST_F(CommandTest, a_failed_object_ends_the_wait_with_exit_1) {
  answers_["GET /v1/attachments/1"] = {{200, attachment("failed", "wrong size")}};
  EXPECT_EQ(run({"attachment", "wait", "1"}), kExitFailed);
}

TEST_F(CommandTest, deleting_waits_until_it_is_gone) {
  answers_["DELETE /v1/attachments/data"] = {{202, R"({"deleting":1})"}};
  EXPECT_EQ(run({"attachment", "delete", "data"}), kExitOk);
  EXPECT_EQ(requests_.back(), "GET /v1/attachments/1 ");
}

TEST_F(CommandTest, a_dry_run_changes_nothing_and_prints_the_steps) {
  answers_["POST /v1/volumes?dry_run"] = {{200, R"({"dry_run":true,"would":["make a","export b"]})"}};
  EXPECT_EQ(run({"volume", "create", "data", "--size", "1GiB", "--dry-run"}), kExitOk);
  EXPECT_EQ(out_.str(), "would make a\nwould export b\n");
  EXPECT_EQ(requests_.size(), 1u);
}

TEST_F(CommandTest, each_kind_of_failure_has_its_exit_code) {
  EXPECT_EQ(run({"volume", "show", "none"}), kExitNotFound);
  answers_["POST /v1/volumes"] = {{409, R"({"error":{"code":"already_exists","message":"taken"}})"}};
  EXPECT_EQ(run({"volume", "create", "data", "--size", "1GiB"}), kExitConflict);
  EXPECT_EQ(err_.str(), "diskengine: taken\n");
  answers_["POST /v1/volumes"] = {{507, R"({"error":{"code":"no_space","message":"full"}})"}};
  EXPECT_EQ(run({"volume", "create", "data", "--size", "1GiB"}), kExitFailed);
  EXPECT_EQ(run({"volume", "create", "data", "--size", "1x"}), kExitUsage);
  EXPECT_EQ(run({"volume", "create", "--nonsense"}), kExitUsage);
  EXPECT_EQ(run({}), kExitUsage);
  EXPECT_EQ(run({"status", "-o", "xml"}), kExitUsage);
  answers_["GET /v1/volumes"] = {{200, "nonsense"}};
  EXPECT_EQ(run({"volume", "list"}), kExitFailed);
  EXPECT_EQ(run({"--version"}), kExitOk);
  EXPECT_EQ(out_.str(), "diskengine 1.2.3\n");
  server_->stop();
  server_.reset();
  EXPECT_EQ(run({"status"}), kExitUnreachable);
  EXPECT_NE(err_.str().find("diskengine serve"), std::string::npos);
}

TEST_F(CommandTest, status_shows_every_object_with_its_reason) {
  answers_["GET /v1/status"] = {
      {200,
       R"({"nodes":[{"id":1,"name":"s1","role":"storagenode","address":"1.2.3.4:4420","data_plane":"/r","vhost_dir":"",)"
       R"("state":"down","reason":"start it"}],"disks":[],"volumes":[],"replicas":[],"attachments":[]})"}};
  EXPECT_EQ(run({"status"}), kExitOk);
  EXPECT_NE(out_.str().find("1 of 1 objects are not ready"), std::string::npos) << out_.str();
  EXPECT_NE(out_.str().find("start it"), std::string::npos);
  EXPECT_EQ(run({"status", "-o", "yaml"}), kExitOk);
  EXPECT_NE(out_.str().find("nodes:\n  - id: 1\n    name: s1\n"), std::string::npos) << out_.str();
}

TEST_F(CommandTest, serve_takes_a_whole_set_up_on_one_machine) {
  EXPECT_EQ(
      run({"serve", "--db", "/tmp/x.db", "--storage-node", "s1=/r/s1,address=10.0.0.1:4420", "--storage-node",
           "s2=/r/s2,address=10.0.0.2:4420", "--compute-node", "c1=/r/c1,vhost-dir=/run/v", "--interval", "200ms"}),
      kExitOk)
      << err_.str();
  ASSERT_EQ(served_.new_nodes.size(), 3u);
  EXPECT_EQ(served_.new_nodes[1].address, "10.0.0.2");
  EXPECT_EQ(served_.new_nodes[2].vhost_dir, "/run/v");
  EXPECT_EQ(served_.tick_ms, 200);
  EXPECT_TRUE(served_.has_role("api"));
}

TEST_F(CommandTest, serve_takes_one_node_of_one_role) {
  EXPECT_EQ(
      run({"serve", "--role", "storagenode", "--node", "s1", "--data-plane", "/r/s1", "--address", "10.0.0.1:4420"}),
      kExitOk)
      << err_.str();
  ASSERT_EQ(served_.new_nodes.size(), 1u);
  EXPECT_EQ(served_.nodes, std::vector<std::string>{"s1"});
  EXPECT_EQ(run({"serve", "--node", "s1", "--data-plane", "/r/s1"}), kExitUsage) << "the role is not clear";
  EXPECT_EQ(run({"serve", "--role", "king"}), kExitUsage);
  EXPECT_EQ(run({"serve", "--storage-node", "s1"}), kExitUsage);
  EXPECT_EQ(run({"serve", "--storage-node", "s1=/r,address=host:1"}), kExitUsage);
  EXPECT_EQ(run({"serve", "--compute-node", "c1=relative,vhost-dir=/v"}), kExitUsage);
}

TEST_F(CommandTest, completion_offers_what_the_parser_accepts) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    EXPECT_EQ(run({"completion", shell}), kExitOk);
    for (const char* word : {"attachment", "create", "replicas", "dry-run"})
      EXPECT_NE(out_.str().find(word), std::string::npos) << shell << " " << word;
  }
  EXPECT_EQ(run({"completion", "tcsh"}), kExitUsage);
}

TEST(Sizes, are_read_as_people_write_them) {
  const struct {
    const char* text;
    int64_t bytes;
  } cases[] = {
      {"4096", 4096},  {"1KiB", 1024},      {"1k", 1024},           {"512 MiB", 512 << 20},     {"1GiB", 1 << 30},
      {"1G", 1 << 30}, {"1.5GiB", 3 << 29}, {"1GB", 1'000'000'000}, {"2TiB", int64_t{2} << 40}, {"0", 0}};
  for (const auto& each : cases) EXPECT_EQ(*parse_size(each.text), each.bytes) << each.text;
  for (const char* bad : {"", "x", "-1", "1x", "1GiBs", "1.3KB5", "1e99", "99999999999TiB", "0.3", "nan", "inf"})
    EXPECT_FALSE(parse_size(bad)) << bad;
}

TEST(Sizes, are_shown_short) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(4096), "4 KiB");
  EXPECT_EQ(format_size(int64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(format_size(int64_t{1} << 40), "1 TiB");
}

TEST(Durations, are_read_and_shown) {
  EXPECT_EQ(*parse_duration_ms("30"), 30'000);
  EXPECT_EQ(*parse_duration_ms("250ms"), 250);
  EXPECT_EQ(*parse_duration_ms("5m"), 300'000);
  EXPECT_FALSE(parse_duration_ms("5 years"));
  EXPECT_EQ(format_duration(200), "1 s");
  EXPECT_EQ(format_duration(200'000), "3 min 20 s");
  EXPECT_EQ(format_duration(7'500'000), "2 h 5 min");
}

TEST(Yaml, strings_that_would_be_read_as_something_else_are_quoted) {
  const json::value value = json::parse(
      R"({"a":"plain","b":"yes","c":"12","d":"","e":"x: y","f":null,"g":true,"h":[1,{"i":"j"}],"k":[],"l":{},"m":"a\nb"})");
  EXPECT_EQ(
      render_yaml(value),
      "a: plain\nb: \"yes\"\nc: \"12\"\nd: \"\"\ne: \"x: y\"\nf: null\ng: true\nh:\n  - 1\n  - i: j\nk: []\nl: {}\n"
      "m: \"a\\nb\"\n");
}

TEST(Json, is_indented_and_reads_back) {
  const json::value value = json::parse(R"({"a":[1,2],"b":{"c":[]},"d":{}})");
  EXPECT_EQ(json::parse(render_json(value)), value);
  EXPECT_EQ(render_json(json::parse(R"({"a":[1]})")), "{\n  \"a\": [\n    1\n  ]\n}\n");
}

TEST(Table, columns_are_aligned_and_wide_ones_left_out) {
  const json::value rows = json::parse(R"([{"a":"x","b":1},{"a":"long","b":null}])");
  const auto cell = [](const char* name) { return [name](const json::value& row) { return cell_text(row, name); }; };
  const std::vector<Column> columns = {{"A", cell("a")}, {"B", cell("b")}, {"C", cell("c"), true}};
  EXPECT_EQ(render_table(rows, columns, false), "A     B\nx     1\nlong  -\n");
  EXPECT_EQ(render_table(rows, columns, true), "A     B  C\nx     1  -\nlong  -  -\n");
}

TEST(Snippets, odd_paths_are_quoted_for_each_reader) {
  const SnippetInput odd{.socket_path = "/run/a,b 'c'&d", .volume_name = "data"};
  EXPECT_NE(qemu_snippet(odd).find(R"('socket,id=de-data,path=/run/a,,b '\''c'\''&d,reconnect=1')"), std::string::npos)
      << qemu_snippet(odd);
  EXPECT_NE(libvirt_snippet(odd).find("path='/run/a,b &apos;c&apos;&amp;d'"), std::string::npos)
      << libvirt_snippet(odd);
}

TEST(Snippets, qemu_gets_shared_memory_and_reconnects) {
  const std::string text = qemu_snippet({.socket_path = "/run/v/vhost1", .volume_name = "data", .queues = 4});
  EXPECT_NE(text.find("share=on"), std::string::npos);
  EXPECT_NE(text.find("reconnect=1"), std::string::npos);
  EXPECT_NE(text.find("vhost-user-blk-pci,chardev=de-data,num-queues=4"), std::string::npos);
}

TEST(ExitCodes, every_error_code_survives_the_api) {
  for (int i = static_cast<int>(Errc::invalid_argument); i <= static_cast<int>(Errc::internal); ++i)
    EXPECT_EQ(errc_named(name_of(static_cast<Errc>(i))), static_cast<Errc>(i));
  EXPECT_EQ(errc_named("nonsense"), Errc::internal);
}

}  // namespace
}  // namespace diskengine::control::cli
