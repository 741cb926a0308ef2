// The command's side of the HTTP API: calls that return JSON or an Error with the API's own code and message. One
// thread; every call is a connection of its own.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>

#include "base/result.h"

namespace diskengine::control::cli {

class ApiClient {
 public:
  explicit ApiClient(std::string socket_path) : socket_path_(std::move(socket_path)) {}

  // `unreachable` says how to start the control plane.
  Result<boost::json::value> get(const std::string& path);
  Result<boost::json::value> post(const std::string& path, const boost::json::object& body, bool dry_run);
  Result<boost::json::value> remove(const std::string& path, bool dry_run);

 private:
  Result<boost::json::value> call(const std::string& method, const std::string& target, const std::string& body);

  std::string socket_path_;
};

// A path segment with everything but letters, digits, '.', '_' and '-' percent-encoded.
std::string path_segment(const std::string& text);

}  // namespace diskengine::control::cli
