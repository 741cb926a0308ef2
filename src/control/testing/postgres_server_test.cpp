#include "control/testing/postgres_server.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>
#include <vector>

#include "control/store/postgres_session.h"

namespace diskengine::control {
namespace {

constexpr const char* kUser = "diskengine";
constexpr int kStartTimeoutMs = 30'000;

// Where Debian puts the programs of the server: the newest version's.
std::string find_programs() {
  std::string found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", error))
    if (std::filesystem::exists(entry.path() / "bin" / "initdb"))
      found = std::max(found, (entry.path() / "bin").string());
  DE_ASSERT(!found.empty());  // packages.txt has it
  return found;
}

// In the child: the server refuses to run as root.
void drop_root() {
  if (::geteuid() != 0) return;
  const passwd* user = ::getpwnam("postgres");
  if (user == nullptr || ::setgroups(0, nullptr) != 0 || ::setgid(user->pw_gid) != 0 || ::setuid(user->pw_uid) != 0)
    ::_exit(126);
}

std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream list("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  std::vector<pid_t> children;
  for (pid_t child = 0; list >> child;) children.push_back(child);
  return children;
}

}  // namespace

PostgresServer::PostgresServer() : programs_(find_programs()) {
  char name[] = "/tmp/de-postgres-XXXXXX";
  DE_ASSERT(::mkdtemp(name) != nullptr);
  directory_ = name;
  if (const passwd* user = ::geteuid() == 0 ? ::getpwnam("postgres") : nullptr)
    DE_ASSERT(::chown(name, user->pw_uid, user->pw_gid) == 0);
  const pid_t made = spawn("initdb", std::string("-D ") + directory_ + "/data -U " + kUser +
                                         " -A trust -E UTF8 --locale=C --no-sync --no-instructions");
  int status = 0;
  DE_ASSERT(::waitpid(made, &status, 0) == made && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  start();
}

PostgresServer::~PostgresServer() {
  stop();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

PostgresServer& PostgresServer::shared() {
  static PostgresServer server;
  return server;
}

pid_t PostgresServer::spawn(const std::string& program, const std::string& arguments) {
  std::vector<std::string> words{programs_ + "/" + program};
  std::istringstream text(arguments);
  for (std::string word; text >> word;) words.push_back(word);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string log = directory_ + "/log";
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  DE_ASSERT(child >= 0);
  if (child != 0) return child;
  drop_root();
  ::prctl(PR_SET_PDEATHSIG, SIGQUIT);
  if (::getppid() != parent || ::chdir("/") != 0) ::_exit(126);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::dup2(out, 1);
  ::dup2(out, 2);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

void PostgresServer::start() {
  // What it says to be on disk need only outlive the process here, not the machine.
  const std::string arguments = "-D " + directory_ + "/data -k " + directory_ +
                                " -c listen_addresses= -c fsync=off -c max_connections=40 -c shared_buffers=16MB";
  pid_ = spawn("postgres", arguments);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::milliseconds(kStartTimeoutMs);
  while (!PostgresSession::connect(conninfo(), "test")) {
    DE_ASSERT(std::chrono::steady_clock::now() < limit);
    // It ends at once while the memory of one that was killed is still in use by its last child.
    if (::waitpid(pid_, nullptr, WNOHANG) != 0) pid_ = spawn("postgres", arguments);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void PostgresServer::kill() {
  if (pid_ == 0) return;
  ::kill(pid_, SIGSTOP);  // so that no child is missed
  for (const pid_t child : children_of(pid_)) ::kill(child, SIGKILL);
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

void PostgresServer::stop() {
  if (pid_ == 0) return;
  ::kill(pid_, SIGQUIT);
  ::waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

void PostgresServer::clear() {
  auto session = PostgresSession::connect(conninfo(), "test");
  DE_ASSERT(session.has_value());
  DE_ASSERT((*session)->script("DROP SCHEMA public CASCADE; CREATE SCHEMA public").has_value());
}

std::string PostgresServer::conninfo_at(const std::string& socket_directory) {
  return "host=" + socket_directory + " user=" + kUser + " dbname=postgres";
}

std::string PostgresServer::socket_in(const std::string& socket_directory) {
  return socket_directory + "/.s.PGSQL.5432";
}

}  // namespace diskengine::control
