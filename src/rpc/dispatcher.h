// From a method's name and raw parameters to its handler: looks the method up, holds the phase, checks the parameters
// and runs the handler on the main reactor. Used by the socket server and by the start-up configuration.
//
//   Input object: method name and parameters. Output object: the handler's coroutine. Completion callback: `done` with
//   the Reply, on the main reactor.
//
// Threads: prepare() and submit() on any; the rest on the main reactor. Owned by the app; outlives its calls (drain()).
#pragma once

#include <atomic>
#include <functional>
#include <string_view>
#include <variant>

#include "rpc/method.h"
#include "rpc/schema.h"
#include "runtime/gate.h"
#include "runtime/reactor.h"

namespace diskengine::rpc {

class Dispatcher {
 public:
  // The table must be complete by the first call and not change after it.
  Dispatcher(Reactor& main, const MethodTable& methods) : main_(main), methods_(methods) {}

  // A checked call.
  struct Call {
    const Handler* handler = nullptr;
    boost::json::object params;
  };

  // Every method of the table is in the schema, and the other way round; says which are not.
  Result<void> verify() const;
  const MethodTable& methods() const noexcept { return methods_; }

  // Whether the start-up phase is over. Any thread.
  bool running() const noexcept { return running_.load(std::memory_order_acquire); }
  // Ends the start-up phase.
  void set_running();
  // Until the start-up phase is over, or Errc::canceled once refuse() was called.
  Task<Result<void>> wait_running();
  bool allowed_now(Phase phase) const noexcept;

  std::variant<Call, Fault> prepare(std::string_view method, boost::json::value params) const;
  void submit(Call call, std::function<void(Reply)> done);
  // prepare and run in one, for a coroutine on the main reactor.
  Task<Reply> call(std::string method, boost::json::value params);

  // Refuses new calls from now on (Errc::canceled), in shutdown.
  void refuse() noexcept { refusing_ = true; }
  bool refusing() const noexcept { return refusing_; }
  // After refuse(): runs `drained` once no submitted call is under way.
  void drain(std::function<void()> drained) { gate_.close(std::move(drained)); }

 private:
  void run(Call call, std::function<void(Reply)> done);

  Reactor& main_;
  const MethodTable& methods_;
  std::atomic<bool> running_{false};
  bool refusing_ = false;
  Gate gate_;
};

}  // namespace diskengine::rpc
