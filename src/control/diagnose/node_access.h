// Asks the data planes of several nodes from one machine, and says of each node it could not ask why: that the data
// plane is dead is another finding than that its socket is on another machine.
//
// One thread. Blocking, each call with a time-out; a node that has let one call time out is not asked again.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "client/jsonrpc.h"
#include "control/diagnose/expected_path.h"

namespace diskengine::control {

enum class Reach {
  answers,
  closed,     // nobody listens on its socket, or the control plane says that it is down
  silent,     // its socket takes connections and nothing is answered
  elsewhere,  // its socket is not on this machine, or it cannot be told whether the one here is it
};
std::string_view name_of(Reach reach) noexcept;

struct NodeReach {
  Reach reach = Reach::elsewhere;
  std::string detail;   // what was found; for `elsewhere` also what to do
  std::string version;  // when it answers
};

// What the rest of diagnose/ asks through, so that tests can answer.
class Asker {
 public:
  virtual ~Asker() = default;
  virtual NodeReach reach(const std::string& node) = 0;
  // The data plane's answer. Errors: its own, as JsonRpcClient has them; `unreachable` for a node that does not answer.
  virtual Result<boost::json::value> ask(const std::string& node, const std::string& method,
                                         const boost::json::object& params) = 0;
};

class NodeAccess final : public Asker {
 public:
  struct Options {
    std::vector<ExpectedNode> nodes;               // all that the control plane knows
    std::map<std::string, std::string> overrides;  // node -> socket to ask it on, "--data-plane NODE=SOCKET"
    int timeout_ms = 3'000;                        // of one call
    int64_t now_ms = 0;                            // unix time
  };
  explicit NodeAccess(Options options);
  NodeAccess(NodeAccess&&) noexcept;
  ~NodeAccess() override;

  NodeReach reach(const std::string& node) override;
  Result<boost::json::value> ask(const std::string& node, const std::string& method,
                                 const boost::json::object& params) override;
  // The socket that a node is asked on.
  std::string socket_of(const std::string& node) const;

 private:
  struct Peer;
  Peer& peer(const std::string& node);
  NodeReach find_out(const ExpectedNode& node, client::JsonRpcClient& rpc) const;

  Options options_;
  std::map<std::string, std::unique_ptr<Peer>> peers_;
};

// "s1=/run/s1.sock", repeated, into node -> socket.
Result<std::map<std::string, std::string>> parse_overrides(const std::vector<std::string>& texts);

}  // namespace diskengine::control
