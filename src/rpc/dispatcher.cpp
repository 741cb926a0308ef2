#include "rpc/dispatcher.h"

#include <memory>
#include <string>

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

constexpr uint64_t kWaitPollNs = 5'000'000;

Fault wrong_phase(Phase phase) {
  if (phase == Phase::runtime)
    return {kInvalidState, "Method may only be called after framework is initialized using framework_start_init RPC."};
  return {
      kInvalidState,
      "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter and then "
      "issue this RPC before the framework_start_init RPC."};
}

Error stopping() { return Error(Errc::canceled, "the process is stopping"); }

}  // namespace

Result<void> Dispatcher::verify() const {
  std::string problems;
  for (const auto& [name, handler] : methods_.all()) {
    const MethodInfo* info = find_method_info(name);
    if (info == nullptr || info->name != name) problems += " '" + name + "' is served but not described in schema/;";
  }
  for (const MethodInfo& info : method_infos())
    if (methods_.find(info.name) == nullptr)
      problems += " '" + std::string(info.name) + "' is described in schema/" + std::string(info.layer) +
                  ".json but not served;";
  if (!problems.empty()) return Error(Errc::internal, "the RPC methods and their schema differ:" + problems);
  return {};
}

void Dispatcher::set_running() { running_.store(true, std::memory_order_release); }

Task<Result<void>> Dispatcher::wait_running() {
  while (!running()) {
    if (refusing_) co_return Error(Errc::canceled, "the process is stopping before its start-up was finished");
    co_await sleep_for(main_, kWaitPollNs);
  }
  co_return Result<void>{};
}

bool Dispatcher::allowed_now(Phase phase) const noexcept {
  return phase == Phase::any || (phase == Phase::runtime) == running();
}

std::variant<Dispatcher::Call, Fault> Dispatcher::prepare(std::string_view method, json::value params) const {
  const MethodInfo* info = find_method_info(method);
  const Handler* handler = info == nullptr ? nullptr : methods_.find(info->name);
  if (handler == nullptr) return Fault{kMethodNotFound, "Method not found"};
  if (!allowed_now(info->phase)) return wrong_phase(info->phase);
  Call call;
  call.handler = handler;
  if (params.is_object()) {
    call.params = std::move(params.get_object());
  } else if (!params.is_null()) {
    return Fault{kInvalidParams, "Invalid parameters: " + std::string(info->name) + ": 'params' must be an object"};
  }
  if (auto wrong = check_params(*info, call.params)) return *wrong;
  return call;
}

void Dispatcher::submit(Call call, std::function<void(Reply)> done) {
  auto shared = std::make_shared<Call>(std::move(call));
  main_.post([this, shared, done = std::move(done)]() mutable { run(std::move(*shared), std::move(done)); });
}

void Dispatcher::run(Call call, std::function<void(Reply)> done) {
  if (refusing_ || !gate_.enter()) {
    done(stopping());
    return;
  }
  spawn<Reply>((*call.handler)(std::move(call.params)), [this, done = std::move(done)](Reply reply) {
    done(std::move(reply));
    gate_.leave();
  });
}

Task<Reply> Dispatcher::call(std::string method, json::value params) {
  if (refusing_) co_return stopping();
  std::variant<Call, Fault> prepared = prepare(method, std::move(params));
  if (Fault* wrong = std::get_if<Fault>(&prepared)) co_return *wrong;
  Call& call = std::get<Call>(prepared);
  Task<Reply> running = (*call.handler)(std::move(call.params));
  Reply reply = co_await running;
  co_return reply;
}

}  // namespace diskengine::rpc
