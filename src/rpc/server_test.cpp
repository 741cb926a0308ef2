#include "rpc/server.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "rpc/message.h"
#include "rpc/methods_app.h"

namespace diskengine::rpc {
namespace {

namespace json = boost::json;

constexpr int kAnswerLimitMs = 20'000;

// A blocking client that reads values as they come.
class Client {
 public:
  explicit Client(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << strerror(errno);
  }
  ~Client() { close(fd_); }

  void send_text(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<size_t>(sent));
    }
  }
  // Sends what fits without blocking; returns how much.
  size_t send_some(std::string_view text) {
    const ssize_t sent = send(fd_, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent > 0 ? static_cast<size_t>(sent) : 0;
  }
  void end_input() { shutdown(fd_, SHUT_WR); }
  // The next answer; "closed" at the end of the stream, "nothing" when none came in time.
  std::string receive() {
    while (true) {
      std::string_view bytes = unread_;
      auto next = reader_.next(bytes);
      unread_.erase(0, unread_.size() - bytes.size());
      if (std::get<0>(next)) return json::serialize(*std::get<0>(next));
      pollfd wait{fd_, POLLIN, 0};
      if (poll(&wait, 1, kAnswerLimitMs) != 1) return "nothing";
      char buffer[65536];
      const ssize_t got = recv(fd_, buffer, sizeof buffer, 0);
      if (got <= 0) return "closed";
      unread_.append(buffer, static_cast<size_t>(got));
    }
  }
  std::string ask(std::string_view text) {
    send_text(text);
    return receive();
  }

 private:
  int fd_;
  MessageReader reader_;
  std::string unread_;
};

// The methods of the process over a reactor in a thread of its own.
class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    path_ = testing::TempDir() + "/rpc_" + std::to_string(getpid()) + ".sock";
    add_app_methods(methods_, dispatcher_, control_);
    dispatcher_.set_running();
    server_ = Server::start(std::move(*Listener::open(path_)), dispatcher_).value();
    thread_ = std::thread([this] { main_.run(); });
  }
  ~ServerTest() override {
    stop();
    main_.stop();
    thread_.join();
  }
  void stop() {
    if (server_) server_->stop();
    server_.reset();
  }

  std::string path_;
  Reactor main_{Reactor::Options{}};
  MethodTable methods_;
  Dispatcher dispatcher_{main_, methods_};
  AppControl control_{.version_major = 1, .version_minor = 2, .version_patch = 3, .start_init = {}};
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

constexpr char kVersionResult[] = R"("result":{"version":"diskengine v1.2.3")";

TEST_F(ServerTest, AnswersCarryTheIdWhateverItsType) {
  Client client(path_);
  for (const char* id : {"1", "\"x\"", "-7", "2.5E0"}) {
    const std::string answer =
        client.ask(std::string(R"({"jsonrpc":"2.0","method":"spdk_get_version","id":)") + id + "}");
    EXPECT_NE(answer.find(std::string("\"id\":") + id), std::string::npos) << answer;
    EXPECT_NE(answer.find(kVersionResult), std::string::npos) << answer;
  }
}

TEST_F(ServerTest, NotificationsAreNotAnswered) {
  Client client(path_);
  client.send_text(R"({"method":"spdk_get_version"}{"method":"nope"}{"method":"spdk_get_version","id":null})");
  EXPECT_NE(client.ask(R"({"method":"spdk_get_version","id":9})").find("\"id\":9"), std::string::npos);
}

TEST_F(ServerTest, ErrorsHaveSpdksCodes) {
  Client client(path_);
  EXPECT_EQ(client.ask(R"({"method":"nope","id":1})"),
            R"({"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}})");
  EXPECT_NE(client.ask(R"({"method":"spdk_get_version","id":1,"params":{"x":1}})").find("\"code\":-32602"),
            std::string::npos);
  EXPECT_NE(client.ask(R"({"method":"spdk_get_version","id":1,"params":[1]})").find("\"code\":-32602"),
            std::string::npos);
  EXPECT_NE(client.ask(R"({"method":"framework_start_init","id":1})").find("\"code\":-1,"), std::string::npos);
  EXPECT_NE(client.ask("7 ").find("\"code\":-32600"), std::string::npos);
  EXPECT_NE(client.ask("[]").find("\"code\":-32600"), std::string::npos);
}

TEST_F(ServerTest, ABatchIsAnsweredAsOneArrayWithoutItsNotifications) {
  Client client(path_);
  client.send_text(
      R"([{"method":"spdk_get_version","id":1},{"method":"spdk_get_version"},5,{"method":"framework_wait_init","id":2}])");
  const json::array answers = json::parse(client.receive()).as_array();
  EXPECT_EQ(answers.size(), 3u);
  client.send_text(R"([{"method":"spdk_get_version"}])");
  EXPECT_NE(client.ask(R"({"method":"spdk_get_version","id":3})").find("\"id\":3"), std::string::npos)
      << "a batch of notifications is not answered";
  std::string many = "[0";
  for (size_t i = 0; i < Server::kBatchMax; ++i) many += ",0";
  EXPECT_NE(client.ask(many + "]").find("a batch of more than"), std::string::npos);
}

