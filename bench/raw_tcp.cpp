// The limit that NVMe/TCP is measured against: two processes, one core each, exchanging messages of the same sizes over
// loopback TCP with nothing behind them. Every message under way has memory of its own. Each side receives without
// blocking into a staging buffer, takes all whole messages out of it, and sends what it has to say with one sendmsg per
// loop; it spins for a while before it blocks.
//
//   raw_tcp --op read|write --qd N --size BYTES --seconds S [--cores A,B]
//
// Prints one JSON object.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "base/histogram.h"
#include "runtime/clock.h"

namespace {

using diskengine::Histogram;
using diskengine::SystemClock;
using diskengine::ticks;

constexpr size_t kCommandBytes = 72;     // header and submission entry
constexpr size_t kResponseBytes = 24;    // header and completion entry
constexpr size_t kDataHeaderBytes = 24;  // before the data of a read
constexpr size_t kStagingBytes = 256 * 1024;
constexpr size_t kPiecesMax = 256;
constexpr int kSocketBufferBytes = 4 << 20;
constexpr uint64_t kSpinNs = 40'000;
constexpr uint64_t kWarmUpNs = 300'000'000;

struct Options {
  bool read = false;
  unsigned queue_depth = 1;
  size_t size = 4096;
  double seconds = 2;
  int client_core = 0;
  int server_core = 1;
  size_t request_bytes() const { return kCommandBytes + (read ? 0 : size); }
  size_t response_bytes() const { return kResponseBytes + (read ? kDataHeaderBytes + size : 0); }
};

// What the server tells the client through shared memory.
struct Shared {
  uint64_t calls;
  uint64_t cpu_us;
};

uint64_t cpu_us() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto us = [](const timeval& t) {
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000 + static_cast<uint64_t>(t.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);
}

void tune(int fd) {
  const int bytes = kSocketBufferBytes;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
}

// One end: counts whole messages in, sends messages out.
class End {
 public:
  End(int fd, unsigned depth, size_t in_bytes, size_t out_bytes, const std::vector<size_t>& out_parts)
      : fd_(fd),
        in_bytes_(in_bytes),
        out_bytes_(out_bytes),
        staging_(kStagingBytes),
        out_(out_bytes * depth),
        parts_(out_parts) {
    const int one = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) | O_NONBLOCK);
    std::memset(out_.data(), 1, out_.size());
  }

  // The number of messages that became whole; -1 when the peer has gone.
  int receive() {
    ++calls;
    const ssize_t got = recv(fd_, staging_.data(), staging_.size(), 0);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) return -1;
    partial_ += static_cast<size_t>(got);
    const size_t whole = partial_ / in_bytes_;
    partial_ %= in_bytes_;
    return static_cast<int>(whole);
  }

  void queue(unsigned messages) { to_send_ += messages * out_bytes_; }

  // Sends what the socket takes.
  bool flush() {
    while (to_send_ > 0) {
      iovec pieces[kPiecesMax];
      msghdr message{};
      message.msg_iov = pieces;
      message.msg_iovlen = fill(pieces);
      ++calls;
      const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN;
      to_send_ -= static_cast<size_t>(sent);
      out_at_ = (out_at_ + static_cast<size_t>(sent)) % out_.size();
    }
    return true;
  }
  bool blocked() const { return to_send_ > 0; }

  void wait() {
    pollfd p{fd_, static_cast<short>(POLLIN | (blocked() ? POLLOUT : 0)), 0};
    ++calls;
    poll(&p, 1, 100);
  }

  uint64_t calls = 0;

 private:
  // A header and its payload are pieces of their own, as they are where they belong to different owners.
  size_t fill(iovec* pieces) {
    size_t count = 0, left = to_send_, at = out_at_;
    while (left > 0 && count < kPiecesMax) {
      size_t start = at - at % out_bytes_, part = 0;
      while (at >= start + parts_[part]) start += parts_[part++];
      const size_t length = std::min(start + parts_[part] - at, left);
      pieces[count++] = {out_.data() + at, length};
      left -= length;
      at = (at + length) % out_.size();
    }
    return count;
  }

  int fd_;
  size_t in_bytes_, out_bytes_;
  std::vector<uint8_t> staging_, out_;
  std::vector<size_t> parts_;
  size_t partial_ = 0, to_send_ = 0, out_at_ = 0;
};

// Spins while there was work lately, blocks otherwise.
class Pace {
 public:
  void worked() { last_ns_ = clock_.now_ns(); }
  void idle(End& end) {
    if (clock_.now_ns() - last_ns_ < kSpinNs) return;
    end.wait();
    worked();
  }

 private:
  SystemClock clock_;
  uint64_t last_ns_ = clock_.now_ns();
};

