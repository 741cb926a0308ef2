#include "client/http.h"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <sstream>

#include "client/unix_socket.h"

namespace diskengine::client {
namespace {

namespace http = boost::beast::http;

constexpr uint64_t kMaxBodyBytes = 64u << 20;
constexpr size_t kReadBytes = 64u << 10;

std::string encode(const HttpRequest& request) {
  http::request<http::string_body> message;
  message.version(11);
  message.method_string(request.method);
  message.target(request.target);
  message.set(http::field::host, "localhost");
  message.set(http::field::connection, "close");
  if (!request.body.empty()) message.set(http::field::content_type, "application/json");
  message.body() = request.body;
  message.prepare_payload();
  std::ostringstream text;
  text << message;
  return text.str();
}

Result<HttpResponse> read_response(UnixStream& stream, Deadline deadline) {
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMaxBodyBytes);
  parser.eager(true);
  std::string pending;
  std::string buffer(kReadBytes, '\0');
  while (!parser.is_done()) {
    TRY_ASSIGN(const size_t received, stream.read_some(buffer.data(), buffer.size(), deadline));
    boost::system::error_code error;
    if (received == 0) {
      parser.put_eof(error);
      if (error || !parser.is_done()) return Error(Errc::protocol, "the connection closed inside the answer");
      break;
    }
    pending.append(buffer.data(), received);
    const size_t used = parser.put(boost::asio::buffer(pending), error);
    pending.erase(0, used);
    if (error && error != http::error::need_more) return Error(Errc::protocol, "bad HTTP answer: " + error.message());
  }
  return HttpResponse{.status = static_cast<int>(parser.get().result_int()), .body = std::move(parser.get().body())};
}

}  // namespace

Result<HttpResponse> http_call(const HttpRequest& request) {
  const Deadline deadline = Deadline::after_ms(request.timeout_ms);
  TRY_ASSIGN(UnixStream stream, UnixStream::connect(request.socket_path, deadline));
  TRY(stream.write_all(encode(request), deadline));
  Result<HttpResponse> response = read_response(stream, deadline);
  if (response) return response;
  return response.error().with_context(request.method + " " + request.target + " on " + request.socket_path);
}

}  // namespace diskengine::client
