// Serves the API over HTTP/1.1 on a unix socket: plain blocking threads, one request per connection, bounded in number,
// size and time. Peers are whoever may open the socket (mode 0600), and are not trusted further.
//
// Thread-safe; owns its threads. stop() refuses new requests and returns when those under way are answered.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "control/api/service.h"

namespace diskengine::control {

class HttpServer {
 public:
  using Handler = std::function<ApiReply(const ApiRequest&)>;

  // `busy` when another process serves on that path.
  static Result<std::unique_ptr<HttpServer>> start(const std::string& socket_path, Handler handler);
  ~HttpServer();
  void stop();

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace diskengine::control
