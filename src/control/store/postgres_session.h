// One libpq session with a bound on every wait, and libpq's errors as ours. One thread at a time; owns the session.
#pragma once

#include <libpq-fe.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "control/store/sql.h"

namespace diskengine::control {

struct FreePostgresResult {
  void operator()(PGresult* result) const { PQclear(result); }
};
using PostgresResult = std::unique_ptr<PGresult, FreePostgresResult>;

class PostgresSession {
 public:
  // Connects and sets the session's own limits. `shown` names the database in messages.
  static Result<std::unique_ptr<PostgresSession>> connect(const std::string& conninfo, const std::string& shown);
  ~PostgresSession();

  // One statement with parameters. `unreachable`: the session is lost (also when the answer took too long) and every
  // further call fails so.
  Result<PostgresResult> run(std::string_view sql, const std::vector<SqlValue>& parameters);
  // Several statements without parameters; the first that fails ends it.
  Result<void> script(std::string_view sql);
  bool is_lost() const noexcept { return is_lost_; }
  // True when the session is idle and the server has already ended it, as far as can be told without waiting.
  bool peer_is_gone() noexcept;

 private:
  PostgresSession(PGconn* connection, std::string shown) : connection_(connection), shown_(std::move(shown)) {}

  Result<PostgresResult> wait_for_result();
  Result<void> wait_for_socket(short events, int timeout_ms);
  Error lost(std::string_view why);
  Error failure(const PGresult* result);

  PGconn* connection_;
  std::string shown_;
  bool is_lost_ = false;
};

// A row of a result.
SqlRow postgres_row(const PGresult* result, int row);

}  // namespace diskengine::control
