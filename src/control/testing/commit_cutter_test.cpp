#include "control/testing/commit_cutter.h"

#include <string_view>

#include "control/testing/postgres_server.h"

namespace diskengine::control {
namespace {

constexpr int kLookMs = 10;  // between looks at whether the session has ended
constexpr std::string_view kCommit("\0COMMIT\0", 8);

}  // namespace

// Ends when `is_over` is set: both threads leave, then the streams close.
struct CommitCutter::Session {
  Session(client::UnixStream from, client::UnixStream to) : client(std::move(from)), server(std::move(to)) {}
  client::UnixStream client;
  client::UnixStream server;
  std::atomic<bool> is_over{false};
  std::atomic<bool> drops_answer{false};
  std::thread to_server;
  std::thread to_client;
};

CommitCutter::CommitCutter(const std::string& directory, std::string server_socket)
    : server_socket_(std::move(server_socket)),
      listener_(*client::UnixListener::listen(PostgresServer::socket_in(directory))),
      thread_([this] { serve(); }) {}

CommitCutter::~CommitCutter() {
  stopping_ = true;
  thread_.join();
}

void CommitCutter::cut(Cut what, bool and_stay_away) {
  stays_away_ = and_stay_away;
  next_ = what;
}

void CommitCutter::serve() {
  std::vector<std::unique_ptr<Session>> sessions;
  while (!stopping_) {
    std::erase_if(sessions, [](const auto& old) {
      if (!old->is_over) return false;
      old->to_server.join();
      old->to_client.join();
      return true;
    });
    auto client = listener_.accept(kLookMs);
    if (!client || is_away_) continue;  // a refused one is closed here
    auto server = client::UnixStream::connect(server_socket_, client::Deadline::after_ms(1000));
    if (!server) continue;
    auto session = std::make_unique<Session>(std::move(*client), std::move(*server));
    session->to_server = std::thread([this, raw = session.get()] { carry_to_server(*raw); });
    session->to_client = std::thread([this, raw = session.get()] { carry_to_client(*raw); });
    sessions.push_back(std::move(session));
  }
  for (const auto& session : sessions) {
    session->is_over = true;
    session->to_server.join();
    session->to_client.join();
  }
}

void CommitCutter::carry_to_server(Session& session) {
  char buffer[16384];
  while (!session.is_over) {
    const auto got = session.client.read_some(buffer, sizeof(buffer), client::Deadline::after_ms(kLookMs));
    if (!got && got.error().code() == Errc::timed_out) continue;
    if (!got || *got == 0) break;
    const std::string_view bytes(buffer, *got);
    if (next_ != Cut::nothing && bytes.find(kCommit) != std::string_view::npos) {
      const Cut what = next_.exchange(Cut::nothing);
      ++cuts_;
      is_away_ = stays_away_.load();
      if (what == Cut::before_commit) break;
      session.drops_answer = true;
    }
    if (!session.server.write_all(bytes, client::Deadline::after_ms(1000))) break;
  }
  session.is_over = true;
}

void CommitCutter::carry_to_client(Session& session) {
  char buffer[16384];
  while (!session.is_over) {
    const auto got = session.server.read_some(buffer, sizeof(buffer), client::Deadline::after_ms(kLookMs));
    if (!got && got.error().code() == Errc::timed_out) continue;
    if (!got || *got == 0 || session.drops_answer) break;
    if (!session.client.write_all(std::string_view(buffer, *got), client::Deadline::after_ms(1000))) break;
  }
  session.is_over = true;
}

}  // namespace diskengine::control
