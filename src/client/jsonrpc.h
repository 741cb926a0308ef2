// A JSON-RPC 2.0 client for a data plane's unix socket: diskengine-io, or any target that speaks SPDK's methods.
// Blocking, with a time-out on every call; one thread at a time; it owns its connection and makes it again after a
// failure, so a client outlives restarts of the data plane.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace diskengine::client {

class JsonRpcClient {
 public:
  struct Options {
    std::string socket_path;
    int timeout_ms = 10'000;  // for one call, connecting included
  };
  explicit JsonRpcClient(Options options);
  JsonRpcClient(JsonRpcClient&&) noexcept;
  JsonRpcClient& operator=(JsonRpcClient&&) noexcept;
  ~JsonRpcClient();

  // Calls `method` and returns its result. `params` is an object, an array, or null for none.
  // Errors: what the data plane answered, as the Errc of its negative errno (`not_supported` for an unknown method,
  // `invalid_argument` for refused parameters); `unreachable` when it does not listen or hung up; `timed_out`;
  // `protocol` for bytes that are no JSON-RPC answer. The message names the method and the socket.
  Result<boost::json::value> call(std::string_view method, const boost::json::value& params);

  const std::string& socket_path() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diskengine::client
