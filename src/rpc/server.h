// The JSON-RPC server: a unix stream socket served by one plain thread, so that no reactor ever parses JSON. The thread
// reads and checks requests, hands them to the Dispatcher (which runs them on the main reactor), and writes the
// answers.
//
//   Input object: JSON text from clients. Output object: Dispatcher::Call. Completion callback: the call's Reply comes
//   back through a locked queue and an eventfd.
//
// Bounds: kConnectionsMax clients; of each, kOutstandingMax calls under way and kOutputPauseBytes of unread answers,
// past which nothing more is read from it until it catches up. A client that lets kOutputBytesMax pile up is cut off.
//
// Threads: start and stop on the main thread; all else is the server's own thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "rpc/dispatcher.h"
#include "rpc/listener.h"

namespace diskengine::rpc {

class Server {
 public:
  static constexpr size_t kConnectionsMax = 64;
  static constexpr size_t kOutstandingMax = 128;
  static constexpr size_t kBatchMax = 1024;
  static constexpr size_t kOutputPauseBytes = 1024 * 1024;
  static constexpr size_t kOutputBytesMax = 64 * 1024 * 1024;
  static constexpr uint64_t kStopFlushNs = 1'000'000'000;  // how long stop() waits for slow readers

  // Starts serving who connects to `listener`. The dispatcher must outlive the server.
  static Result<std::unique_ptr<Server>> start(Listener listener, Dispatcher& dispatcher);
  // Takes no more requests, writes the answers that are there, closes everything and joins the thread. Idempotent.
  void stop();
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::string& path() const noexcept { return listener_.path(); }

 private:
  struct Connection;
  struct Batch;
  // Where the answer of one call goes.
  struct Ticket {
    uint64_t connection = 0;
    std::shared_ptr<Batch> batch;  // null for a single request
    boost::json::value id;
  };
  struct Finished {
    Ticket ticket;
    Reply reply;
  };
  struct Mailbox;

  Server(Listener listener, std::shared_ptr<Mailbox> mailbox, Dispatcher& dispatcher);

  void serve();
  bool poll_once(int timeout_ms);
  bool drained() const;
  void accept_clients();
  void turn_away(int fd);
  void take_finished();
  void receive(Connection& connection);
  void receive_rest(Connection& connection);
  void read_on(Connection& connection);
  void handle(Connection& connection, boost::json::value&& message);
  void handle_batch(Connection& connection, boost::json::array&& requests);
  void start_call(Ticket ticket, boost::json::value&& message);
  void finish(Ticket&& ticket, Reply&& reply);
  void answer(Connection& connection, const boost::json::value& value);
  void send_output(Connection& connection);
  void drop_closed();

  Listener listener_;
  Dispatcher& dispatcher_;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  uint64_t next_connection_ = 1;
  bool was_full_ = false;  // in the last round, too, there were kConnectionsMax clients

  const std::shared_ptr<Mailbox> mailbox_;  // shared with calls under way, which may outlive the server
  std::thread thread_;
};

}  // namespace diskengine::rpc
