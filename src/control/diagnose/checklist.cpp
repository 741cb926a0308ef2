#include "control/diagnose/checklist.h"

#include <fmt/format.h>

namespace diskengine::control {
namespace {

namespace json = boost::json;

Finding ask_and_judge(const Check& check, Asker& asker) {
  const NodeReach reach = asker.reach(check.node);
  if (reach.reach == Reach::elsewhere) return {Verdict::warn, "not asked: " + reach.detail};
  if (reach.reach != Reach::answers)
    return {Verdict::fail,
            fmt::format("the data plane of {} is {}: {}", check.node, name_of(reach.reach), reach.detail)};
  const Result<json::value> answer = asker.ask(check.node, check.method, check.params);
  if (!answer) return {Verdict::fail, answer.error().message()};
  return check.judge(*answer);
}

}  // namespace

std::string_view name_of(Verdict verdict) noexcept {
  switch (verdict) {
    case Verdict::pass:
      return "pass";
    case Verdict::warn:
      return "warn";
    case Verdict::fail:
      return "fail";
  }
  return "?";
}

std::vector<CheckedItem> run_checklist(const std::vector<Check>& checks, Asker& asker) {
  std::vector<CheckedItem> items;
  for (const Check& check : checks) items.push_back({&check, ask_and_judge(check, asker)});
  return items;
}

}  // namespace diskengine::control
