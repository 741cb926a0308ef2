#include "control/store/open_database.h"

#include "control/store/postgres.h"
#include "control/store/sqlite.h"

namespace diskengine::control {

Result<std::unique_ptr<SqlConnection>> open_database(const std::string& database, Environment& environment) {
  return is_postgres(database) ? open_postgres(database, environment) : open_sqlite(database);
}

}  // namespace diskengine::control
