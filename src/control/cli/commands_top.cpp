// `diskengine top`: what volumes, stages and reactors did in the last second, again every second.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <csignal>
#include <map>
#include <memory>
#include <ostream>

#include "control/cli/commands.h"
#include "control/cli/diagnosis.h"
#include "control/cli/exit_code.h"
#include "control/cli/top_view.h"
#include "control/dataplane/json_read.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr const char* kMethod = "diskengine_history_get";
constexpr int64_t kPeriodMs = 1'000;
constexpr int64_t kStepMs = 50;      // how soon Ctrl-C is seen
constexpr int64_t kFreshMs = 2'500;  // what ended longer ago is of the past
constexpr size_t kColumns = 80;
constexpr size_t kRows = 24;

struct TopArguments {
  bool once = false;
  std::shared_ptr<AskOptions> ask = std::make_shared<AskOptions>();
};

// Set by the signal handler, so of the process; only `top` uses it, for as long as it runs.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// While it lives: SIGINT and SIGTERM set `interrupted`, and the terminal shows another screen without cursor.
class Screen {
 public:
  explicit Screen(std::ostream& out) : out_(out) {
    interrupted = false;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = true; };
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
    out_ << "\x1b[?1049h\x1b[?25l" << std::flush;
  }
  ~Screen() {
    out_ << "\x1b[?25h\x1b[?1049l" << std::flush;
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  // Each line is cleared behind its end, and what was below: nothing flickers.
  void show(const std::string& text) {
    std::string drawn = "\x1b[H";
    for (const char c : text) drawn += c == '\n' ? std::string("\x1b[K\n") : std::string(1, c);
    out_ << drawn << "\x1b[J" << std::flush;
  }

 private:
  std::ostream& out_;
  struct sigaction old_int_ = {};
  struct sigaction old_term_ = {};
};

struct Size {
  size_t columns = kColumns;
  size_t rows = kRows;
};
Size terminal_size() {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return {};
  return {size.ws_col, size.ws_row};
}

std::vector<TopTarget> targets_of(const json::value& status) {
  std::vector<TopTarget> targets;
  json_read::for_each(json_read::member(status, "volumes"), [&](const json::value& volume) {
    const Result<ExpectedPath> path = expected_path(status, json_read::text(volume, "name"));
    if (path) targets.push_back({path->volume, path->raid});
  });
  return targets;
}

// Asks again and again; what it knows of clocks is kept.
class Looker {
 public:
  Looker(Session& session, const TopArguments& arguments) : session_(session), arguments_(arguments) {}

  Result<Top> look() {
    TRY_ASSIGN(const json::value status, session_.api.get("/v1/status"));
    TRY_ASSIGN(NodeAccess access, node_access(session_, status, *arguments_.ask));
    const std::vector<TopTarget> targets = targets_of(status);
    Top top;
    top.now_ms = session_.console.environment.unix_ms();
    for (const ExpectedNode& node : expected_nodes(status)) top.nodes.push_back(ask(node.name, access, targets, &top));
    sort(&top);
    return top;
  }

 private:
  TopNode ask(const std::string& node, Asker& asker, const std::vector<TopTarget>& targets, Top* top) {
    if (!ahead_ms_.contains(node)) {
      const Result<json::value> clock = asker.ask(node, kMethod, {{"series", "events"}, {"limit", 1}});
      if (!clock) return {node, trouble(clock.error())};
      ahead_ms_[node] = json_read::integer(*clock, "now_ms") - session_.console.environment.unix_ms();
    }
    const int64_t fresh_ms = session_.console.environment.unix_ms() + ahead_ms_[node] - kFreshMs;
    const Result<json::value> answer = asker.ask(
        node, kMethod, {{"series", "seconds"}, {"since_ms", static_cast<uint64_t>(std::max<int64_t>(0, fresh_ms))}});
    if (!answer) return {node, trouble(answer.error())};
    add_node(node, *answer, targets, fresh_ms, top);
    return {node, {}};
  }
  static std::string trouble(const Error& error) {
    return error.code() == Errc::not_supported ? "its data plane keeps no history" : error.message();
  }

  Session& session_;
  const TopArguments& arguments_;
  std::map<std::string, int64_t> ahead_ms_;  // how far a node's clock is ahead of ours
};

int top_once(Session& session, Looker& looker) {
  const Result<Top> top = looker.look();
  if (!top) return session.fail(top.error());
  if (!session.is_for_people()) return session.show(encode(*top), {});
  session.console.out << draw(*top, kColumns, kRows);
  return kExitOk;
}

int run_top(Session& session, const TopArguments& arguments) {
  Looker looker(session, arguments);
  if (arguments.once || !session.is_for_people()) return top_once(session, looker);
  Result<Top> top = looker.look();
  if (!top) return session.fail(top.error());
  Screen screen(session.console.out);
  while (!interrupted) {
    const Size size = terminal_size();
    // The last line stays free, or the terminal would scroll.
    screen.show(top ? draw(*top, size.columns, size.rows - 1) : top.error().message() + "\n");
    for (int64_t waited_ms = 0; waited_ms < kPeriodMs && !interrupted; waited_ms += kStepMs)
      session.console.environment.pause_ms(kStepMs);
    if (!interrupted) top = looker.look();
  }
  return kExitOk;
}

}  // namespace

void add_top_command(CLI::App& root, Action* action) {
  const auto arguments = std::make_shared<TopArguments>();
  CLI::App* command = root.add_subcommand(
      "top", "Show every second what volumes, stages and reactors do, until Ctrl-C; with -o json once");
  command->add_flag("--once", arguments->once, "Show it once, 80 columns wide, and end");
  add_ask_options(*command, arguments->ask);
  command->callback([=] { *action = [=](Session& session) { return run_top(session, *arguments); }; });
}

}  // namespace diskengine::control::cli
