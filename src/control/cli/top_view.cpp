#include "control/cli/top_view.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <map>

#include "control/dataplane/json_read.h"

namespace diskengine::control::cli {
namespace {

namespace json = boost::json;

constexpr size_t kBarWidth = 24;
constexpr size_t kStagesShown = 8;

double number(const json::value& record, std::string_view name) {
  const json::value* found = json_read::member(record, name);
  return found != nullptr && found->is_number() ? found->to_number<double>() : 0;
}

void add_device(const json::value& record, TopVolume* volume) {
  const double seconds = std::max(0.001, number(record, "span_ms") / 1000);
  volume->iops = (number(record, "reads") + number(record, "writes") + number(record, "others")) / seconds;
  volume->mib_s = (number(record, "read_kib") + number(record, "write_kib")) / 1024 / seconds;
  volume->p50_us = std::max(number(record, "read_p50_us"), number(record, "write_p50_us"));
  volume->p99_us = std::max(number(record, "read_p99_us"), number(record, "write_p99_us"));
  volume->outstanding = json_read::integer(record, "outstanding");
  volume->oldest_ms = json_read::integer(record, "oldest_ms");
}

void add_stages(const json::value& record, TopVolume* volume) {
  volume->stages.clear();
  json_read::for_each(json_read::member(record, "stages"), [&](const json::value& stage) {
    volume->stages.push_back({json_read::text(stage, "stage"), number(stage, "p50_us"), number(stage, "p99_us")});
  });
}

// '#' for busy, '.' for polling in vain.
std::string bar_of(const TopReactor& reactor) {
  const auto part = [](double percent) {
    return static_cast<size_t>(std::lround(std::clamp(percent, 0.0, 100.0) / 100 * kBarWidth));
  };
  const size_t busy = part(reactor.busy_percent);
  const size_t spinning = std::min(kBarWidth - busy, part(reactor.spinning_percent));
  return std::string(busy, '#') + std::string(spinning, '.') + std::string(kBarWidth - busy - spinning, ' ');
}

std::string ms_text(double us) { return fmt::format("{:.2f}", us / 1000); }

// Lines as long as there is room for them, each cut at the edge.
class Page {
 public:
  Page(size_t columns, size_t rows) : columns_(columns), rows_(rows) {}
  void line(std::string text) {
    if (lines_ >= rows_) return;
    if (text.size() > columns_) text.resize(columns_);
    out_ += text + "\n";
    ++lines_;
  }
  size_t left() const { return rows_ - lines_; }
  std::string take() { return std::move(out_); }

 private:
  size_t columns_, rows_, lines_ = 0;
  std::string out_;
};

void draw_volumes(const Top& top, size_t most, Page* page) {
  page->line(fmt::format("{:<20} {:<8} {:>8} {:>8} {:>8} {:>8} {:>6} {:>7}", "VOLUME", "NODE", "IOPS", "MiB/s",
                         "P50 ms", "P99 ms", "QUEUE", "OLDEST"));
  if (top.volumes.empty()) page->line("  no volume did anything in the last second");
  for (size_t i = 0; i < top.volumes.size() && i < most; ++i) {
    const TopVolume& volume = top.volumes[i];
    page->line(fmt::format("{:<20.20} {:<8.8} {:>8.0f} {:>8.1f} {:>8} {:>8} {:>6} {:>4} ms", volume.name, volume.node,
                           volume.iops, volume.mib_s, ms_text(volume.p50_us), ms_text(volume.p99_us),
                           volume.outstanding, volume.oldest_ms));
  }
  if (top.volumes.size() > most) page->line(fmt::format("  and {} more", top.volumes.size() - most));
}

void draw_stages(const Top& top, size_t most, Page* page) {
  const auto traced = std::find_if(top.volumes.begin(), top.volumes.end(),
                                   [](const TopVolume& volume) { return !volume.stages.empty(); });
  if (traced == top.volumes.end()) return;
  page->line("");
  page->line(fmt::format("{:<20.20} {:>8} {:>8}   of {}", "STAGE", "P50 us", "P99 us", traced->name));
  std::vector<TopStage> stages = traced->stages;
  // Those that matter, in the order of the path.
  if (stages.size() > most) {
    std::vector<double> times;
    for (const TopStage& stage : stages) times.push_back(stage.p99_us);
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(most), times.end(), std::greater<>());
    std::erase_if(stages, [&](const TopStage& stage) { return stage.p99_us <= times[most]; });
  }
  for (const TopStage& stage : stages)
    page->line(fmt::format("{:<20.20} {:>8.0f} {:>8.0f}", stage.name, stage.p50_us, stage.p99_us));
}

void draw_reactors(const Top& top, Page* page) {
  page->line("");
  page->line(fmt::format("{:<8} {:<12} {:>7} {:>9} {:>8}", "NODE", "REACTOR", "BUSY %", "POLLING %", "ASLEEP %"));
  for (const TopReactor& reactor : top.reactors)
    page->line(fmt::format("{:<8.8} {:<12.12} {:>7.1f} {:>9.1f} {:>8.1f}  |{}|", reactor.node, reactor.name,
                           reactor.busy_percent, reactor.spinning_percent, reactor.asleep_percent, bar_of(reactor)));
}

}  // namespace

