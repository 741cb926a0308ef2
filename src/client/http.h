// An HTTP/1.1 client over a unix socket: one request per connection, blocking, with a time-out. It owns nothing between
// calls; any thread may call it.
#pragma once

#include <string>

#include "base/result.h"

namespace diskengine::client {

struct HttpRequest {
  std::string socket_path;
  std::string method = "GET";
  std::string target = "/";
  std::string body;  // sent as application/json when not empty
  int timeout_ms = 10'000;
};

struct HttpResponse {
  int status = 0;
  std::string body;
};

// Errors: `unreachable` when nobody listens, `timed_out`, `protocol` for an answer that is no HTTP or over 64 MiB.
// Every HTTP status is a value, not an error.
Result<HttpResponse> http_call(const HttpRequest& request);

}  // namespace diskengine::client
