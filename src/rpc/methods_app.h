// The methods of the process itself: what it offers, phases, signals.
#pragma once

#include <functional>
#include <string>

#include "rpc/dispatcher.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// What these methods need from the app; outlives the table.
struct AppControl {
  int version_major = 0;
  int version_minor = 0;
  int version_patch = 0;
  // Brings everything up after the start-up phase; main reactor.
  std::function<Task<Result<void>>()> start_init;
};

void add_app_methods(MethodTable& methods, Dispatcher& dispatcher, AppControl& control);

}  // namespace diskengine::rpc
