// The seam to a SQL database: SQLite and PostgreSQL behind one interface. A connection belongs to one thread at a time.
// Statements use $1, $2, ... for parameters and only SQL that both databases understand.
//
// Writing transactions follow one another, over all processes. Outside a transaction stand only reads, and writes that
// may be done twice: a connection that was lost is made again and the statement repeated. Errors that mean the database
// rather than the statement: `unreachable` (nothing was changed, unless the message of a commit() says that it is not
// known: then read before deciding), `would_block` and `busy` (nothing was changed; the same again may succeed).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace diskengine::control {

using SqlValue = std::variant<std::monostate, int64_t, std::string>;

struct SqlRow {
  std::vector<SqlValue> columns;

  // 0 for NULL; a column of the other type is a bug of ours and asserted.
  int64_t integer(size_t column) const;
  // Empty for NULL.
  std::string text(size_t column) const;
};

class SqlConnection {
 public:
  virtual ~SqlConnection() = default;
  // Runs one statement and returns its rows (also those of a RETURNING clause).
  virtual Result<std::vector<SqlRow>> query(std::string_view sql, const std::vector<SqlValue>& parameters) = 0;
  // Runs one statement and returns how many rows it changed.
  virtual Result<int64_t> execute(std::string_view sql, const std::vector<SqlValue>& parameters) = 0;
  // Runs several statements without parameters.
  virtual Result<void> script(std::string_view sql) = 0;

  // The database's own clock, in milliseconds of unix time: times that processes compare with each other's are taken
  // from it, whatever their own clocks show. SQLite's is that of this machine, which all of them are on.
  virtual Result<int64_t> unix_ms() = 0;

  // A transaction that will write, or one that only reads a consistent state.
  virtual Result<void> begin_write() = 0;
  virtual Result<void> begin_read() = 0;
  virtual Result<void> commit() = 0;
  virtual void rollback() noexcept = 0;
};

// Rolls back unless committed.
class SqlTransaction {
 public:
  static Result<SqlTransaction> write(SqlConnection& connection);
  static Result<SqlTransaction> read(SqlConnection& connection);

  SqlTransaction(SqlTransaction&& other) noexcept : connection_(std::exchange(other.connection_, nullptr)) {}
  SqlTransaction& operator=(SqlTransaction&&) = delete;
  ~SqlTransaction();

  Result<void> commit();

 private:
  explicit SqlTransaction(SqlConnection* connection) : connection_(connection) {}
  SqlConnection* connection_;
};

}  // namespace diskengine::control
