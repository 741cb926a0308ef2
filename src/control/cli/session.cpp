#include "control/cli/session.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <optional>
#include <ostream>

#include "control/cli/exit_code.h"
#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr int64_t kPollMs = 100;

// Guesses the end of a rebuild from the progress since it was first seen.
class RebuildClock {
 public:
  std::string time_left(const json::value& object, int64_t now_ms) {
    const json::value* percent = object.as_object().if_contains("rebuild_percent");
    if (percent == nullptr || !percent->is_int64()) {
      start_.reset();
      return {};
    }
    const int64_t done = percent->get_int64();
    if (!start_) start_ = Start{now_ms, done};
    if (done <= start_->percent) return {};
    const int64_t left_ms = (now_ms - start_->time_ms) * (100 - done) / (done - start_->percent);
    return fmt::format(" (about {} left)", format_duration(left_ms));
  }

 private:
  struct Start {
    int64_t time_ms;
    int64_t percent;
  };
  std::optional<Start> start_;
};

}  // namespace

int Session::show(const json::value& value, const std::vector<Column>& columns) {
  switch (format) {
    case OutputFormat::json:
      console.out << render_json(value);
      break;
    case OutputFormat::yaml:
      console.out << render_yaml(value);
      break;
    case OutputFormat::table:
    case OutputFormat::wide: {
      const json::value rows = value.is_array() ? value : json::value(json::array{value});
      console.out << render_table(rows, columns, format == OutputFormat::wide);
      break;
    }
  }
  return kExitOk;
}

int Session::show_dry_run(const json::value& answer) {
  if (!is_for_people()) return show(answer, {});
  for (const json::value& step : answer.at("would").as_array())
    console.out << "would " << std::string_view(step.as_string()) << "\n";
  return kExitOk;
}

int Session::fail(const Error& error) {
  console.err << "diskengine: " << error.message() << std::endl;
  return exit_code_of(error.code());
}

void Session::progress(const std::string& line) { console.err << line << std::endl; }

Result<json::value> wait_for(Session& session, const Wait& wait) {
  Environment& environment = session.console.environment;
  const int64_t start_ms = environment.monotonic_ms();
  std::string shown;
  RebuildClock rebuild;
  for (;;) {
    const Result<json::value> object = session.api.get(wait.path);
    const int64_t now_ms = environment.monotonic_ms();
    if (!object) {
      if (wait.until_gone && object.error().code() == Errc::not_found) return json::value(nullptr);
      return object.error();
    }
    const std::string state = cell_text(*object, "state");
    const std::string reason = cell_text(*object, "reason");
    const std::string line = state + (reason == "-" ? "" : ": " + reason);
    if (line != shown) {
      session.progress(fmt::format("[{:5.1f} s] {} is {}{}", static_cast<double>(now_ms - start_ms) / 1000, wait.what,
                                   line, rebuild.time_left(*object, now_ms)));
      shown = line;
    }
    if (!wait.until_gone && wait.is_done(*object)) return *object;
    if (state == "failed") return Error(Errc::io_error, fmt::format("{} is {}", wait.what, line));
    if (now_ms - start_ms >= wait.timeout_ms)
      return Error(Errc::timed_out,
                   fmt::format("after {} {} is still {}; it goes on in the background, see `diskengine "
                               "status`",
                               format_duration(wait.timeout_ms), wait.what, line));
    environment.pause_ms(kPollMs);
  }
}

}  // namespace diskengine::control::cli
