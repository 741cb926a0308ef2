#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <thread>

#include "client/http.h"
#include "client/jsonrpc.h"
#include "client/unix_socket.h"

namespace diskengine::client {
namespace {

namespace json = boost::json;

std::string socket_path(const char* name) { return "/tmp/de-client-" + std::to_string(::getpid()) + "-" + name; }

// Answers each request on each connection with the next of the given texts; an empty one hangs up without an answer.
class ScriptedServer {
 public:
  ScriptedServer(const std::string& path, std::vector<std::string> answers)
      : listener_(UnixListener::listen(path).value()), answers_(std::move(answers)), thread_([this] { serve(); }) {}
  ~ScriptedServer() {
    stopping_ = true;
    thread_.join();
  }

 private:
  void serve() {
    while (!stopping_) {
      Result<UnixStream> stream = listener_.accept(10);
      if (stream) serve_stream(*stream);
    }
  }
  void serve_stream(UnixStream& stream) {
    char buffer[4096];
    while (!stopping_ && next_ < answers_.size()) {
      const Result<size_t> got = stream.read_some(buffer, sizeof(buffer), Deadline::after_ms(10));
      if (!got && got.error().code() == Errc::timed_out) continue;
      if (!got || *got == 0) return;
      const std::string& answer = answers_[next_++];
      if (answer.empty()) return;
      // In small pieces: an answer may arrive in any number of them.
      for (const char c : answer) (void)stream.write_all(std::string_view(&c, 1), Deadline::after_ms(1000));
    }
    while (!stopping_) {
      const Result<size_t> got = stream.read_some(buffer, sizeof(buffer), Deadline::after_ms(10));
      if (got && *got == 0) return;
      if (!got && got.error().code() != Errc::timed_out) return;
    }
  }

  UnixListener listener_;
  std::vector<std::string> answers_;
  size_t next_ = 0;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

TEST(JsonRpcClient, returns_the_result) {
  const std::string path = socket_path("result");
  ScriptedServer server(path, {R"({"jsonrpc":"2.0","id":1,"result":{"version":"x"}})"});
  JsonRpcClient client({.socket_path = path});
  const auto answer = client.call("spdk_get_version", nullptr);
  ASSERT_TRUE(answer) << answer.error().message();
  EXPECT_EQ(answer->at("version"), "x");
}

TEST(JsonRpcClient, an_error_answer_has_the_errno_of_the_data_plane_and_names_the_method) {
  const std::string path = socket_path("error");
  ScriptedServer server(path, {R"({"jsonrpc":"2.0","id":1,"error":{"code":-19,"message":"No such device"}})",
                               R"({"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"Method not found"}})"});
  JsonRpcClient client({.socket_path = path});
  const auto missing = client.call("bdev_raid_delete", json::object{{"name", "x"}});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Errc::no_device);
  EXPECT_NE(missing.error().message().find("bdev_raid_delete on " + path), std::string::npos);
  const auto unknown = client.call("nope", nullptr);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code(), Errc::not_supported);
}

TEST(JsonRpcClient, says_unreachable_when_nobody_listens) {
  JsonRpcClient client({.socket_path = socket_path("nobody")});
  const auto answer = client.call("x", nullptr);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Errc::unreachable);
}

TEST(JsonRpcClient, gives_up_at_its_time_out_and_works_again_on_a_new_connection) {
  const std::string path = socket_path("slow");
  JsonRpcClient client({.socket_path = path, .timeout_ms = 50});
  {
    ScriptedServer server(path, {});
    const auto answer = client.call("x", nullptr);
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code(), Errc::timed_out);
  }
  ScriptedServer server(path, {R"({"jsonrpc":"2.0","id":2,"result":true})"});
  EXPECT_TRUE(client.call("x", nullptr));
}

TEST(JsonRpcClient, a_server_that_started_again_between_two_calls_is_not_noticed) {
  const std::string path = socket_path("again");
  JsonRpcClient client({.socket_path = path, .timeout_ms = 2000});
  for (const char* id : {"1", "2"}) {
    ScriptedServer server(path, {std::string(R"({"jsonrpc":"2.0","result":true,"id":)") + id + "}"});
    const auto answer = client.call("x", nullptr);
    EXPECT_TRUE(answer) << answer.error().message();
  }
}

TEST(JsonRpcClient, a_server_that_hangs_up_or_talks_nonsense_is_an_error_each_time) {
  const std::string path = socket_path("nonsense");
  ScriptedServer server(
      path, {"", "HTTP/1.1 400\r\n\r\n", "[1]", R"({"id":77,"result":1})", R"({"id":5})", R"({"id":6,"error":7})"});
  JsonRpcClient client({.socket_path = path, .timeout_ms = 2000});
  const Errc expected[] = {Errc::unreachable, Errc::protocol, Errc::protocol,
                           Errc::protocol,    Errc::protocol, Errc::protocol};
  for (const Errc code : expected) {
    const auto answer = client.call("x", nullptr);
    ASSERT_FALSE(answer);
    EXPECT_EQ(name_of(answer.error().code()), name_of(code)) << answer.error().message();
  }
}

TEST(HttpCall, returns_status_and_body) {
  const std::string path = socket_path("http");
  ScriptedServer server(path, {"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"});
  const auto answer = http_call({.socket_path = path, .method = "GET", .target = "/v1/x", .body = {}});
  ASSERT_TRUE(answer) << answer.error().message();
  EXPECT_EQ(answer->status, 404);
  EXPECT_EQ(answer->body, "{}");
}

TEST(HttpCall, bytes_that_are_no_http_are_a_protocol_error) {
  const std::string path = socket_path("nohttp");
  ScriptedServer server(path, {"{\"jsonrpc\":\"2.0\"}\r\n\r\n"});
  const auto answer = http_call({.socket_path = path, .method = "GET", .target = "/", .body = {}});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Errc::protocol);
}

TEST(HttpCall, nobody_listening_is_unreachable) {
  const auto answer = http_call({.socket_path = socket_path("nohttpd"), .method = "GET", .target = "/", .body = {}});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Errc::unreachable);
}

TEST(UnixListener, replaces_a_dead_socket_and_refuses_a_living_one) {
  const std::string path = socket_path("listener");
  {
    // What a killed process leaves behind: a socket file that nobody listens on.
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ::close(fd);
  }
  auto first = UnixListener::listen(path);
  ASSERT_TRUE(first);
  const auto second = UnixListener::listen(path);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::busy);
}

TEST(UnixStream, a_path_too_long_for_a_socket_is_refused) {
  const auto stream = UnixStream::connect(std::string(200, 'x'), Deadline::after_ms(10));
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().code(), Errc::invalid_argument);
}

}  // namespace
}  // namespace diskengine::client
