// PostgreSQL behind the SQL seam: libpq, one session, made again by itself when it was lost.
//
// Writing transactions follow one another (an advisory lock), as they do in SQLite. Every wait has a bound: connecting
// 5 s, a statement 10 s, a lock 5 s. A session that is lost outside a transaction is made again and the statement
// repeated once; one that is lost within ends the transaction with `unreachable` and nothing changed. Between vain
// tries to connect the connection answers `unreachable` at once, with the time since when.
//
// When the session dies in COMMIT, commit() connects again and finds out: every writing transaction leaves its number
// in the session's row of `commit_receipts`, and reading that row with a lock waits for whatever the lost session still
// has under way. So the answer is that it was committed (success), or that it was not and never will be
// (`would_block`), or, if the server stays away, that nobody knows (`unreachable`, which says so): then read before
// deciding.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "control/environment.h"
#include "control/store/sql.h"

namespace diskengine::control {

// True for a URI (postgresql://...) and for "key=value" connection strings; everything else is the path of a file.
bool is_postgres(std::string_view database);
// Where the database is, without the password in it.
std::string shown_database(const std::string& database);

// `conninfo` as libpq reads it. Fails with `unreachable` when the server does not answer, `invalid_argument` when the
// text is wrong. `environment` outlives the connection.
Result<std::unique_ptr<SqlConnection>> open_postgres(const std::string& conninfo, Environment& environment);

}  // namespace diskengine::control
