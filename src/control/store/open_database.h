// Opens the database that `--db` names: a file is SQLite, a URI or connection string PostgreSQL.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "control/environment.h"
#include "control/store/sql.h"

namespace diskengine::control {

// `environment` outlives the connection.
Result<std::unique_ptr<SqlConnection>> open_database(const std::string& database, Environment& environment);

}  // namespace diskengine::control
