#include "control/store/postgres.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "control/store/postgres_session.h"

namespace diskengine::control {
namespace {

constexpr int64_t kFirstRetryMs = 250;
constexpr int64_t kMaxRetryMs = 4'000;
// Waits before each try to learn how a commit ended; about six seconds together.
constexpr int64_t kOutcomeWaitsMs[] = {0, 100, 200, 400, 800, 1'600, 3'200};
constexpr int64_t kWriteLock = 0x6469736b656e67;  // "diskeng": the advisory lock of every writing transaction
constexpr int64_t kReceiptKeptMs = 7LL * 24 * 3600 * 1000;
constexpr std::string_view kServerTime = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

std::string at_text(int64_t unix_ms) { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(unix_ms / 1000)); }

class PostgresConnection final : public SqlConnection {
 public:
  PostgresConnection(std::string conninfo, Environment& environment)
      : conninfo_(std::move(conninfo)),
        shown_(shown_database(conninfo_)),
        environment_(environment),
        session_number_(static_cast<int64_t>(environment.random() >> 1)) {}

  Result<void> connect();

  Result<std::vector<SqlRow>> query(std::string_view sql, const std::vector<SqlValue>& parameters) override {
    TRY_ASSIGN(const PostgresResult result, run(sql, parameters));
    std::vector<SqlRow> rows;
    const int count = PQntuples(result.get());
    rows.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) rows.push_back(postgres_row(result.get(), i));
    return rows;
  }

  Result<int64_t> execute(std::string_view sql, const std::vector<SqlValue>& parameters) override {
    TRY_ASSIGN(const PostgresResult result, run(sql, parameters));
    return std::atoll(PQcmdTuples(result.get()));
  }

  Result<void> script(std::string_view sql) override {
    TRY(ensure_session());
    Result<void> done = session_->script(sql);
    if (!done && session_->is_lost()) return unreachable(done.error());
    return done;
  }

  Result<int64_t> unix_ms() override {
    TRY_ASSIGN(const PostgresResult result, run(fmt::format("SELECT {}", kServerTime), {}));
    return postgres_row(result.get(), 0).integer(0);
  }

