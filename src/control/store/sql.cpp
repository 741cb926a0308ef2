#include "control/store/sql.h"

namespace diskengine::control {

int64_t SqlRow::integer(size_t column) const {
  const SqlValue& value = columns.at(column);
  if (std::holds_alternative<std::monostate>(value)) return 0;
  DE_ASSERT(std::holds_alternative<int64_t>(value));
  return std::get<int64_t>(value);
}

std::string SqlRow::text(size_t column) const {
  const SqlValue& value = columns.at(column);
  if (std::holds_alternative<std::monostate>(value)) return {};
  DE_ASSERT(std::holds_alternative<std::string>(value));
  return std::get<std::string>(value);
}

Result<SqlTransaction> SqlTransaction::write(SqlConnection& connection) {
  TRY(connection.begin_write());
  return SqlTransaction(&connection);
}

Result<SqlTransaction> SqlTransaction::read(SqlConnection& connection) {
  TRY(connection.begin_read());
  return SqlTransaction(&connection);
}

SqlTransaction::~SqlTransaction() {
  if (connection_ != nullptr) connection_->rollback();
}

Result<void> SqlTransaction::commit() {
  TRY(connection_->commit());
  connection_ = nullptr;
  return {};
}

}  // namespace diskengine::control