TEST_F(ServerTest, TextThatIsNotJsonIsAnsweredAndTheConnectionClosedAndOthersAreNotDisturbed) {
  Client bad(path_), good(path_);
  std::string answers = bad.ask(R"({"method":"spdk_get_version","id":1}{])");
  answers += bad.receive();
  EXPECT_NE(answers.find(kVersionResult), std::string::npos) << answers;
  EXPECT_NE(answers.find("\"code\":-32700"), std::string::npos) << answers;
  EXPECT_EQ(bad.receive(), "closed");
  EXPECT_NE(good.ask(R"({"method":"spdk_get_version","id":1})").find(kVersionResult), std::string::npos);
}

TEST_F(ServerTest, AClientThatEndsItsInputStillGetsItsAnswers) {
  Client client(path_);
  client.send_text(R"({"method":"spdk_get_version","id":1} {"method":"spdk_get_version","id":2})");
  client.end_input();
  EXPECT_NE(client.receive().find(kVersionResult), std::string::npos);
  EXPECT_NE(client.receive().find(kVersionResult), std::string::npos);
  EXPECT_EQ(client.receive(), "closed");
}

TEST_F(ServerTest, AClientThatDoesNotReadIsHeldBackAndLosesNothing) {
  Client slow(path_);
  const std::string request = R"({"method":"rpc_get_methods","id":1})";
  size_t requests = 0;
  // Until the server takes no more for a while: its bound is reached.
  for (int idle_rounds = 0; idle_rounds < 50 && requests < 1'000'000;) {
    if (slow.send_some(request) == request.size()) {
      ++requests;
      idle_rounds = 0;
    } else {
      ++idle_rounds;
      poll(nullptr, 0, 10);
    }
  }
  ASSERT_LT(requests, 1'000'000u) << "the server buffers without bound";
  Client other(path_);
  EXPECT_NE(other.ask(R"({"method":"spdk_get_version","id":1})").find(kVersionResult), std::string::npos);
  for (size_t i = 0; i < requests; ++i) ASSERT_NE(slow.receive().find("rpc_get_methods"), std::string::npos) << i;
}

TEST_F(ServerTest, ClientsBeyondTheLimitAreToldSo) {
  std::vector<std::unique_ptr<Client>> clients;
  for (size_t i = 0; i < Server::kConnectionsMax; ++i) {
    clients.push_back(std::make_unique<Client>(path_));
    ASSERT_NE(clients.back()->ask(R"({"method":"spdk_get_version","id":1})").find(kVersionResult), std::string::npos);
  }
  Client extra(path_);
  EXPECT_NE(extra.receive().find("the most that are served"), std::string::npos);
  EXPECT_EQ(extra.receive(), "closed");
  clients.clear();
  for (int attempt = 0;; ++attempt) {  // the server notices the closed ones one after the other
    Client next(path_);
    if (next.ask(R"({"method":"spdk_get_version","id":1})").find(kVersionResult) != std::string::npos) break;
    ASSERT_LT(attempt, 1000);
  }
}

TEST_F(ServerTest, ClientsThatVanishWithCallsUnderWayDoNoHarm) {
  for (int i = 0; i < 200; ++i) {
    Client client(path_);
    client.send_text(R"({"method":"spdk_get_version","id":1}{"method":"rpc_get_methods","id":2}{"method")");
  }
  Client client(path_);
  EXPECT_NE(client.ask(R"({"method":"spdk_get_version","id":1})").find(kVersionResult), std::string::npos);
}

TEST_F(ServerTest, StopWritesTheAnswersThatAreThereAndRemovesTheFiles) {
  Client client(path_);
  client.ask(R"({"method":"spdk_get_version","id":1})");
  stop();
  EXPECT_EQ(client.receive(), "closed");
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_FALSE(std::filesystem::exists(path_ + ".lock"));
}

TEST_F(ServerTest, RefusedCallsSayThatTheProcessStops) {
  main_.post([this] { dispatcher_.refuse(); });
  Client client(path_);
  EXPECT_NE(client.ask(R"({"method":"spdk_get_version","id":1})").find("-125"), std::string::npos);
}

TEST_F(ServerTest, ASocketHasOneServer) {
  const Result<Listener> second = Listener::open(path_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::busy);
  EXPECT_NE(second.error().message().find("pid " + std::to_string(getpid())), std::string::npos);
  Client client(path_);
  EXPECT_NE(client.ask(R"({"method":"spdk_get_version","id":1})").find(kVersionResult), std::string::npos);
}

TEST(Listener, ReplacesWhatADeadProcessLeftButNothingElse) {
  const std::string path = testing::TempDir() + "/stale_" + std::to_string(getpid()) + ".sock";
  {
    // As after a crash: the files are there, nobody holds the lock.
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    close(fd);
    std::ofstream(path + ".lock") << "1";
  }
  {
    const Result<Listener> taken = Listener::open(path);
    ASSERT_TRUE(taken) << taken.error().message();
    struct stat made {};
    ASSERT_EQ(stat(path.c_str(), &made), 0);
    EXPECT_EQ(made.st_mode & 0777, 0600u) << "only the owner may drive the data plane";
  }
  std::ofstream(path) << "precious";
  const Result<Listener> refused = Listener::open(path);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::already_exists);
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
}

TEST(Listener, RefusesPathsThatDoNotFit) {
  EXPECT_EQ(Listener::open("").error().code(), Errc::invalid_argument);
  EXPECT_EQ(Listener::open("/tmp/" + std::string(120, 'x')).error().code(), Errc::invalid_argument);
  EXPECT_EQ(Listener::open("/no/such/folder/x.sock").error().code(), Errc::not_found);
}

}  // namespace
}  // namespace diskengine::rpc
