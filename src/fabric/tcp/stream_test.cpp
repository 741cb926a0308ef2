#include "fabric/tcp/stream.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <deque>
#include <thread>

#include "runtime/random.h"

namespace diskengine::fabric::tcp {
namespace {

struct Pair {
  UniqueFd ours;
  UniqueFd theirs;
  explicit Pair(int buffer_bytes = 0) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    ours = UniqueFd(fds[0]);
    theirs = UniqueFd(fds[1]);
    if (buffer_bytes > 0) setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
  }
};

class Recorder : public Stream::Handler {
 public:
  size_t on_bytes(std::span<uint8_t> bytes) noexcept override {
    // Takes whole groups of 8, to leave something now and then.
    const size_t taken = bytes.size() / 8 * 8;
    received.insert(received.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(taken));
    return taken;
  }
  void on_closed(int positive_errno) noexcept override {
    ++closed;
    error = positive_errno;
  }
  std::vector<uint8_t> received;
  int closed = 0;
  int error = -1;
};

struct CountingHook final : SendHook {
  void on_released() noexcept override { ++released; }
  int released = 0;
};

std::vector<uint8_t> random_bytes(Random& random, size_t size) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next());
  return bytes;
}

TEST(Stream, MixedOutputArrivesInOrderThroughATinySocketAndEveryPayloadIsReleasedOnce) {
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  Reactor reactor({});
  Staging staging;
  Pair pair(4096);
  Recorder recorder;
  Stream stream(reactor, staging, recorder, std::move(pair.ours), {.output_bytes = 1024, .output_pieces = 16});
  std::vector<uint8_t> sent;
  std::vector<uint8_t> arrived;
  std::vector<std::vector<uint8_t>> payloads;
  std::deque<CountingHook> hooks;
  for (int step = 0; step < 2000; ++step) {
    if (random.chance(1, 2) && stream.has_room(100, 1)) {
      const auto bytes = random_bytes(random, 1 + random.below(100));
      std::memcpy(stream.reserve(bytes.size()), bytes.data(), bytes.size());
      sent.insert(sent.end(), bytes.begin(), bytes.end());
    } else if (stream.has_room(0, 2)) {
      payloads.push_back(random_bytes(random, 1 + random.below(20000)));
      auto& bytes = payloads.back();
      const size_t cut = random.below(bytes.size());
      const iovec iov[] = {{bytes.data(), cut}, {bytes.data() + cut, bytes.size() - cut}};
      hooks.emplace_back();
      if (cut == 0) {
        stream.append_payload(std::span(iov).subspan(1), &hooks.back());
      } else {
        stream.append_payload(iov, &hooks.back());
      }
      sent.insert(sent.end(), bytes.begin(), bytes.end());
    }
    if (step == 500) stream.resize_output(4096, 64);
    reactor.turn();
    uint8_t buffer[8192];
    const ssize_t got = recv(pair.theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (got > 0) arrived.insert(arrived.end(), buffer, buffer + got);
  }
  ASSERT_TRUE(reactor.run_until([&] {
    uint8_t buffer[65536];
    const ssize_t got = recv(pair.theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (got > 0) arrived.insert(arrived.end(), buffer, buffer + got);
    return arrived.size() == sent.size();
  }));
  EXPECT_TRUE(arrived == sent);
  reactor.turn();
  EXPECT_TRUE(stream.output_empty());
  for (const CountingHook& hook : hooks) EXPECT_EQ(hook.released, 1);
  EXPECT_EQ(recorder.closed, 0);
}

TEST(Stream, WhatAHandlerLeavesComesAgainInFrontOfTheNextBytes) {
  const uint64_t seed = Random::from_system().next();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  Reactor reactor({});
  Staging staging;
  Pair pair;
  Recorder recorder;
  Stream stream(reactor, staging, recorder, std::move(pair.ours), {});
  const auto bytes = random_bytes(random, 80'000);
  size_t at = 0;
  ASSERT_TRUE(reactor.run_until([&] {
    const size_t some = std::min<size_t>(bytes.size() - at, 1 + random.below(700));
    if (some > 0) {
      const ssize_t sent = send(pair.theirs.get(), bytes.data() + at, some, MSG_DONTWAIT);
      if (sent > 0) at += static_cast<size_t>(sent);
    }
    return recorder.received.size() == bytes.size();
  }));
  EXPECT_TRUE(recorder.received == bytes);
  pair.theirs.reset();
  ASSERT_TRUE(reactor.run_until([&] { return recorder.closed == 1; }));
  EXPECT_EQ(recorder.error, 0);
  EXPECT_FALSE(stream.open());
}

TEST(Stream, ASleepingStreamWhoseSocketWasFullGoesOnWhenThereIsRoom) {
  Reactor reactor({.spin_ns = 1'000'000});
  Staging staging;
  Pair pair(4096);
  Recorder recorder;
  std::vector<uint8_t> payload(1 << 20, 0x5a);
  CountingHook hook;
  std::atomic<size_t> arrived{0};
  std::unique_ptr<Stream> stream;
  // The stream goes cold waiting for input only, then is given more than its socket takes, and goes cold again.
  reactor.post(
      [&] { stream = std::make_unique<Stream>(reactor, staging, recorder, std::move(pair.ours), Stream::Options{}); });
  Timer give([&] {
    const iovec iov{payload.data(), payload.size()};
    stream->append_payload({&iov, 1}, &hook);
  });
  reactor.post([&] { give.arm(reactor, 20'000'000); });
  std::thread reader([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    uint8_t buffer[65536];
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (arrived < payload.size() && std::chrono::steady_clock::now() < deadline) {
      const ssize_t got = recv(pair.theirs.get(), buffer, sizeof buffer, MSG_DONTWAIT);
      if (got > 0) arrived += static_cast<size_t>(got);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    reactor.post([&] { stream.reset(); });
    reactor.stop();
  });
  reactor.run();
  reader.join();
  reactor.turn();
  EXPECT_EQ(arrived, payload.size());
  EXPECT_EQ(hook.released, 1);
}

TEST(Stream, ShutDownSendsWhatIsPendingAndClosesWhenThePeerDoes) {
  Reactor reactor({});
  Staging staging;
  Pair pair;
  Recorder recorder;
  Stream stream(reactor, staging, recorder, std::move(pair.ours), {});
  std::memcpy(stream.reserve(5), "hello", 5);
  stream.shut_down(5'000'000'000);
  for (int i = 0; i < 3; ++i) reactor.turn();
  char text[16] = "";
  EXPECT_EQ(recv(pair.theirs.get(), text, sizeof text, 0), 5);
  EXPECT_STREQ(text, "hello");
  EXPECT_EQ(recv(pair.theirs.get(), text, sizeof text, 0), 0);
  EXPECT_EQ(recorder.closed, 0);
  pair.theirs.reset();
  ASSERT_TRUE(reactor.run_until([&] { return recorder.closed == 1; }));
}

TEST(Stream, ShutDownDoesNotWaitForAPeerThatNeverCloses) {
  Reactor reactor({});
  Staging staging;
  Pair pair;
  Recorder recorder;
  Stream stream(reactor, staging, recorder, std::move(pair.ours), {});
  stream.shut_down(5'000'000);
  ASSERT_TRUE(reactor.run_until([&] { return recorder.closed == 1; }));
}

TEST(Stream, ConnectsAndReportsARefusal) {
  Reactor reactor({});
  Staging staging;
  auto any = SocketAddress::parse("127.0.0.1", "0");
  ASSERT_TRUE(any);
  auto listener = listen_on(*any, 4);
  ASSERT_TRUE(listener);
  auto bound = local_address(listener->get());
  ASSERT_TRUE(bound);
  struct Connector final : Recorder {
    void on_connected() noexcept override { ++connected; }
    int connected = 0;
  };
  Connector good;
  auto fd = begin_connect(*bound);
  ASSERT_TRUE(fd);
  Stream stream(reactor, staging, good, std::move(*fd), {.connecting = true});
  ASSERT_TRUE(reactor.run_until([&] { return good.connected == 1; }));
  EXPECT_EQ(good.closed, 0);
  listener->reset();
  Connector refused;
  auto second = begin_connect(*bound);
  if (second) {
    Stream other(reactor, staging, refused, std::move(*second), {.connecting = true});
    ASSERT_TRUE(reactor.run_until([&] { return refused.closed == 1; }));
    EXPECT_EQ(refused.error, ECONNREFUSED);
  }
}

TEST(SocketAddress, TakesNumericAddressesOnly) {
  EXPECT_EQ(SocketAddress::parse("127.0.0.1", "4420")->to_string(), "127.0.0.1:4420");
  EXPECT_EQ(SocketAddress::parse("::1", "8009")->to_string(), "[::1]:8009");
  EXPECT_FALSE(SocketAddress::parse("localhost", "4420"));
  EXPECT_FALSE(SocketAddress::parse("127.0.0.1", "65536"));
  EXPECT_FALSE(SocketAddress::parse("127.0.0.1", ""));
  EXPECT_FALSE(SocketAddress::parse("127.0.0.1", "44x"));
}

}  // namespace
}  // namespace diskengine::fabric::tcp
