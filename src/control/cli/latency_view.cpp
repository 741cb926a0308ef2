#include "control/cli/latency_view.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "control/sizes.h"

namespace diskengine::control::cli {
namespace {

constexpr size_t kColumns = 60;
constexpr size_t kLabel = 18;
constexpr int kRows = 6;

class Timeline {
 public:
  explicit Timeline(const LatencyHistory& history)
      : since_ms_(history.since_ms), window_ms_(std::max<int64_t>(1, history.until_ms - history.since_ms)) {}

  size_t column(int64_t at_ms) const {
    const int64_t at = std::clamp<int64_t>(at_ms - since_ms_, 0, window_ms_);
    return std::min(kColumns - 1,
                    static_cast<size_t>(static_cast<double>(at) * kColumns / static_cast<double>(window_ms_)));
  }
  template <typename Spans>
  std::string marks(const Spans& spans, char mark) const {
    std::string line(kColumns, ' ');
    for (const auto& span : spans) {
      if (span.end_ms < since_ms_ || span.begin_ms > since_ms_ + window_ms_) continue;
      for (size_t at = column(span.begin_ms); at <= column(span.end_ms); ++at) line[at] = mark;
    }
    return line;
  }

 private:
  int64_t since_ms_;
  int64_t window_ms_;
};

std::string line_of(const std::string& label, std::string columns) {
  columns.erase(columns.find_last_not_of(' ') + 1);
  return fmt::format("{:>{}} |{}\n", label.substr(0, kLabel), kLabel, columns);
}

std::string clock_text(int64_t ms) {
  return fmt::format("{:%H:%M:%S}", fmt::gmtime(static_cast<std::time_t>(ms / 1000)));
}

std::string place(const std::string& layer, const std::string& node) {
  return node.empty() ? layer : layer + " on " + node;
}

}  // namespace

std::string draw_timeline(const LatencyHistory& history, const LatencyFinding& finding) {
  const Timeline timeline(history);
  std::vector<double> worst(kColumns, 0);
  for (const PastSeries& series : history.series)
    if (series.role == PastRole::volume)
      for (const PastSample& sample : series.samples) {
        double& column = worst[timeline.column(sample.end_ms - sample.span_ms / 2)];
        column = std::max(column, sample.p99_us);
      }
  const double top = *std::max_element(worst.begin(), worst.end());
  if (top <= 0) return {};
  std::string out;
  for (int row = kRows; row > 0; --row) {
    // Each row is half of the one above it: spikes and what is usual are both seen.
    const double from_us = top / std::exp2(kRows - row + 1);
    std::string line(kColumns, ' ');
    for (size_t at = 0; at < kColumns; ++at)
      if (worst[at] > (row == 1 ? 0 : from_us)) line[at] = '#';
    out += line_of(fmt::format("{:.2f} ms", top / std::exp2(kRows - row) / 1000), line);
  }
  out += fmt::format("{:>{}} +{}\n", "p99", kLabel, std::string(kColumns, '-'));
  if (!finding.spikes.empty()) out += line_of("spikes", timeline.marks(finding.spikes, '^'));
  for (const LatencyCause& cause : finding.causes)
    if (!cause.suspect.stretches.empty())
      out += line_of(cause.suspect.code, timeline.marks(cause.suspect.stretches, '*'));
  out += fmt::format("{:>{}}  {}{:>{}}\n", "UTC", kLabel, clock_text(history.since_ms), clock_text(history.until_ms),
                     kColumns - 8);
  return out;
}

std::string tell(const LatencyHistory& history, const LatencyFinding& finding) {
  std::string out;
  for (const SpikeLayer& layer : finding.layers)
    out += fmt::format("{} of {} spikes: the deepest layer that was slow is {}\n", layer.spikes, finding.spikes.size(),
                       place(layer.layer, layer.node));
  if (!finding.causes.empty()) out += "\nCauses, the most certain first:\n";
  int number = 0;
  for (const LatencyCause& cause : finding.causes) {
    out += fmt::format("\n{}. {} ({}, {})\n", ++number, cause.suspect.summary, name_of(cause.certainty),
                       place(cause.suspect.layer, cause.suspect.node));
    for (const std::string& evidence : cause.evidence) out += "   seen: " + evidence + "\n";
    out += "   next: " + cause.suspect.next + "\n";
  }
  if (!finding.spikes.empty() && finding.causes.empty()) out += "\nNothing that was recorded fits them.\n";
  if (!finding.excluded.empty()) out += "\nExcluded:\n";
  for (const LatencyExcluded& one : finding.excluded)
    out += fmt::format("   {}: {}\n", place(one.code, one.node), one.why);
  if (!history.gaps.empty()) out += "\nNot looked at:\n";
  for (const PastGap& gap : history.gaps) out += fmt::format("   {}: {}\n", gap.what, gap.why);
  return out;
}

}  // namespace diskengine::control::cli
