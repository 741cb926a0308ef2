#include "control/store/postgres_session.h"

#include <fmt/format.h>
#include <poll.h>

#include <cerrno>
#include <charconv>
#include <string>

#include "client/unix_socket.h"

namespace diskengine::control {
namespace {

constexpr int kStatementTimeoutMs = 10'000;  // then the session counts as lost

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

// The server gives up before we do, and lets go of what a client that vanished has locked. A commit that was reported
// is on disk, whatever the server's default is.
constexpr std::string_view kSessionSettings =
    "SET client_min_messages = warning;"
    "SET statement_timeout = '8s'; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '10s';"
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', "
    "'local');";

// Object ids of pg_type, the same in every server.
constexpr Oid kInt8Oid = 20;
constexpr Oid kInt2Oid = 21;
constexpr Oid kInt4Oid = 23;
constexpr Oid kTextOid = 25;

struct SqlState {
  std::string_view prefix;
  Errc code;
};
// By the first that matches. https://www.postgresql.org/docs/15/errcodes-appendix.html
constexpr SqlState kSqlStates[] = {
    {"08", Errc::unreachable},       // connection exception
    {"57P", Errc::unreachable},      // the server is going down or starting
    {"25006", Errc::unreachable},    // a standby: this is not the server that writes
    {"23", Errc::already_exists},    // a constraint
    {"40", Errc::would_block},       // serialization failure, deadlock
    {"55P03", Errc::busy},           // lock_timeout
    {"57014", Errc::timed_out},      // statement_timeout
    {"53", Errc::no_space},          // disk full, out of memory, too many connections
    {"28", Errc::access_denied},     // authentication
    {"42501", Errc::access_denied},  // privileges
    {"XX001", Errc::corrupt},        // data corrupted
    {"XX002", Errc::corrupt},        // index corrupted
};

Errc errc_of_state(std::string_view state) {
  for (const SqlState& known : kSqlStates)
    if (state.starts_with(known.prefix)) return known.code;
  return Errc::io_error;
}

// libpq's messages come in lines, indented.
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

struct FreeOptions {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

}  // namespace

Result<std::unique_ptr<PostgresSession>> PostgresSession::connect(const std::string& conninfo,
                                                                  const std::string& shown) {
  char* wrong = nullptr;
  const std::unique_ptr<PQconninfoOption, FreeOptions> parsed(PQconninfoParse(conninfo.c_str(), &wrong));
  if (parsed == nullptr) {
    Error error(Errc::invalid_argument, fmt::format("--db is no PostgreSQL connection string: {}", one_line(wrong)));
    PQfreemem(wrong);
    return error;
  }
  std::vector<const char*> keywords, values;
  for (const PQconninfoOption* option = parsed.get(); option->keyword != nullptr; ++option) {
    if (option->val == nullptr) continue;
    keywords.push_back(option->keyword);
    values.push_back(option->val);
  }
  for (const Default& addition : kDefaults) {
    bool is_given = false;
    for (const char* keyword : keywords) is_given = is_given || std::string_view(keyword) == addition.keyword;
    if (is_given) continue;
    keywords.push_back(addition.keyword);
    values.push_back(addition.value);
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  std::unique_ptr<PostgresSession> session(
      new PostgresSession(PQconnectdbParams(keywords.data(), values.data(), 0), shown));
  if (PQstatus(session->connection_) != CONNECTION_OK)
    return Error(Errc::unreachable, one_line(PQerrorMessage(session->connection_)));
  PQsetnonblocking(session->connection_, 1);
  TRY(session->script(kSessionSettings));
  return session;
}

PostgresSession::~PostgresSession() { PQfinish(connection_); }

bool PostgresSession::peer_is_gone() noexcept {
  if (is_lost_) return true;
  pollfd entry{.fd = PQsocket(connection_), .events = POLLIN, .revents = 0};
  if (::poll(&entry, 1, 0) > 0 && PQconsumeInput(connection_) == 0) is_lost_ = true;
  return is_lost_ || PQstatus(connection_) != CONNECTION_OK;
}

Error PostgresSession::lost(std::string_view why) {
  is_lost_ = true;
  return Error(Errc::unreachable, std::string(why));
}

Error PostgresSession::failure(const PGresult* result) {
  const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  if (PQstatus(connection_) != CONNECTION_OK) return lost(one_line(PQerrorMessage(connection_)));
  const std::string message = one_line(PQresultErrorMessage(result));
  const Errc code = state != nullptr ? errc_of_state(state) : Errc::io_error;
  if (code == Errc::unreachable) return lost(message);
  return Error(code, fmt::format("database {}: {}", shown_, message));
}

Result<void> PostgresSession::wait_for_socket(short events, int timeout_ms) {
  pollfd entry{.fd = PQsocket(connection_), .events = events, .revents = 0};
  int ready = 0;
  do ready = ::poll(&entry, 1, timeout_ms);
  while (ready < 0 && errno == EINTR);
  if (ready == 0) return lost(fmt::format("no answer within {} s", kStatementTimeoutMs / 1000));
  if (ready < 0) return lost(fmt::format("waiting for the answer: errno {}", errno));
  return {};
}

// The last result of the command, or the first one that is an error.
Result<PostgresResult> PostgresSession::wait_for_result() {
  const client::Deadline deadline = client::Deadline::after_ms(kStatementTimeoutMs);
  for (int unsent = 1; unsent != 0;) {
    unsent = PQflush(connection_);
    if (unsent < 0) return lost(one_line(PQerrorMessage(connection_)));
    if (unsent == 0) break;
    TRY(wait_for_socket(POLLIN | POLLOUT, deadline.remaining_ms()));
    if (PQconsumeInput(connection_) == 0) return lost(one_line(PQerrorMessage(connection_)));
  }
  PostgresResult last;
  for (;;) {
    while (PQisBusy(connection_) != 0) {
      TRY(wait_for_socket(POLLIN, deadline.remaining_ms()));
      if (PQconsumeInput(connection_) == 0) return lost(one_line(PQerrorMessage(connection_)));
    }
    PostgresResult next(PQgetResult(connection_));
    if (next == nullptr) break;
    const bool is_bad = last != nullptr && PQresultStatus(last.get()) == PGRES_FATAL_ERROR;
    if (!is_bad) last = std::move(next);
  }
  if (last == nullptr) return lost(one_line(PQerrorMessage(connection_)));
  const ExecStatusType status = PQresultStatus(last.get());
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) return failure(last.get());
  return last;
}

Result<PostgresResult> PostgresSession::run(std::string_view sql, const std::vector<SqlValue>& parameters) {
  if (is_lost_) return lost("the session was lost before");
  std::vector<std::string> texts(parameters.size());
  std::vector<const char*> values(parameters.size(), nullptr);
  std::vector<Oid> types(parameters.size(), 0);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (const int64_t* number = std::get_if<int64_t>(&parameters[i])) {
      texts[i] = std::to_string(*number);
      types[i] = kInt8Oid;
    } else if (const std::string* text = std::get_if<std::string>(&parameters[i])) {
      texts[i] = *text;
      types[i] = kTextOid;
    } else {
      continue;
    }
    values[i] = texts[i].c_str();
  }
  const int sent = PQsendQueryParams(connection_, std::string(sql).c_str(), static_cast<int>(parameters.size()),
                                     types.data(), values.data(), nullptr, nullptr, 0);
  if (sent == 0) return lost(one_line(PQerrorMessage(connection_)));
  return wait_for_result();
}

Result<void> PostgresSession::script(std::string_view sql) {
  if (is_lost_) return lost("the session was lost before");
  if (PQsendQuery(connection_, std::string(sql).c_str()) == 0) return lost(one_line(PQerrorMessage(connection_)));
  TRY(wait_for_result());
  return {};
}

SqlRow postgres_row(const PGresult* result, int row) {
  SqlRow decoded;
  const int count = PQnfields(result);
  decoded.columns.reserve(static_cast<size_t>(count));
  for (int column = 0; column < count; ++column) {
    if (PQgetisnull(result, row, column) != 0) {
      decoded.columns.emplace_back();
      continue;
    }
    const std::string_view text(PQgetvalue(result, row, column), static_cast<size_t>(PQgetlength(result, row, column)));
    const Oid type = PQftype(result, column);
    int64_t number = 0;
    if (type == kInt8Oid || type == kInt4Oid || type == kInt2Oid) {
      std::from_chars(text.data(), text.data() + text.size(), number);
      decoded.columns.emplace_back(number);
    } else {
      decoded.columns.emplace_back(std::string(text));
    }
  }
  return decoded;
}

}  // namespace diskengine::control
