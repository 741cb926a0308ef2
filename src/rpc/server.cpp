#include "rpc/server.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "rpc/message.h"
#include "runtime/clock.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

constexpr size_t kReceiveBytes = 64 * 1024;
constexpr size_t kOutputKeepBytes = 256 * 1024;  // a drained output buffer larger than this is given back
constexpr int kAcceptPauseMs = 100;              // after running out of descriptors
constexpr int kStopPollMs = 20;

}  // namespace

// What other threads leave for the server's.
struct Server::Mailbox {
  explicit Mailbox(int eventfd) : wake_fd(eventfd) {}
  ~Mailbox() { close(wake_fd); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  void put(Finished call) {
    {
      std::lock_guard lock(mutex);
      finished.push_back(std::move(call));
    }
    wake();
  }
  void stop() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    wake();
  }
  void wake() const noexcept {
    const uint64_t one = 1;
    while (write(wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
  }

  const int wake_fd;
  std::mutex mutex;  // guards the two below
  std::vector<Finished> finished;
  bool stopping = false;
};

// Answers of a batch pile up until the last one is there.
struct Server::Batch {
  size_t left = 0;
  json::array answers;
};

struct Server::Connection {
  Connection(uint64_t number, int socket) : id(number), fd(socket) {}
  ~Connection() { close(fd); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  size_t unsent() const { return output.size() - sent; }
  // It may hand in more requests.
  bool open_for_requests() const { return !failed && outstanding < kOutstandingMax && unsent() < kOutputPauseBytes; }
  bool can_read_on() const { return !unread.empty() && !broken && open_for_requests(); }
  // Nothing will come from or go to it any more.
  bool finished() const {
    return failed || gone || (input_ended && outstanding == 0 && unsent() == 0 && (unread.empty() || broken));
  }

  const uint64_t id;
  const int fd;
  MessageReader reader;
  std::string unread;  // received, not yet parsed
  std::string output;  // answers; the first `sent` bytes are gone
  size_t sent = 0;
  size_t outstanding = 0;    // calls under way
  bool input_ended = false;  // the client sends no more, or we take no more
  bool broken = false;       // its text cannot be read on
  bool gone = false;         // the client closed its end; what it sent before is still carried out
  bool failed = false;       // the socket is of no use any more
};

Result<std::unique_ptr<Server>> Server::start(Listener listener, Dispatcher& dispatcher) {
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) return Error::from_errno(errno, "making an eventfd for the RPC server");
  std::unique_ptr<Server> server(new Server(std::move(listener), std::make_shared<Mailbox>(wake_fd), dispatcher));
  server->thread_ = std::thread([raw = server.get()] { raw->serve(); });
  pthread_setname_np(server->thread_.native_handle(), "rpc");
  return server;
}

Server::Server(Listener listener, std::shared_ptr<Mailbox> mailbox, Dispatcher& dispatcher)
    : listener_(std::move(listener)), dispatcher_(dispatcher), mailbox_(std::move(mailbox)) {}

Server::~Server() { stop(); }

void Server::stop() {
  if (!thread_.joinable()) return;
  mailbox_->stop();
  thread_.join();
  connections_.clear();
}

void Server::serve() {
  const SystemClock clock;
  uint64_t stop_deadline_ns = 0;
  while (true) {
    {
      std::lock_guard lock(mailbox_->mutex);
      if (mailbox_->stopping && stop_deadline_ns == 0) stop_deadline_ns = clock.now_ns() + kStopFlushNs;
    }
    if (stop_deadline_ns != 0) {
      for (auto& [id, connection] : connections_) connection->input_ended = true;
      if (drained() || clock.now_ns() >= stop_deadline_ns) return;
    }
    const bool clients_wait = poll_once(stop_deadline_ns != 0 ? kStopPollMs : -1);
    take_finished();
    for (auto& [id, connection] : connections_) {
      send_output(*connection);
      while (stop_deadline_ns == 0 && connection->can_read_on()) {
        read_on(*connection);
        send_output(*connection);
      }
    }
    drop_closed();
    if (clients_wait) accept_clients();
  }
}

bool Server::drained() const {
  for (const auto& [id, connection] : connections_)
    if (!connection->finished() && (connection->outstanding > 0 || connection->unsent() > 0)) return false;
  return true;
}

// Waits for events and receives; true if there are clients to accept.
bool Server::poll_once(int timeout_ms) {
  std::vector<pollfd> fds;
  std::vector<Connection*> watched;
  fds.push_back({mailbox_->wake_fd, POLLIN, 0});
  fds.push_back({listener_.fd(), static_cast<short>(timeout_ms < 0 ? POLLIN : 0), 0});
  for (auto& [id, connection] : connections_) {
    short events = 0;
    if (!connection->input_ended && connection->open_for_requests()) events |= POLLIN;
    if (connection->unsent() > 0) events |= POLLOUT;
    fds.push_back({connection->fd, events, 0});
    watched.push_back(connection.get());
  }
  if (poll(fds.data(), fds.size(), timeout_ms) <= 0) return false;
  if ((fds[0].revents & POLLIN) != 0) {
    uint64_t count = 0;
    while (read(mailbox_->wake_fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
  }
  for (size_t i = 0; i < watched.size(); ++i) {
    const short events = fds[i + 2].revents;
    if ((events & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
      receive_rest(*watched[i]);
    } else if ((events & POLLIN) != 0) {
      receive(*watched[i]);
    }
  }
  return (fds[1].revents & POLLIN) != 0;
}

void Server::accept_clients() {
  while (true) {
    if (connections_.size() >= kConnectionsMax && !std::exchange(was_full_, true)) return;  // dead ones may show first
    const int fd = accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
        LOG_ERROR("rpc", "cannot accept a client: {}", Error::from_errno(errno, "accept").message());
        poll(nullptr, 0, kAcceptPauseMs);
      }
      return;
    }
    if (connections_.size() >= kConnectionsMax) {
      turn_away(fd);
      continue;
    }
    was_full_ = false;
    const uint64_t id = next_connection_++;
    connections_.emplace(id, std::make_unique<Connection>(id, fd));
  }
}

void Server::turn_away(int fd) {
  const std::string text = json::serialize(make_answer(
                               nullptr, Fault{kInternalError, "there are already " + std::to_string(kConnectionsMax) +
                                                                  " clients connected, the most that are served"})) +
                           "\n";
  // Best effort: the message fits an empty socket buffer.
  [[maybe_unused]] const ssize_t sent = send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  close(fd);
}

void Server::receive(Connection& connection) {
  std::array<char, kReceiveBytes> buffer;
  const ssize_t got = recv(connection.fd, buffer.data(), buffer.size(), 0);
  if (got > 0) {
    connection.unread.append(buffer.data(), static_cast<size_t>(got));
  } else if (got == 0) {
    connection.input_ended = true;
  } else if (errno == EAGAIN) {
    connection.input_ended = connection.input_ended || connection.gone;
  } else if (errno != EINTR) {
    connection.failed = true;
  }
}

// The client is gone: takes what it left behind, as far as its bounds allow. Nobody reads the answers.
void Server::receive_rest(Connection& connection) {
  connection.gone = true;
  while (!connection.input_ended && !connection.failed && connection.open_for_requests() &&
         connection.unread.size() < kRequestBytesMax)
    receive(connection);
}

// Parses and starts what was received, as far as the client's bounds allow.
void Server::read_on(Connection& connection) {
  std::string_view bytes = connection.unread;
  while (!bytes.empty() && !connection.broken && connection.open_for_requests()) {
    std::variant<std::optional<json::value>, Fault> next = connection.reader.next(bytes);
    if (Fault* fault = std::get_if<Fault>(&next)) {
      LOG_WARN("rpc", "closing a client's connection: {}", fault->message);
      answer(connection, make_answer(nullptr, *fault));
      connection.broken = connection.input_ended = true;
    } else if (std::optional<json::value>& message = std::get<0>(next)) {
      handle(connection, std::move(*message));
    }
  }
  connection.unread.erase(0, connection.unread.size() - bytes.size());
}

void Server::handle(Connection& connection, json::value&& message) {
  if (message.is_array() && !message.get_array().empty()) {
    handle_batch(connection, std::move(message.get_array()));
    return;
  }
  ++connection.outstanding;
  start_call({connection.id, nullptr, nullptr}, std::move(message));
}

void Server::handle_batch(Connection& connection, json::array&& requests) {
  if (requests.size() > kBatchMax) {
    answer(connection, make_answer(nullptr, Fault{kInvalidRequest, "Invalid request: a batch of more than " +
                                                                       std::to_string(kBatchMax) + " requests"}));
    return;
  }
  auto batch = std::make_shared<Batch>();
  batch->left = requests.size();
  connection.outstanding += requests.size();
  for (json::value& request : requests) start_call({connection.id, batch, nullptr}, std::move(request));
}

void Server::start_call(Ticket ticket, json::value&& message) {
  std::variant<Request, BadRequest> read = read_request(std::move(message));
  if (BadRequest* bad = std::get_if<BadRequest>(&read)) {
    Connection& connection = *connections_.at(ticket.connection);
    ticket.id = bad->id;
    // An answer to what was no request goes out even without an id.
    json::value text = make_answer(std::move(bad->id), bad->fault);
    if (ticket.batch == nullptr) {
      --connection.outstanding;
      answer(connection, text);
    } else {
      ticket.batch->answers.push_back(std::move(text));
      ticket.id = nullptr;
      finish(std::move(ticket), json::value(nullptr));
    }
    return;
  }
  Request& request = std::get<Request>(read);
  ticket.id = std::move(request.id);
  std::variant<Dispatcher::Call, Fault> call = dispatcher_.prepare(request.method, std::move(request.params));
  if (Fault* fault = std::get_if<Fault>(&call)) {
    finish(std::move(ticket), *fault);
    return;
  }
  dispatcher_.submit(std::move(std::get<Dispatcher::Call>(call)),
                     [mailbox = mailbox_, ticket = std::move(ticket)](Reply reply) {
                       mailbox->put({ticket, std::move(reply)});
                     });
}

void Server::take_finished() {
  std::vector<Finished> finished;
  {
    std::lock_guard lock(mailbox_->mutex);
    finished.swap(mailbox_->finished);
  }
  for (Finished& call : finished) finish(std::move(call.ticket), std::move(call.reply));
}

// A call has its reply: answers, or adds to the batch and answers when it is complete.
void Server::finish(Ticket&& ticket, Reply&& reply) {
  auto at = connections_.find(ticket.connection);
  if (at == connections_.end()) return;  // the client is gone
  Connection& connection = *at->second;
  --connection.outstanding;
  const bool wanted = !ticket.id.is_null();
  if (ticket.batch == nullptr) {
    if (wanted) answer(connection, make_answer(std::move(ticket.id), std::move(reply)));
    return;
  }
  Batch& batch = *ticket.batch;
  if (wanted) batch.answers.push_back(make_answer(std::move(ticket.id), std::move(reply)));
  if (--batch.left == 0 && !batch.answers.empty()) answer(connection, json::value(std::move(batch.answers)));
}

void Server::answer(Connection& connection, const json::value& value) {
  if (connection.unsent() > kOutputBytesMax) {
    LOG_WARN("rpc", "closing a client's connection: it left {} bytes of answers unread", connection.unsent());
    connection.failed = true;
  }
  if (connection.failed) return;
  connection.output += json::serialize(value);
  connection.output += '\n';
}

void Server::send_output(Connection& connection) {
  while (!connection.failed && connection.unsent() > 0) {
    const ssize_t sent = send(connection.fd, connection.output.data() + connection.sent, connection.unsent(),
                              MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      connection.sent += static_cast<size_t>(sent);
    } else if (errno != EINTR) {
      if (errno != EAGAIN) connection.failed = true;
      break;
    }
  }
  if (connection.unsent() > 0) {
    if (connection.sent >= kOutputPauseBytes) connection.output.erase(0, std::exchange(connection.sent, 0));
    return;
  }
  connection.output.clear();
  connection.sent = 0;
  if (connection.output.capacity() > kOutputKeepBytes) connection.output.shrink_to_fit();
}

void Server::drop_closed() {
  for (auto at = connections_.begin(); at != connections_.end();)
    at = at->second->finished() ? connections_.erase(at) : std::next(at);
}

}  // namespace diskengine::rpc