void serve(int listener, const Options& options, Shared& shared) {
  pin(options.server_core);
  const int fd = accept(listener, nullptr, nullptr);
  DE_ASSERT(fd >= 0);
  const std::vector<size_t> parts = options.read ? std::vector<size_t>{kDataHeaderBytes, options.size, kResponseBytes}
                                                 : std::vector<size_t>{kResponseBytes};
  End end(fd, options.queue_depth, options.request_bytes(), options.response_bytes(), parts);
  Pace pace;
  for (;;) {
    const int got = end.receive();
    if (got < 0) break;
    end.queue(static_cast<unsigned>(got));
    if (!end.flush()) break;
    if (got > 0) {
      pace.worked();
      shared.calls = end.calls;
      shared.cpu_us = cpu_us();
    } else {
      pace.idle(end);
    }
  }
  close(fd);
}

void load(int fd, const Options& options, const Shared& shared) {
  pin(options.client_core);
  const std::vector<size_t> parts =
      options.read ? std::vector<size_t>{kCommandBytes} : std::vector<size_t>{kCommandBytes, options.size};
  End end(fd, options.queue_depth, options.response_bytes(), options.request_bytes(), parts);
  SystemClock clock;
  Histogram latency(7);
  std::vector<uint64_t> sent_at(options.queue_depth, ticks());
  size_t oldest = 0;
  Pace pace;
  uint64_t ios = 0, calls_before = 0, cpu_before = 0;
  Shared server_before{};
  const uint64_t start_ns = clock.now_ns() + kWarmUpNs;
  const uint64_t end_ns = start_ns + static_cast<uint64_t>(options.seconds * 1e9);
  uint64_t now_ns = 0, measured_from_ns = 0;
  end.queue(options.queue_depth);
  while (end.flush()) {
    now_ns = clock.now_ns();
    if (measured_from_ns == 0 && now_ns >= start_ns) {
      measured_from_ns = now_ns;
      calls_before = end.calls;
      cpu_before = cpu_us();
      server_before = shared;
      latency.reset();
      ios = 0;
    }
    if (now_ns >= end_ns) break;
    const int got = end.receive();
    DE_ASSERT(got >= 0);
    if (got == 0) {
      pace.idle(end);
      continue;
    }
    pace.worked();
    const uint64_t now = ticks();
    for (int i = 0; i < got; ++i) {
      latency.record(now - sent_at[oldest]);
      sent_at[oldest] = now;
      oldest = (oldest + 1) % options.queue_depth;
    }
    ios += static_cast<uint64_t>(got);
    end.queue(static_cast<unsigned>(got));
  }
  const double seconds = static_cast<double>(now_ns - measured_from_ns) / 1e9;
  const double us_per_tick = 1e6 / static_cast<double>(diskengine::ticks_per_second());
  const auto us = [&](double quantile) { return static_cast<double>(latency.quantile(quantile)) * us_per_tick; };
  const auto per_io = [&](uint64_t amount) { return static_cast<double>(amount) / static_cast<double>(ios); };
  fmt::print(
      R"({{"ios":{},"iops":{:.0f},"p50_us":{:.2f},"p99_us":{:.2f},"p999_us":{:.2f},"cpu_us_per_io":[{:.3f},{:.3f}],)"
      R"("calls_per_io":[{:.3f},{:.3f}]}})"
      "\n",
      ios, static_cast<double>(ios) / seconds, us(0.5), us(0.99), us(0.999), per_io(cpu_us() - cpu_before),
      per_io(shared.cpu_us - server_before.cpu_us), per_io(end.calls - calls_before),
      per_io(shared.calls - server_before.calls));
}

int usage() {
  fmt::print(stderr, "usage: raw_tcp --op read|write --qd N --size BYTES --seconds S [--cores A,B]\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    const char* value = argv[i + 1];
    if (name == "--op") {
      options.read = std::string_view(value) == "read";
    } else if (name == "--qd") {
      options.queue_depth = static_cast<unsigned>(std::atoi(value));
    } else if (name == "--size") {
      options.size = static_cast<size_t>(std::atoi(value));
    } else if (name == "--seconds") {
      options.seconds = std::atof(value);
    } else if (name == "--cores") {
      if (std::sscanf(value, "%d,%d", &options.client_core, &options.server_core) != 2) return usage();
    } else {
      return usage();
    }
  }
  if (argc % 2 == 0 || options.queue_depth == 0 || options.seconds <= 0) return usage();
  diskengine::ticks_per_second();
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  DE_ASSERT(memory != MAP_FAILED);
  auto& shared = *static_cast<Shared*>(memory);
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  tune(listener);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  DE_ASSERT(bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(listener, 1) == 0);
  DE_ASSERT(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  const pid_t child = fork();
  if (child == 0) {
    serve(listener, options, shared);
    _exit(0);
  }
  close(listener);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  tune(fd);
  DE_ASSERT(connect(fd, reinterpret_cast<sockaddr*>(&address), length) == 0);
  load(fd, options, shared);
  close(fd);
  waitpid(child, nullptr, 0);
  return 0;
}
