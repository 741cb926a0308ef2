#include "client/jsonrpc.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <optional>

#include "client/unix_socket.h"

namespace diskengine::client {
namespace {

namespace json = boost::json;

constexpr size_t kMaxAnswerBytes = 64u << 20;
constexpr size_t kReadBytes = 64u << 10;

// JSON-RPC's reserved codes; everything else negative is an errno by SPDK's habit.
constexpr int64_t kParseError = -32700;
constexpr int64_t kInvalidRequest = -32600;
constexpr int64_t kMethodNotFound = -32601;
constexpr int64_t kInvalidParams = -32602;
constexpr int64_t kInternalError = -32603;
constexpr int64_t kInvalidState = -1;

Errc errc_of(int64_t code) {
  switch (code) {
    case kMethodNotFound:
      return Errc::not_supported;
    case kParseError:
    case kInvalidRequest:
    case kInvalidParams:
      return Errc::invalid_argument;
    case kInternalError:
      return Errc::io_error;
    case kInvalidState:
      return Errc::permission_denied;
    default:
      return code < 0 && code > -4096 ? errc_from_errno(static_cast<int>(-code)) : Errc::io_error;
  }
}

Error error_of(const json::value& error) {
  const json::object* object = error.if_object();
  if (object == nullptr) return Error(Errc::protocol, "the error in the answer is not an object");
  const json::value* code = object->if_contains("code");
  const json::value* message = object->if_contains("message");
  if (code == nullptr || !code->is_int64()) return Error(Errc::protocol, "the error in the answer has no code");
  const std::string text =
      message != nullptr && message->is_string() ? std::string(message->get_string()) : std::string("no message");
  return Error(errc_of(code->get_int64()), fmt::format("{} (code {})", text, code->get_int64()));
}

}  // namespace

struct JsonRpcClient::State {
  Options options;
  std::optional<UnixStream> stream;
  int64_t next_id = 1;

  Result<void> ensure_connected(Deadline deadline);
  Result<json::value> exchange(std::string_view method, const json::value& params, Deadline deadline);
  Result<json::value> read_answer(Deadline deadline);
};

JsonRpcClient::JsonRpcClient(Options options) : state_(std::make_unique<State>()) {
  state_->options = std::move(options);
}
JsonRpcClient::JsonRpcClient(JsonRpcClient&&) noexcept = default;
JsonRpcClient& JsonRpcClient::operator=(JsonRpcClient&&) noexcept = default;
JsonRpcClient::~JsonRpcClient() = default;

const std::string& JsonRpcClient::socket_path() const noexcept { return state_->options.socket_path; }

Result<json::value> JsonRpcClient::call(std::string_view method, const json::value& params) {
  const Deadline deadline = Deadline::after_ms(state_->options.timeout_ms);
  TRY(state_->ensure_connected(deadline));
  Result<json::value> answer = state_->exchange(method, params, deadline);
  if (answer) return answer;
  return std::move(answer).error().with_context(fmt::format("{} on {}", method, state_->options.socket_path));
}

// A data plane that started again has closed the old connection; that is no reason to fail the next call.
Result<void> JsonRpcClient::State::ensure_connected(Deadline deadline) {
  if (stream && !stream->peer_closed()) return {};
  TRY_ASSIGN(UnixStream fresh, UnixStream::connect(options.socket_path, deadline));
  stream = std::move(fresh);
  return {};
}

// One request, one answer. Any failure of the transport drops the connection: the next call makes a new one, so a late
// answer can never be taken for another call's.
Result<json::value> JsonRpcClient::State::exchange(std::string_view method, const json::value& params,
                                                   Deadline deadline) {
  const int64_t id = next_id++;
  json::object request{{"jsonrpc", "2.0"}, {"method", method}, {"id", id}};
  if (!params.is_null()) request["params"] = params;

  Result<void> sent = stream->write_all(json::serialize(request), deadline);
  if (!sent) {
    stream.reset();
    return std::move(sent).error();
  }
  Result<json::value> answer = read_answer(deadline);
  if (!answer) {
    stream.reset();
    return answer;
  }
  const json::object* object = answer->if_object();
  const json::value* answered_id = object != nullptr ? object->if_contains("id") : nullptr;
  if (answered_id == nullptr || !answered_id->is_int64() || answered_id->get_int64() != id) {
    stream.reset();
    return Error(Errc::protocol, "the answer does not carry the request's id");
  }
  if (const json::value* error = object->if_contains("error")) return error_of(*error);
  if (const json::value* result = object->if_contains("result")) return *result;
  return Error(Errc::protocol, "the answer has neither result nor error");
}

Result<json::value> JsonRpcClient::State::read_answer(Deadline deadline) {
  json::stream_parser parser;
  std::string buffer(kReadBytes, '\0');
  size_t total = 0;
  while (!parser.done()) {
    TRY_ASSIGN(const size_t received, stream->read_some(buffer.data(), buffer.size(), deadline));
    if (received == 0) return Error(Errc::unreachable, "the data plane closed the connection before it answered");
    total += received;
    if (total > kMaxAnswerBytes) return Error(Errc::protocol, "the answer is longer than 64 MiB");
    boost::system::error_code error;
    parser.write_some(buffer.data(), received, error);
    if (error) return Error(Errc::protocol, "the answer is not JSON: " + error.message());
  }
  return parser.release();
}

}  // namespace diskengine::client
