// The database schema as numbered steps. A step, once released, is never edited: the next change is the next number.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "control/store/sql.h"

namespace diskengine::control {

struct Migration {
  int64_t version;
  std::string_view name;
  std::string_view sql;
};

// In ascending order of version, without gaps, starting at 1.
const std::vector<Migration>& migrations();

// Brings the schema up to date in one transaction. A database newer than this program is refused.
Result<void> migrate(SqlConnection& connection, int64_t now_ms);

}  // namespace diskengine::control
