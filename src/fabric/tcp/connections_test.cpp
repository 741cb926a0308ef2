// The kernel's view of our own connections, over loopback.
#include "fabric/tcp/connections.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "base/unique_fd.h"

namespace diskengine::fabric::tcp {
namespace {

const Connection* find(const std::vector<Connection>& all, const std::string& peer) {
  const auto at = std::find_if(all.begin(), all.end(), [&](const Connection& one) { return one.peer == peer; });
  return at == all.end() ? nullptr : &*at;
}

TEST(TcpConnections, BothEndsAreSeenWithWhatTheySent) {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  const std::string target = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  EXPECT_EQ(find(connections(), target), nullptr);

  const UniqueFd host(socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(connect(host.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
  const UniqueFd accepted(accept(listener.get(), nullptr, nullptr));
  ASSERT_EQ(write(host.get(), "hello", 5), 5);
  char text[5];
  ASSERT_EQ(read(accepted.get(), text, sizeof text), 5);

  const std::vector<Connection> all = connections();
  const Connection* ours = find(all, target);
  ASSERT_NE(ours, nullptr);
  EXPECT_FALSE(ours->accepted);
  EXPECT_EQ(ours->sent, 1U);
  EXPECT_EQ(ours->again, 0U);
  const Connection* theirs = find(all, ours->local);
  ASSERT_NE(theirs, nullptr);
  EXPECT_TRUE(theirs->accepted);
  EXPECT_EQ(theirs->local, target);
}

}  // namespace
}  // namespace diskengine::fabric::tcp