void add_node(const std::string& node, const json::value& answer, const std::vector<TopTarget>& targets,
              int64_t fresh_ms, Top* top) {
  std::map<std::string, TopVolume> volumes;  // by raid; later records replace earlier ones
  std::map<std::string, TopReactor> reactors;
  json_read::for_each(json_read::member(answer, "records"), [&](const json::value& record) {
    if (json_read::integer(record, "end_ms") < fresh_ms) return;
    const std::string kind = json_read::text(record, "kind");
    const std::string name = json_read::text(record, "name");
    if (kind == "reactor") {
      reactors[name] = {node, name, number(record, "busy_percent"), number(record, "spinning_percent"),
                        number(record, "asleep_percent")};
      return;
    }
    const auto target =
        std::find_if(targets.begin(), targets.end(), [&](const TopTarget& one) { return one.raid == name; });
    if (target == targets.end()) return;
    TopVolume& volume = volumes[name];
    volume.name = target->volume;
    volume.node = node;
    if (kind == "device") add_device(record, &volume);
    if (kind == "stages") add_stages(record, &volume);
  });
  for (auto& [raid, volume] : volumes) top->volumes.push_back(std::move(volume));
  for (auto& [name, reactor] : reactors) top->reactors.push_back(std::move(reactor));
}

void sort(Top* top) {
  std::stable_sort(top->volumes.begin(), top->volumes.end(),
                   [](const TopVolume& a, const TopVolume& b) { return a.iops > b.iops; });
}

std::string draw(const Top& top, size_t columns, size_t rows) {
  Page page(columns, rows);
  const auto asked = static_cast<size_t>(
      std::count_if(top.nodes.begin(), top.nodes.end(), [](const TopNode& node) { return node.trouble.empty(); }));
  page.line(fmt::format("diskengine top  {:%H:%M:%S} UTC  {} of {} nodes asked",
                        fmt::gmtime(static_cast<std::time_t>(top.now_ms / 1000)), asked, top.nodes.size()));
  for (const TopNode& node : top.nodes)
    if (!node.trouble.empty() && page.left() > rows / 2)
      page.line(fmt::format("  {} was not asked: {}", node.name, node.trouble));
  page.line("");
  // Half of what is left is the volumes', and what the reactors do not need is the stages'.
  const size_t reactor_lines = std::min(top.reactors.size() + 2, rows / 3);
  draw_volumes(top, std::max<size_t>(1, page.left() > reactor_lines + 4 ? (page.left() - reactor_lines) / 3 : 1),
               &page);
  if (page.left() > reactor_lines + 3) draw_stages(top, std::min(kStagesShown, page.left() - reactor_lines - 2), &page);
  draw_reactors(top, &page);
  return page.take();
}

json::object encode(const Top& top) {
  json::array nodes, volumes, reactors;
  for (const TopNode& node : top.nodes) nodes.push_back({{"name", node.name}, {"trouble", node.trouble}});
  for (const TopVolume& volume : top.volumes) {
    json::array stages;
    for (const TopStage& stage : volume.stages)
      stages.push_back({{"stage", stage.name}, {"p50_us", stage.p50_us}, {"p99_us", stage.p99_us}});
    volumes.push_back({{"name", volume.name},
                       {"node", volume.node},
                       {"iops", volume.iops},
                       {"mib_s", volume.mib_s},
                       {"p50_us", volume.p50_us},
                       {"p99_us", volume.p99_us},
                       {"outstanding", volume.outstanding},
                       {"oldest_ms", volume.oldest_ms},
                       {"stages", std::move(stages)}});
  }
  for (const TopReactor& reactor : top.reactors)
    reactors.push_back({{"node", reactor.node},
                        {"name", reactor.name},
                        {"busy_percent", reactor.busy_percent},
                        {"spinning_percent", reactor.spinning_percent},
                        {"asleep_percent", reactor.asleep_percent}});
  return {{"now_ms", top.now_ms},
          {"nodes", std::move(nodes)},
          {"volumes", std::move(volumes)},
          {"reactors", std::move(reactors)}};
}

}  // namespace diskengine::control::cli
