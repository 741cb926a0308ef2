#include "control/store/postgres_connect.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "client/unix_socket.h"

namespace diskengine::control {
namespace {

constexpr int kForeverMs = -1;
constexpr int64_t kConnectTimeoutMaxS = 3600;

// What keeps a session from waiting for ever, unless the operator's connection string says otherwise.
struct Default {
  const char* keyword;
  const char* value;
};
constexpr Default kDefaults[] = {
    {"application_name", "diskengine"}, {"connect_timeout", "5"},
    {"keepalives_idle", "5"},           {"keepalives_interval", "2"},
    {"keepalives_count", "3"},          {"tcp_user_timeout", "10000"},
    {"client_encoding", "UTF8"},        {"target_session_attrs", "read-write"},
};
constexpr std::string_view kPerHost[] = {"host", "hostaddr", "port"};

struct FreeOptions {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

const std::string* find(const std::vector<PostgresOption>& options, std::string_view keyword) {
  for (const PostgresOption& option : options)
    if (option.keyword == keyword) return &option.value;
  return nullptr;
}

std::vector<std::string> list_of(const std::string& text) {
  std::vector<std::string> items(1);
  for (const char c : text) {
    if (c == ',')
      items.emplace_back();
    else
      items.back() += c;
  }
  return items;
}

// Negative or nothing: without limit, as libpq takes it.
int64_t timeout_s(const std::vector<PostgresOption>& options) {
  const std::string* text = find(options, "connect_timeout");
  return text == nullptr ? 0 : std::min<int64_t>(std::atoll(text->c_str()), kConnectTimeoutMaxS);
}

// `unreachable` in time.
Result<void> wait_for_socket(PGconn* connection, short events, const client::Deadline* deadline) {
  pollfd entry{.fd = PQsocket(connection), .events = events, .revents = 0};
  int ready = 0;
  do ready = ::poll(&entry, 1, deadline != nullptr ? deadline->remaining_ms() : kForeverMs);
  while (ready < 0 && errno == EINTR);
  if (ready > 0) return {};
  if (ready < 0) return Error::from_errno(errno, "waiting for the database");
  const char* host = PQhost(connection);
  return Error(Errc::unreachable,
               fmt::format("no answer from \"{}\", port {}, in time", host != nullptr ? host : "", PQport(connection)));
}

// https://www.postgresql.org/docs/15/libpq-connect.html, PQconnectPoll.
Result<PostgresHandle> connect_to(const std::vector<PostgresOption>& options) {
  std::vector<const char*> keywords, values;
  for (const PostgresOption& option : options) {
    keywords.push_back(option.keyword.c_str());
    values.push_back(option.value.c_str());
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  const int64_t limit_s = timeout_s(options);
  const client::Deadline deadline = client::Deadline::after_ms(limit_s * 1000);
  PostgresHandle connection(PQconnectStartParams(keywords.data(), values.data(), 0));
  if (connection == nullptr) return Error(Errc::no_memory, "no memory for a connection to the database");
  PostgresPollingStatusType wants = PGRES_POLLING_WRITING;
  while (PQstatus(connection.get()) != CONNECTION_BAD && wants != PGRES_POLLING_OK) {
    TRY(wait_for_socket(connection.get(), wants == PGRES_POLLING_READING ? POLLIN : POLLOUT,
                        limit_s > 0 ? &deadline : nullptr));
    wants = PQconnectPoll(connection.get());
    if (wants == PGRES_POLLING_FAILED) break;
  }
  if (PQstatus(connection.get()) != CONNECTION_OK)
    return Error(Errc::unreachable, one_line(PQerrorMessage(connection.get())));
  return connection;
}

}  // namespace

std::string one_line(const char* message) {
  std::string text;
  for (const char* at = message; at != nullptr && *at != '\0'; ++at) {
    const bool is_space = *at == '\n' || *at == '\t' || *at == ' ';
    if (!is_space) text += *at;
    if (is_space && !text.empty() && text.back() != ' ') text += ' ';
  }
  if (text.ends_with(' ')) text.pop_back();
  return text;
}

Result<std::vector<PostgresOption>> postgres_options(const std::string& conninfo) {
  char* wrong = nullptr;
  const std::unique_ptr<PQconninfoOption, FreeOptions> parsed(PQconninfoParse(conninfo.c_str(), &wrong));
  if (parsed == nullptr) {
    Error error(Errc::invalid_argument, fmt::format("--db is no PostgreSQL connection string: {}", one_line(wrong)));
    PQfreemem(wrong);
    return error;
  }
  std::vector<PostgresOption> options;
  for (const PQconninfoOption* option = parsed.get(); option->keyword != nullptr; ++option)
    if (option->val != nullptr) options.push_back({option->keyword, option->val});
  for (const Default& addition : kDefaults)
    if (find(options, addition.keyword) == nullptr) options.push_back({addition.keyword, addition.value});
  return options;
}

std::vector<std::vector<PostgresOption>> options_by_host(const std::vector<PostgresOption>& options) {
  size_t hosts = 1;
  for (const std::string_view keyword : kPerHost)
    if (const std::string* text = find(options, keyword)) hosts = std::max(hosts, list_of(*text).size());
  std::vector<std::vector<PostgresOption>> split(hosts, options);
  for (size_t i = 0; i < hosts; ++i)
    for (PostgresOption& option : split[i]) {
      if (std::find(std::begin(kPerHost), std::end(kPerHost), option.keyword) == std::end(kPerHost)) continue;
      const std::vector<std::string> items = list_of(option.value);
      // A single port is that of all hosts; lists of different lengths are libpq's to refuse.
      if (items.size() == hosts) option.value = items[i];
    }
  return split;
}

Result<PostgresHandle> connect_postgres(const std::vector<PostgresOption>& options) {
  std::string messages;
  for (const std::vector<PostgresOption>& host : options_by_host(options)) {
    Result<PostgresHandle> connection = connect_to(host);
    if (connection || connection.error().code() != Errc::unreachable) return connection;
    messages += (messages.empty() ? "" : "; ") + connection.error().message();
  }
  return Error(Errc::unreachable, messages);
}

}  // namespace diskengine::control
