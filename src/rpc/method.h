// What an RPC method is, and the table of them. Each layer has one methods_<layer>.cpp in this folder with a function
// add_<layer>_methods(MethodTable&, <that layer's manager>&); the app calls them. The server (rpc/server.h) parses text
// and checks parameters against schema/ on its own thread, then runs the handler on the main reactor.
//
//   Input object: the checked parameters. Output object: a Reply. Completion: the handler's coroutine returns.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>

#include "base/assert.h"
#include "base/result.h"
#include "runtime/task.h"

namespace diskengine::rpc {

// JSON-RPC 2.0 error codes; every other code is a negative errno, as SPDK answers.
inline constexpr int kParseError = -32700;
inline constexpr int kInvalidRequest = -32600;
inline constexpr int kMethodNotFound = -32601;
inline constexpr int kInvalidParams = -32602;
inline constexpr int kInternalError = -32603;
inline constexpr int kInvalidState = -1;  // a start-up method after start-up, or the other way round

// An error with an explicit JSON-RPC code, where SPDK's differs from -errno.
struct Fault {
  int code;
  std::string message;
};

// The result value, or the error. An Error becomes its negative errno with its message.
class Reply {
 public:
  Reply(boost::json::value value) : state_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Reply(Fault fault) : state_(std::move(fault)) {}               // NOLINT(google-explicit-constructor)
  Reply(const Error& error)                                      // NOLINT(google-explicit-constructor)
      : state_(Fault{-errno_of(error.code()), error.message()}) {}

  bool ok() const noexcept { return state_.index() == 0; }
  boost::json::value& value() { return std::get<0>(state_); }
  const Fault& fault() const { return std::get<1>(state_); }

 private:
  std::variant<boost::json::value, Fault> state_;
};

// Runs on the main reactor. The parameters passed their schema: required ones are there, types and ranges are right,
// defaults are filled in, and there are no unknown ones.
using Handler = std::function<Task<Reply>(boost::json::object params)>;

// When a method may be called (--wait-for-rpc holds the process in the start-up state until framework_start_init).
enum class Phase { startup, runtime, any };

class MethodTable {
 public:
  // The name must be described in schema/ (which also says in which phase it may be called) and not be taken.
  void add(std::string_view name, Handler handler) {
    const bool added = methods_.emplace(std::string(name), std::move(handler)).second;
    DE_ASSERT(added);
  }
  const Handler* find(std::string_view name) const {
    auto at = methods_.find(name);
    return at == methods_.end() ? nullptr : &at->second;
  }
  const std::map<std::string, Handler, std::less<>>& all() const noexcept { return methods_; }

 private:
  std::map<std::string, Handler, std::less<>> methods_;
};

}  // namespace diskengine::rpc
