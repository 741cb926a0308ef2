// The HTTP API under /v1, without its transport: a request in, a reply out. It only reads and writes the database; the
// loops do the work. docs/control-plane.md lists the paths.
//
// Thread-safe. `store` outlives it; `on_change` is called after every change, from the thread that made it.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "control/store/store.h"

namespace diskengine::control {

struct ApiRequest {
  std::string method;  // GET, POST, DELETE
  std::string path;    // "/v1/volumes/data"
  std::map<std::string, std::string> query;
  std::string body;  // JSON
};

struct ApiReply {
  int status = 200;
  std::string body;  // JSON
};

class ApiService {
 public:
  ApiService(Store& store, std::function<void()> on_change);
  ApiReply handle(const ApiRequest& request);

 private:
  Store& store_;
  std::function<void()> on_change_;
};

// "/v1/x?dry_run=true&limit=5" into path and query, percent-decoded.
ApiRequest parse_target(std::string method, std::string_view target, std::string body);

}  // namespace diskengine::control
