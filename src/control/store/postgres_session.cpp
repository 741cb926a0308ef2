#include "control/store/postgres_session.h"

#include <fmt/format.h>
#include <poll.h>

#include <cerrno>
#include <charconv>
#include <string>

#include "client/unix_socket.h"
#include "control/store/postgres_connect.h"

namespace diskengine::control {
namespace {

constexpr int kStatementTimeoutMs = 10'000;  // then the session counts as lost

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

}  // namespace

Result<std::unique_ptr<PostgresSession>> PostgresSession::connect(const std::string& conninfo,
                                                                  const std::string& shown) {
  TRY_ASSIGN(const std::vector<PostgresOption> options, postgres_options(conninfo));
  TRY_ASSIGN(PostgresHandle connection, connect_postgres(options));
  std::unique_ptr<PostgresSession> session(new PostgresSession(connection.release(), shown));
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
