#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "client/http.h"
#include "client/unix_socket.h"
#include "control/api/decode.h"
#include "control/api/http_server.h"
#include "control/api/service.h"
#include "control/store/sqlite.h"
#include "control/testing/test_environment.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

class ApiTest : public ::testing::Test {
 protected:
  ApiTest() : store_(*Store::open(*open_sqlite(":memory:"), environment_)), service_(*store_, [this] { ++changes_; }) {}

  ApiReply call(const std::string& method, const std::string& target, const std::string& body = "") {
    return service_.handle(parse_target(method, target, body));
  }
  std::string error_code(const ApiReply& reply) {
    return json::value_to<std::string>(json::parse(reply.body).at("error").at("code"));
  }
  // Two storage nodes with ready disks of 1 GiB, a compute node.
  void set_up_nodes() {
    for (const char* name : {"s1", "s2"}) {
      const std::string body = std::string(R"({"name":")") + name +
                               R"(","role":"storagenode","data_plane":"/run/s","address":"127.0.0.1:4420"})";
      ASSERT_EQ(call("POST", "/v1/nodes", body).status, 201);
      const auto disk = call("POST", "/v1/disks", std::string(R"({"node":")") + name + R"(","path":"/d"})");
      ASSERT_EQ(disk.status, 201) << disk.body;
      const int64_t id = json::parse(disk.body).at("id").as_int64();
      ASSERT_TRUE(store_->set_disk_identity(id, "u", 1 << 30));
      ASSERT_TRUE(store_->set_status(Kind::disk, id, {"ready", ""}));
    }
    ASSERT_EQ(
        call("POST", "/v1/nodes", R"({"name":"c1","role":"baremetal","data_plane":"/run/c","vhost_dir":"/run/v"})")
            .status,
        201);
  }

  TestEnvironment environment_;
  int changes_ = 0;
  std::unique_ptr<Store> store_;
  ApiService service_;
};

TEST_F(ApiTest, a_volume_is_created_shown_attached_and_deleted) {
  set_up_nodes();
  const ApiReply created = call("POST", "/v1/volumes", R"({"name":"data","size_bytes":1048576})");
  ASSERT_EQ(created.status, 201) << created.body;
  EXPECT_EQ(json::parse(created.body).at("replicas").as_array().size(), 2u);
  EXPECT_EQ(call("GET", "/v1/volumes/data").status, 200);
  EXPECT_EQ(call("GET", "/v1/volumes/1").status, 200) << "by id";
  const ApiReply attached = call("POST", "/v1/attachments", R"({"volume":"data"})");
  ASSERT_EQ(attached.status, 201) << attached.body;
  EXPECT_EQ(json::parse(attached.body).at("socket"), "/run/v/vhost1");
  EXPECT_EQ(call("GET", "/v1/attachments/data").status, 200) << "by its volume's name";
  EXPECT_EQ(error_code(call("DELETE", "/v1/volumes/data")), "conflict");
  EXPECT_EQ(call("DELETE", "/v1/attachments/1").status, 202);
  ASSERT_TRUE(store_->remove_attachment(1));
  EXPECT_EQ(call("DELETE", "/v1/volumes/data").status, 202);
}

TEST_F(ApiTest, every_change_wakes_the_loops_and_reading_does_not) {
  set_up_nodes();
  const int before = changes_;
  call("GET", "/v1/status");
  call("POST", "/v1/volumes", R"({"name":"7"})");
  EXPECT_EQ(changes_, before);
  call("POST", "/v1/volumes", R"({"name":"data","size_bytes":1048576})");
  EXPECT_EQ(changes_, before + 1);
}

TEST_F(ApiTest, a_dry_run_says_what_it_would_do_and_does_nothing) {
  set_up_nodes();
  const ApiReply reply = call("POST", "/v1/volumes?dry_run=true", R"({"name":"data","size_bytes":1048576})");
  ASSERT_EQ(reply.status, 200);
  EXPECT_NE(reply.body.find("node s1, disk 1"), std::string::npos) << reply.body;
  EXPECT_TRUE(store_->load_graph()->volumes.empty());
  call("POST", "/v1/volumes", R"({"name":"data","size_bytes":1048576})");
  call("POST", "/v1/attachments?dry_run=true", R"({"volume":"data"})");
  call("DELETE", "/v1/volumes/data?dry_run=true");
  EXPECT_TRUE(store_->load_graph()->attachments.empty());
  EXPECT_TRUE(store_->load_graph()->volumes[0].wanted);
}

TEST_F(ApiTest, a_bad_request_is_refused_with_the_member_that_is_wrong) {
  set_up_nodes();
  const struct {
    const char* target;
    const char* body;
    const char* mentions;
  } cases[] = {
      {"/v1/volumes", "{", "not JSON"},
      {"/v1/volumes", "[]", "not a JSON object"},
      {"/v1/volumes", R"({"name":"data","size":5})", "'size' is not known"},
      {"/v1/volumes", R"({"name":5})", "'name' must be a string"},
      {"/v1/volumes", R"({"name":"data","size_bytes":"5"})", "'size_bytes' must be a whole number"},
      {"/v1/volumes", R"({"name":"../x","size_bytes":1048576})", "must start with a letter"},
      {"/v1/volumes", R"({"name":"data","size_bytes":1048580})", "multiple of 1 MiB"},
      {"/v1/volumes", R"({"name":"data","size_bytes":-1})", "must be 1 MiB to"},
      {"/v1/volumes", R"({"name":"data","size_bytes":1048576,"block_size":513})", "512 or 4096"},
      {"/v1/volumes", R"({"name":"data","size_bytes":1048576,"replicas":1})", "2 to 4 replicas"},
      {"/v1/disks", R"({"node":"s1","path":"relative"})", "absolute path"},
      {"/v1/disks", R"({"node":"c1","path":"/x"})", "disks belong to nodes of role storagenode"},
      {"/v1/nodes", R"({"name":"x","role":"king","data_plane":"/r"})", "role 'king'"},
      {"/v1/nodes", R"({"name":"x","role":"storagenode","data_plane":"/r"})", "needs the address"},
      {"/v1/nodes", R"({"name":"x","role":"storagenode","data_plane":"/r","address":"host:1"})", "must be IP:PORT"},
      {"/v1/attachments", R"({})", "'volume' must name"},
  };
  for (const auto& each : cases) {
    const ApiReply reply = call("POST", each.target, each.body);
    EXPECT_EQ(reply.status, 400) << each.body << " " << reply.body;
    EXPECT_NE(reply.body.find(each.mentions), std::string::npos) << each.body << " " << reply.body;
  }
}

