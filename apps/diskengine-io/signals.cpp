#include "signals.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace diskengine::app {

Result<int> SignalSource::open() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) return Error::from_errno(errno, "making a signalfd");
  return fd;
}

SignalSource::~SignalSource() { close(fd()); }

int SignalSource::poll() noexcept {
  signalfd_siginfo info{};
  if (read(fd(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return 0;
  stop_(static_cast<int>(info.ssi_signo));
  return 1;
}

}  // namespace diskengine::app