  Result<void> begin_write() override {
    TRY(begin("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", true));
    is_writing_ = true;
    return {};
  }
  Result<void> begin_read() override { return begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", false); }
  Result<void> commit() override;
  void rollback() noexcept override;

 private:
  Result<void> ensure_session();
  Result<void> begin(std::string_view statement, bool takes_write_lock);
  Result<PostgresResult> run(std::string_view sql, const std::vector<SqlValue>& parameters);
  Result<bool> has_receipts();
  Result<void> leave_receipt();
  Result<void> find_outcome(int64_t receipt, const Error& cause);
  Result<int64_t> last_receipt();
  Error unreachable(const Error& cause);

  std::string conninfo_;
  std::string shown_;
  Environment& environment_;
  std::unique_ptr<PostgresSession> session_;
  bool in_transaction_ = false;
  bool is_writing_ = false;
  bool has_receipts_ = false;         // known to be there; they are never dropped
  const int64_t session_number_;      // of our row in commit_receipts, the same over all sessions of this connection
  int64_t receipt_ = 0;               // of the last writing transaction
  int64_t unreachable_since_ms_ = 0;  // unix time; 0: it answers
  int64_t retry_at_ms_ = 0;           // monotonic
  int64_t retry_delay_ms_ = 0;
  std::string last_error_;
};

Error PostgresConnection::unreachable(const Error& cause) {
  if (unreachable_since_ms_ == 0) {
    unreachable_since_ms_ = std::max<int64_t>(environment_.unix_ms(), 1);
    LOG_WARN("store", "database {}: {}", shown_, cause.message());
  }
  last_error_ = cause.message();
  return Error(Errc::unreachable,
               fmt::format("database {} unreachable since {}: {}. Attached volumes go on serving; new volumes and "
                           "attachments, repairs and changes of who is in sync wait until it is back",
                           shown_, at_text(unreachable_since_ms_), last_error_));
}

Result<void> PostgresConnection::connect() {
  Result<std::unique_ptr<PostgresSession>> fresh = PostgresSession::connect(conninfo_, shown_);
  if (!fresh) {
    if (fresh.error().code() != Errc::unreachable) return std::move(fresh).error();
    retry_delay_ms_ = std::clamp(retry_delay_ms_ * 2, kFirstRetryMs, kMaxRetryMs);
    retry_at_ms_ = environment_.monotonic_ms() + retry_delay_ms_;
    return unreachable(fresh.error());
  }
  session_ = std::move(*fresh);
  if (unreachable_since_ms_ != 0)
    LOG_INFO("store", "database {} is back after {} s", shown_,
             (environment_.unix_ms() - unreachable_since_ms_ + 999) / 1000);
  unreachable_since_ms_ = 0;
  retry_delay_ms_ = 0;
  retry_at_ms_ = 0;
  return {};
}

Result<void> PostgresConnection::ensure_session() {
  if (in_transaction_) {
    if (session_ != nullptr && !session_->is_lost()) return {};
    return unreachable(Error(Errc::unreachable, "the session was lost in a transaction; nothing of it was done"));
  }
  if (session_ != nullptr && !session_->peer_is_gone()) return {};
  session_.reset();
  if (retry_at_ms_ != 0 && environment_.monotonic_ms() < retry_at_ms_)
    return unreachable(Error(Errc::unreachable, last_error_));
  return connect();
}

// Outside a transaction the statement is run again once: sql.h allows there only what may be done twice.
Result<PostgresResult> PostgresConnection::run(std::string_view sql, const std::vector<SqlValue>& parameters) {
  for (bool is_repeated = false;; is_repeated = true) {
    TRY(ensure_session());
    Result<PostgresResult> result = session_->run(sql, parameters);
    if (result || !session_->is_lost()) return result;
    if (in_transaction_ || is_repeated) return unreachable(result.error());
  }
}

// Nothing has been done yet when this fails, so it is tried again once on a new session.
Result<void> PostgresConnection::begin(std::string_view statement, bool takes_write_lock) {
  DE_ASSERT(!in_transaction_);
  for (bool is_repeated = false;; is_repeated = true) {
    TRY(ensure_session());
    Result<void> begun = session_->script(statement);
    if (begun && takes_write_lock) {
      const Result<PostgresResult> locked = session_->run("SELECT pg_advisory_xact_lock($1)", {kWriteLock});
      if (!locked) begun = locked.error();
    }
    if (begun) {
      in_transaction_ = true;
      return {};
    }
    if (!session_->is_lost()) {
      static_cast<void>(session_->script("ROLLBACK"));
      return begun;
    }
    if (is_repeated) return unreachable(begun.error());
  }
}

void PostgresConnection::rollback() noexcept {
  is_writing_ = false;
  if (!std::exchange(in_transaction_, false)) return;
  if (session_ != nullptr && !session_->is_lost()) static_cast<void>(session_->script("ROLLBACK"));
}

// The table comes with a migration, whose own commit may be repeated without harm and needs no receipt.
Result<bool> PostgresConnection::has_receipts() {
  if (has_receipts_) return true;
  TRY_ASSIGN(const PostgresResult result, session_->run("SELECT to_regclass('commit_receipts') IS NOT NULL", {}));
  has_receipts_ = PQgetvalue(result.get(), 0, 0)[0] == 't';
  return has_receipts_;
}

Result<void> PostgresConnection::leave_receipt() {
  TRY(session_->run(fmt::format("INSERT INTO commit_receipts (session, receipt, committed_ms) VALUES ($1, $2, {0}) "
                                "ON CONFLICT (session) DO UPDATE SET receipt = $2, committed_ms = {0}",
                                kServerTime),
                    {session_number_, receipt_ + 1}));
  // Old by both clocks: one alone may have jumped, and somebody may still want to know how a commit ended.
  if (receipt_ == 0)
    TRY(session_->run(fmt::format("DELETE FROM commit_receipts WHERE committed_ms < LEAST($1, {}) - $2", kServerTime),
                      {environment_.unix_ms(), kReceiptKeptMs}));
  ++receipt_;
  return {};
}

Result<void> PostgresConnection::commit() {
  DE_ASSERT(in_transaction_);
  TRY(ensure_session());
  bool leaves_receipt = false;
  if (is_writing_) {
    TRY_ASSIGN(leaves_receipt, has_receipts());
    if (leaves_receipt) {
      const Result<void> left = leave_receipt();
      if (!left) return session_->is_lost() ? unreachable(left.error()) : left.error();
    }
  }
  const Result<PostgresResult> committed = session_->run("COMMIT", {});
  const bool was_writing = std::exchange(is_writing_, false);
  in_transaction_ = false;
  if (committed) {
    // COMMIT of a transaction in which a statement failed answers with success and rolls back.
    if (std::string_view(PQcmdStatus(committed->get())) == "COMMIT") return {};
    return Error(Errc::internal, fmt::format("database {}: the transaction was rolled back", shown_));
  }
  if (!session_->is_lost()) return committed.error();
  if (!was_writing || !leaves_receipt) return unreachable(committed.error());
  return find_outcome(receipt_, committed.error());
}

// What the last transaction of this connection that was committed has left. It is read with the row's lock: a COMMIT
// that the lost session still has under way holds it, and ends before we read.
Result<int64_t> PostgresConnection::last_receipt() {
  TRY(ensure_session());
  TRY(session_->script("SET lock_timeout = '1s'"));
  TRY(begin("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", true));
  const Result<PostgresResult> row = session_->run(
      "INSERT INTO commit_receipts (session, receipt, committed_ms) VALUES ($1, 0, 0) ON CONFLICT (session) DO UPDATE "
      "SET receipt = commit_receipts.receipt RETURNING receipt",
      {session_number_});  // which is rolled back
  rollback();
  if (!row) return row.error();
  TRY(session_->script("SET lock_timeout = '5s'"));
  return std::atoll(PQgetvalue(row->get(), 0, 0));
}

Result<void> PostgresConnection::find_outcome(int64_t receipt, const Error& cause) {
  LOG_WARN("store", "database {}: {}; finding out whether the commit was done", shown_, cause.message());
  for (const int64_t wait_ms : kOutcomeWaitsMs) {
    environment_.pause_ms(wait_ms);
    session_.reset();
    retry_at_ms_ = 0;
    const Result<int64_t> last = last_receipt();
    if (!last) continue;
    if (*last == receipt) return {};
    return Error(Errc::would_block,
                 fmt::format("database {}: the session was lost before the commit was done, and nothing was changed; "
                             "try again",
                             shown_));
  }
  const Error silent = unreachable(cause);
  return Error(
      Errc::unreachable,
      fmt::format("it is not known whether the last change was made; look before trying again: {}", silent.message()));
}

struct FreeOptions {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

}  // namespace

bool is_postgres(std::string_view database) {
  if (database.starts_with("postgresql://") || database.starts_with("postgres://")) return true;
  size_t letters = 0;
  while (letters < database.size() &&
         (std::islower(static_cast<unsigned char>(database[letters])) != 0 || database[letters] == '_'))
    ++letters;
  return letters > 0 && letters < database.size() && database[letters] == '=';
}

std::string shown_database(const std::string& database) {
  if (!is_postgres(database)) return database;
  const std::unique_ptr<PQconninfoOption, FreeOptions> parsed(PQconninfoParse(database.c_str(), nullptr));
  if (parsed == nullptr) return "postgresql";
  std::string host = "localhost", port, name;
  for (const PQconninfoOption* option = parsed.get(); option->keyword != nullptr; ++option) {
    if (option->val == nullptr) continue;
    const std::string_view keyword(option->keyword);
    if (keyword == "host") host = option->val;
    if (keyword == "port") port = fmt::format(":{}", option->val);
    if (keyword == "dbname") name = option->val;
  }
  return fmt::format("postgresql://{}{}/{}", host, port, name);
}

Result<std::unique_ptr<SqlConnection>> open_postgres(const std::string& conninfo, Environment& environment) {
  auto connection = std::make_unique<PostgresConnection>(conninfo, environment);
  TRY(connection->connect());
  return std::unique_ptr<SqlConnection>(std::move(connection));
}

}  // namespace diskengine::control