TEST_F(ApiTest, what_is_missing_or_taken_has_its_own_status) {
  set_up_nodes();
  EXPECT_EQ(call("GET", "/v1/volumes/none").status, 404);
  EXPECT_EQ(call("GET", "/v1/attachments/99").status, 404);
  EXPECT_EQ(call("GET", "/v1/nothing").status, 404);
  EXPECT_EQ(call("GET", "/").status, 404);
  EXPECT_EQ(call("PUT", "/v1/volumes").status, 405);
  EXPECT_EQ(call("GET", "/v1/events?limit=0").status, 400);
  EXPECT_EQ(call("POST", "/v1/attachments", R"({"volume":"none"})").status, 404);
  EXPECT_EQ(call("POST", "/v1/disks", R"({"node":"s1","path":"/d"})").status, 409) << "the same disk";
  call("POST", "/v1/volumes", R"({"name":"data","size_bytes":1048576})");
  EXPECT_EQ(call("POST", "/v1/volumes", R"({"name":"data","size_bytes":1048576})").status, 409);
  EXPECT_EQ(call("POST", "/v1/volumes", R"({"name":"big","size_bytes":2147483648})").status, 507);
  call("POST", "/v1/attachments", R"({"volume":"data"})");
  const ApiReply again = call("POST", "/v1/attachments", R"({"volume":"data"})");
  EXPECT_EQ(again.status, 409);
  EXPECT_NE(again.body.find("diskengine attachment delete 1"), std::string::npos);
}

TEST(ParseTarget, decodes_path_and_query) {
  const ApiRequest request = parse_target("GET", "/v1/volumes/a%2fb%zz?dry_run=true&x=%20&y", "");
  EXPECT_EQ(request.path, "/v1/volumes/a/b%zz");
  EXPECT_EQ(request.query.at("dry_run"), "true");
  EXPECT_EQ(request.query.at("x"), " ");
  EXPECT_EQ(request.query.at("y"), "");
}

TEST(ParseAddress, takes_both_families_and_refuses_the_rest) {
  Node node;
  ASSERT_TRUE(parse_address("10.0.0.1:4420", &node));
  EXPECT_EQ(node.address, "10.0.0.1");
  ASSERT_TRUE(parse_address("[fd00::1]:1", &node));
  EXPECT_EQ(node.address, "fd00::1");
  EXPECT_EQ(node.port, 1);
  for (const char* bad :
       {"", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:44x", "fd00::1:1", ":1"})
    EXPECT_FALSE(parse_address(bad, &node)) << bad;
}

class HttpServerTest : public ::testing::Test {
 protected:
  HttpServerTest()
      : path_("/tmp/de-http-" + std::to_string(::getpid())),
        server_(*HttpServer::start(path_, [](const ApiRequest& request) {
          return ApiReply{request.path == "/no" ? 404 : 200, request.method + " " + request.path + " " + request.body};
        })) {}

  std::string raw(const std::string& bytes) {
    client::UnixStream stream = *client::UnixStream::connect(path_, client::Deadline::after_ms(1000));
    (void)stream.write_all(bytes, client::Deadline::after_ms(1000));
    std::string answer;
    char buffer[4096];
    for (;;) {
      const Result<size_t> got = stream.read_some(buffer, sizeof(buffer), client::Deadline::after_ms(5000));
      if (!got || *got == 0) return answer;
      answer.append(buffer, *got);
    }
  }

  std::string path_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, passes_requests_and_replies) {
  const auto reply = client::http_call({.socket_path = path_, .method = "POST", .target = "/v1/x", .body = "{}"});
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ(reply->status, 200);
  EXPECT_EQ(reply->body, "POST /v1/x {}");
  const auto missing = client::http_call({.socket_path = path_, .method = "DELETE", .target = "/no", .body = {}});
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->status, 404);
}

TEST_F(HttpServerTest, what_is_no_http_or_too_large_is_refused_and_the_server_goes_on) {
  EXPECT_NE(raw("nonsense\r\n\r\n").find(" 400 "), std::string::npos);
  EXPECT_NE(raw("GET / HTTP/1.1\r\nX: " + std::string(20'000, 'x') + "\r\n\r\n").find(" 431 "), std::string::npos);
  EXPECT_NE(raw("POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n").find(" 413 "), std::string::npos);
  EXPECT_TRUE(client::http_call({.socket_path = path_, .method = "GET", .target = "/", .body = {}}));
}

TEST_F(HttpServerTest, stopping_ends_the_socket) {
  server_->stop();
  server_.reset();
  const auto reply = client::http_call({.socket_path = path_, .method = "GET", .target = "/", .body = {}});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::unreachable);
}

}  // namespace
}  // namespace diskengine::control
