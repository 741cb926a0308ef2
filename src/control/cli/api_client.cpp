#include "control/cli/api_client.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "client/http.h"
#include "control/cli/exit_code.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr int kCallTimeoutMs = 15'000;
constexpr int kFirstErrorStatus = 400;

Error error_of(const json::value& body, int status) {
  const json::object* object = body.if_object();
  const json::value* error = object != nullptr ? object->if_contains("error") : nullptr;
  const json::object* fields = error != nullptr ? error->if_object() : nullptr;
  if (fields == nullptr || !fields->contains("code") || !fields->contains("message"))
    return Error(Errc::protocol, fmt::format("the API answered with HTTP status {} and no error text", status));
  return Error(errc_named(json::value_to<std::string>(fields->at("code"))),
               json::value_to<std::string>(fields->at("message")));
}

}  // namespace

Result<json::value> ApiClient::call(const std::string& method, const std::string& target, const std::string& body) {
  const Result<client::HttpResponse> response = client::http_call(
      {.socket_path = socket_path_, .method = method, .target = target, .body = body, .timeout_ms = kCallTimeoutMs});
  if (!response) {
    if (response.error().code() != Errc::unreachable) return response.error();
    return Error(Errc::unreachable,
                 fmt::format("the control plane does not answer on {}; start it with `diskengine serve`, "
                             "or name its socket with --api",
                             socket_path_));
  }
  boost::system::error_code error;
  json::value value = json::parse(response->body, error);
  if (error) return Error(Errc::protocol, fmt::format("the API's answer is not JSON: {}", error.message()));
  if (response->status >= kFirstErrorStatus) return error_of(value, response->status);
  return value;
}

Result<json::value> ApiClient::get(const std::string& path) { return call("GET", path, ""); }

Result<json::value> ApiClient::post(const std::string& path, const json::object& body, bool dry_run) {
  return call("POST", path + (dry_run ? "?dry_run=true" : ""), json::serialize(body));
}

Result<json::value> ApiClient::remove(const std::string& path, bool dry_run) {
  return call("DELETE", path + (dry_run ? "?dry_run=true" : ""), "");
}

std::string path_segment(const std::string& text) {
  std::string encoded;
  for (const char c : text) {
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    encoded += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

}  // namespace diskengine::control::cli
