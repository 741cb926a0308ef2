#include "serve.h"

#include <fmt/format.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <ostream>

#include "base/log.h"
#include "control/api/http_server.h"
#include "control/api/service.h"
#include "control/cli/exit_code.h"
#include "control/store/open_database.h"
#include "control/store/postgres.h"
#include "control/store/store.h"
#include "control/supervisor.h"

namespace diskengine {
namespace {

using control::HttpServer;
using control::Store;
using control::Supervisor;
using control::cli::Console;
using control::cli::ServeOptions;

constexpr std::string_view kRoleApi = "api";

// Blocked before the first thread starts, so that only wait_for_end() sees them.
sigset_t block_end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int wait_for_end(const sigset_t& signals) {
  int signal = 0;
  while (sigwait(&signals, &signal) != 0) continue;
  return signal;
}

Result<void> make_parent(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (parent.empty() || std::filesystem::exists(parent, error)) return {};
  std::filesystem::create_directories(parent, error);
  if (error) return Error::from_errno(error.value(), "creating the directory " + parent.string());
  std::filesystem::permissions(parent, std::filesystem::perms::owner_all, error);
  return {};
}

Result<std::unique_ptr<Store>> open_store_once(const ServeOptions& options, control::Environment& environment) {
  TRY_ASSIGN(auto connection, control::open_database(options.db_path, environment));
  TRY_ASSIGN(std::unique_ptr<Store> store, Store::open(std::move(connection), environment));
  for (const control::Node& node : options.new_nodes) TRY(store->put_node(node));
  return store;
}

// The database is not there yet, or others have it to themselves for longer than one waits for them.
bool is_worth_waiting(Errc code) {
  return code == Errc::unreachable || code == Errc::busy || code == Errc::would_block;
}

// A database that does not answer yet is waited for; `canceled` when a signal to end comes first.
Result<std::unique_ptr<Store>> open_store(const ServeOptions& options, control::Environment& environment,
                                          const sigset_t& signals) {
  if (!control::is_postgres(options.db_path)) TRY(make_parent(options.db_path));
  for (std::string told;;) {
    Result<std::unique_ptr<Store>> store = open_store_once(options, environment);
    if (store || !is_worth_waiting(store.error().code())) return store;
    if (told.empty()) LOG_WARN("serve", "waiting for the database: {}", store.error().message());
    told = store.error().message();
    constexpr timespec kBetweenTries{.tv_sec = 1, .tv_nsec = 0};
    if (sigtimedwait(&signals, nullptr, &kBetweenTries) > 0)
      return Error(Errc::canceled, "ended while waiting for the database: " + told);
  }
}

std::string ready_line(const ServeOptions& options) {
  std::string roles;
  for (const std::string& role : options.roles) roles += (roles.empty() ? "" : ",") + role;
  std::string line =
      fmt::format("diskengine is ready: roles {}, database {}", roles, control::shown_database(options.db_path));
  if (options.has_role(kRoleApi)) line += ", API on " + options.api_socket;
  return line;
}

Result<void> run(const ServeOptions& options, Console& console, const sigset_t& signals) {
  TRY_ASSIGN(const std::unique_ptr<Store> store, open_store(options, console.environment, signals));
  Supervisor::Options supervised{.roles = options.roles, .nodes = options.nodes, .limits = {}};
  supervised.limits.tick_ms = options.tick_ms;
  Supervisor supervisor(*store, console.environment, std::move(supervised));
  control::ApiService service(*store, [&] { supervisor.poke(); });

  std::unique_ptr<HttpServer> server;
  if (options.has_role(kRoleApi)) {
    TRY(make_parent(options.api_socket));
    TRY_ASSIGN(server, HttpServer::start(options.api_socket,
                                         [&](const control::ApiRequest& request) { return service.handle(request); }));
  }
  supervisor.start();
  console.out << ready_line(options) << std::endl;
  const int signal = wait_for_end(signals);
  LOG_INFO("serve", "ending on signal {}: requests and passes under way are finished first", signal);
  if (server) server->stop();
  supervisor.stop();
  return {};
}

}  // namespace

int serve(const ServeOptions& options, Console& console) {
  const sigset_t signals = block_end_signals();
  log_start(LogLevel::info);
  const Result<void> ended = run(options, console, signals);
  log_stop();
  if (ended) return control::cli::kExitOk;
  console.err << "diskengine: " << ended.error().message() << std::endl;
  return control::cli::exit_code_of(ended.error().code());
}

}  // namespace diskengine
