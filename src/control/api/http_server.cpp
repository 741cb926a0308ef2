#include "control/api/http_server.h"

#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <condition_variable>
#include <mutex>
#include <sstream>
#include <thread>

#include "base/log.h"
#include "client/unix_socket.h"

namespace diskengine::control {
namespace {

namespace http = boost::beast::http;
using client::Deadline;
using client::UnixListener;
using client::UnixStream;

constexpr int kMaxConnections = 64;  // further ones wait in the listener's backlog
constexpr uint32_t kMaxHeaderBytes = 16u << 10;
constexpr uint64_t kMaxBodyBytes = 1u << 20;
constexpr int kRequestTimeoutMs = 10'000;
constexpr int kAcceptPollMs = 250;

ApiReply refusal(int status, const std::string& message) {
  return {status, R"({"error":{"code":"invalid_argument","message":")" + message + "\"}}"};
}

std::string encode(const ApiReply& reply) {
  http::response<http::string_body> message;
  message.version(11);
  message.result(static_cast<unsigned>(reply.status));
  message.set(http::field::content_type, "application/json");
  message.set(http::field::connection, "close");
  message.body() = reply.body;
  message.prepare_payload();
  std::ostringstream text;
  text << message;
  return text.str();
}

using Parser = http::request_parser<http::string_body>;

// The HTTP status of what is wrong with the request, or 0. An error of the stream means that there is nobody to answer.
Result<int> read_request(UnixStream& stream, Parser* parser) {
  parser->header_limit(kMaxHeaderBytes);
  parser->body_limit(kMaxBodyBytes);
  parser->eager(true);
  const Deadline deadline = Deadline::after_ms(kRequestTimeoutMs);
  std::string pending;
  char buffer[16384];
  while (!parser->is_done()) {
    TRY_ASSIGN(const size_t received, stream.read_some(buffer, sizeof(buffer), deadline));
    if (received == 0) return Error(Errc::unreachable, "the client hung up");
    pending.append(buffer, received);
    boost::system::error_code error;
    const size_t used = parser->put(boost::asio::buffer(pending), error);
    pending.erase(0, used);
    if (error == http::error::body_limit) return 413;
    if (error == http::error::header_limit) return 431;
    if (error && error != http::error::need_more) return 400;
  }
  return 0;
}

void serve_one(UnixStream& stream, const HttpServer::Handler& handler) {
  Parser parser;
  const Result<int> trouble = read_request(stream, &parser);
  if (!trouble) return;
  ApiReply reply;
  if (*trouble != 0) {
    reply = refusal(*trouble, "this is not a request the API understands");
  } else {
    const auto& message = parser.get();
    reply =
        handler(parse_target(std::string(message.method_string()), std::string_view(message.target()), message.body()));
  }
  const Result<void> sent = stream.write_all(encode(reply), Deadline::after_ms(kRequestTimeoutMs));
  if (!sent) LOG_DEBUG("api", "the client did not take its reply: {}", sent.error().message());
}

}  // namespace

struct HttpServer::State {
  UnixListener listener;
  Handler handler;
  std::atomic<bool> stopping{false};
  std::thread acceptor;

  std::mutex mutex;
  std::condition_variable changed;
  int connections = 0;

  State(UnixListener l, Handler h) : listener(std::move(l)), handler(std::move(h)) {}
  void accept_loop();
  void serve(std::shared_ptr<UnixStream> stream);
};

void HttpServer::State::serve(std::shared_ptr<UnixStream> stream) {
  serve_one(*stream, handler);
  stream.reset();
  // Notified under the lock: once the last connection is counted out, this object may be gone.
  const std::lock_guard lock(mutex);
  --connections;
  changed.notify_all();
}

void HttpServer::State::accept_loop() {
  while (!stopping) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return connections < kMaxConnections; });
    }
    Result<UnixStream> accepted = listener.accept(kAcceptPollMs);
    if (!accepted) continue;
    auto stream = std::make_shared<UnixStream>(std::move(*accepted));
    {
      const std::lock_guard lock(mutex);
      ++connections;
    }
    std::thread([this, stream] { serve(stream); }).detach();
  }
}

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {
  state_->acceptor = std::thread([this] { state_->accept_loop(); });
}

HttpServer::~HttpServer() { stop(); }

Result<std::unique_ptr<HttpServer>> HttpServer::start(const std::string& socket_path, Handler handler) {
  TRY_ASSIGN(UnixListener listener, UnixListener::listen(socket_path));
  auto state = std::make_unique<State>(std::move(listener), std::move(handler));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

void HttpServer::stop() {
  if (!state_->acceptor.joinable()) return;
  state_->stopping = true;
  state_->acceptor.join();
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->connections == 0; });
}

}  // namespace diskengine::control
