#include "control/store/sqlite.h"

#include <sqlite3.h>

#include <fmt/format.h>

namespace diskengine::control {
namespace {

constexpr int kBusyTimeoutMs = 10'000;
constexpr int kWalRetryMs = 20;  // between tries to change to WAL, for as long as kBusyTimeoutMs

struct CloseDatabase {
  void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using DatabasePtr = std::unique_ptr<sqlite3, CloseDatabase>;
using StatementPtr = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

Errc errc_of(int code) {
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Errc::busy;
    case SQLITE_CONSTRAINT:
      return Errc::already_exists;
    case SQLITE_FULL:
      return Errc::no_space;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Errc::corrupt;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
      return Errc::access_denied;
    default:
      return Errc::io_error;
  }
}

class SqliteConnection final : public SqlConnection {
 public:
  SqliteConnection(DatabasePtr database, std::string path) : database_(std::move(database)), path_(std::move(path)) {}

  Result<std::vector<SqlRow>> query(std::string_view sql, const std::vector<SqlValue>& parameters) override {
    TRY_ASSIGN(StatementPtr statement, prepare(sql, parameters));
    std::vector<SqlRow> rows;
    for (;;) {
      const int code = sqlite3_step(statement.get());
      if (code == SQLITE_DONE) return rows;
      if (code != SQLITE_ROW) return failure(code);
      rows.push_back(row_of(statement.get()));
    }
  }

  Result<int64_t> execute(std::string_view sql, const std::vector<SqlValue>& parameters) override {
    TRY(query(sql, parameters));
    return static_cast<int64_t>(sqlite3_changes64(database_.get()));
  }

  Result<void> script(std::string_view sql) override {
    const int code = sqlite3_exec(database_.get(), std::string(sql).c_str(), nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) return failure(code);
    return {};
  }

  Result<int64_t> unix_ms() override {
    TRY_ASSIGN(const auto rows, query("SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", {}));
    return rows.at(0).integer(0);
  }

  Result<void> begin_write() override { return script("BEGIN IMMEDIATE"); }
  Result<void> begin_read() override { return script("BEGIN"); }
  Result<void> commit() override { return script("COMMIT"); }
  void rollback() noexcept override { sqlite3_exec(database_.get(), "ROLLBACK", nullptr, nullptr, nullptr); }

 private:
  Error failure(int code) const {
    return Error(errc_of(code), fmt::format("database {}: {}", path_, sqlite3_errmsg(database_.get())));
  }

  Result<StatementPtr> prepare(std::string_view sql, const std::vector<SqlValue>& parameters) {
    sqlite3_stmt* raw = nullptr;
    const int code = sqlite3_prepare_v2(database_.get(), sql.data(), static_cast<int>(sql.size()), &raw, nullptr);
    if (code != SQLITE_OK) return failure(code);
    StatementPtr statement(raw);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const int index = sqlite3_bind_parameter_index(raw, fmt::format("${}", i + 1).c_str());
      DE_ASSERT(index > 0);
      const int bound = bind(raw, index, parameters[i]);
      if (bound != SQLITE_OK) return failure(bound);
    }
    return statement;
  }

  static int bind(sqlite3_stmt* statement, int index, const SqlValue& value) {
    if (const int64_t* number = std::get_if<int64_t>(&value)) return sqlite3_bind_int64(statement, index, *number);
    if (const std::string* text = std::get_if<std::string>(&value))
      return sqlite3_bind_text64(statement, index, text->data(), text->size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    return sqlite3_bind_null(statement, index);
  }

  static SqlRow row_of(sqlite3_stmt* statement) {
    SqlRow row;
    const int count = sqlite3_column_count(statement);
    row.columns.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
      switch (sqlite3_column_type(statement, i)) {
        case SQLITE_INTEGER:
          row.columns.emplace_back(static_cast<int64_t>(sqlite3_column_int64(statement, i)));
          break;
        case SQLITE_NULL:
          row.columns.emplace_back();
          break;
        default:
          row.columns.emplace_back(std::string(reinterpret_cast<const char*>(sqlite3_column_text(statement, i)),
                                               static_cast<size_t>(sqlite3_column_bytes(statement, i))));
      }
    }
    return row;
  }

  DatabasePtr database_;
  std::string path_;
};

// Changing a file to WAL needs it alone, and SQLite waits for nobody there (the busy time-out does not hold): of
// several processes that open a new database at once all but one would fail.
Result<void> use_wal(SqlConnection& connection) {
  for (int waited_ms = 0;; waited_ms += kWalRetryMs) {
    Result<void> changed = connection.script("PRAGMA journal_mode=WAL");
    if (changed || changed.error().code() != Errc::busy || waited_ms >= kBusyTimeoutMs) return changed;
    sqlite3_sleep(kWalRetryMs);
  }
}

}  // namespace

Result<std::unique_ptr<SqlConnection>> open_sqlite(const std::string& path) {
  sqlite3* raw = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  const int code = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
  DatabasePtr database(raw);
  if (code != SQLITE_OK)
    return Error(errc_of(code), fmt::format("cannot open the database {}: {}; check that its directory exists and is "
                                            "writable",
                                            path, raw != nullptr ? sqlite3_errmsg(raw) : sqlite3_errstr(code)));
  auto connection = std::make_unique<SqliteConnection>(std::move(database), path);
  TRY(use_wal(*connection));  // which waits by itself, so before the time-out is set
  sqlite3_busy_timeout(raw, kBusyTimeoutMs);
  TRY(connection->script("PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"));
  return std::unique_ptr<SqlConnection>(std::move(connection));
}

}  // namespace diskengine::control
