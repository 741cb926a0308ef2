#include "rpc/message.h"

#include <fmt/format.h>

#include <algorithm>

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

json::parse_options options() {
  json::parse_options parse;
  parse.max_depth = kRequestDepthMax;
  return parse;
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

BadRequest bad_request(json::value id, std::string_view why) {
  return {std::move(id), Fault{kInvalidRequest, "Invalid request: " + std::string(why)}};
}

}  // namespace

MessageReader::MessageReader() : parser_({}, options()) {}

std::variant<std::optional<json::value>, Fault> MessageReader::next(std::string_view& bytes) {
  if (taken_ == 0) {
    const auto start = std::find_if_not(bytes.begin(), bytes.end(), is_space);
    bytes.remove_prefix(static_cast<size_t>(start - bytes.begin()));
  }
  if (bytes.empty()) return std::optional<json::value>();
  const size_t room = kRequestBytesMax - taken_;
  boost::system::error_code error;
  const size_t used = parser_.write_some(bytes.data(), std::min(bytes.size(), room), error);
  if (error)
    return Fault{kParseError, fmt::format("Parse error: {} at byte {} of the request", error.message(), taken_ + used)};
  bytes.remove_prefix(used);
  taken_ += used;
  if (!parser_.done()) {
    if (taken_ >= kRequestBytesMax)
      return Fault{kParseError, fmt::format("Parse error: the request is longer than {} bytes", kRequestBytesMax)};
    return std::optional<json::value>();
  }
  std::optional<json::value> value = parser_.release();
  parser_.reset();
  taken_ = 0;
  return value;
}

std::variant<Request, BadRequest> read_request(json::value&& value) {
  json::object* object = value.if_object();
  if (object == nullptr) return bad_request(nullptr, "it is not an object");
  Request request;
  if (json::value* id = object->if_contains("id")) {
    if (!id->is_string() && !id->is_number() && !id->is_null())
      return bad_request(nullptr, "'id' must be a string, a number or null");
    request.id = *id;
  }
  const json::value* version = object->if_contains("jsonrpc");
  if (version != nullptr && *version != "2.0") return bad_request(request.id, "'jsonrpc' must be \"2.0\"");
  const json::value* method = object->if_contains("method");
  if (method == nullptr || !method->is_string())
    return bad_request(request.id, "'method' must be there and be a string");
  request.method.assign(method->get_string().data(), method->get_string().size());
  if (json::value* params = object->if_contains("params")) {
    if (!params->is_object() && !params->is_array() && !params->is_null())
      return bad_request(request.id, "'params' must be an object");
    request.params = std::move(*params);
  }
  for (const auto& [key, unused] : *object)
    if (key != "jsonrpc" && key != "id" && key != "method" && key != "params")
      return bad_request(request.id, "it has members other than 'jsonrpc', 'id', 'method' and 'params'");
  return request;
}

json::value make_answer(json::value id, Reply&& reply) {
  json::object answer;
  answer["jsonrpc"] = "2.0";
  answer["id"] = std::move(id);
  if (reply.ok()) {
    answer["result"] = std::move(reply.value());
  } else {
    answer["error"] = json::object{{"code", reply.fault().code}, {"message", reply.fault().message}};
  }
  return answer;
}

}  // namespace diskengine::rpc
