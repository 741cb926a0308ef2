// Connecting to PostgreSQL with a bound that holds whatever the wall clock does. libpq measures its connect_timeout by
// the time of day: a clock that is set back meanwhile would let it wait for hours on a server that does not answer.
//
// Blocking; any thread; whoever gets the connection owns it.
#pragma once

#include <libpq-fe.h>

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace diskengine::control {

struct ClosePostgres {
  void operator()(PGconn* connection) const { PQfinish(connection); }
};
using PostgresHandle = std::unique_ptr<PGconn, ClosePostgres>;

struct PostgresOption {
  std::string keyword;
  std::string value;
};

// The options of a connection string, those of ours that it does not name added. `invalid_argument`: it is none.
Result<std::vector<PostgresOption>> postgres_options(const std::string& conninfo);
// One set of options for each host that they name, in their order; host, hostaddr and port are lists, as libpq has
// them.
std::vector<std::vector<PostgresOption>> options_by_host(const std::vector<PostgresOption>& options);
// Tries the hosts in order, each for connect_timeout seconds (0: without limit). `unreachable`: none of them is the
// server.
Result<PostgresHandle> connect_postgres(const std::vector<PostgresOption>& options);

// libpq's messages come in lines, indented.
std::string one_line(const char* message);

}  // namespace diskengine::control
