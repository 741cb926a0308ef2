// SQLite behind the SQL seam: WAL, synchronous=FULL, foreign keys on. Other processes may have the same file open.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "control/store/sql.h"

namespace diskengine::control {

// Opens or creates the database file; ":memory:" gives one that lives as long as the connection. Waits up to 10 s for
// others that have the file locked; then, as every statement that waited so long, Errc::busy.
Result<std::unique_ptr<SqlConnection>> open_sqlite(const std::string& path);

}  // namespace diskengine::control
