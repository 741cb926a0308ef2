// SIGTERM and SIGINT as an ordinary source of the main reactor. Owned by the App.
#pragma once

#include <functional>

#include "base/result.h"
#include "runtime/reactor.h"

namespace diskengine::app {

class SignalSource final : public Source {
 public:
  // Before any thread is started: blocks the signals, so that every thread inherits that, and ignores SIGPIPE.
  static Result<int> open();
  // Takes what open() gave; `stop` runs on the main reactor for each signal.
  SignalSource(int fd, std::function<void(int number)> stop) : Source("signals", fd), stop_(std::move(stop)) {}
  ~SignalSource();

  int poll() noexcept override;

 private:
  std::function<void(int)> stop_;
};

}  // namespace diskengine::app
