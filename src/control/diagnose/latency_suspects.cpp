#include "control/diagnose/latency_suspects.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

namespace diskengine::control {
namespace {

constexpr double kBusyPercent = 90;
constexpr double kNeighbourShare = 0.5;  // of a disk's I/O that is not this volume's
constexpr double kAllocateUs = 500;
constexpr double kHotCelsius = 70;  // of disks that do not say themselves from which on they warn
constexpr int64_t kEventSlackMs = 2'000;

using Wanted = std::function<bool(const PastEvent&)>;

// The stretches of what begins and ends; what began and has no end yet, or whose process ended, ends there.
std::vector<Stretch> stretches_of(const LatencyHistory& history, const Wanted& wanted) {
  std::vector<Stretch> stretches;
  std::map<std::string, int64_t> open;  // node and object -> when it began
  std::map<std::string, std::string> texts;
  const auto close = [&](const std::string& key, int64_t end_ms) {
    stretches.push_back({open[key], end_ms, texts[key]});
    open.erase(key);
  };
  for (const PastEvent& event : history.events) {
    const std::string key = event.node + '\n' + event.type + '\n' + event.object;
    if (event.type == "started") {
      for (auto at = open.begin(); at != open.end();) {
        const std::string other = (at++)->first;
        if (other.starts_with(event.node + '\n')) close(other, event.end_ms);
      }
    }
    if (!wanted(event)) continue;
    const std::string what = fmt::format("{}: {}", event.object, event.text);
    if (event.phase == "began") {
      open[key] = event.end_ms;
      texts[key] = what;
    } else if (event.phase == "ended") {
      open.erase(key);
      stretches.push_back({event.begin_ms, event.end_ms, what});
    } else if (!open.contains(key)) {
      stretches.push_back({event.begin_ms, event.end_ms, what});
    }
  }
  while (!open.empty()) close(open.begin()->first, history.until_ms);
  std::sort(stretches.begin(), stretches.end(),
            [](const Stretch& a, const Stretch& b) { return a.begin_ms < b.begin_ms; });
  return stretches;
}

bool is_of_type(const PastEvent& event, std::initializer_list<std::string_view> types) {
  return std::find(types.begin(), types.end(), event.type) != types.end();
}

// A call of one of these methods.
bool is_call(const PastEvent& event, std::initializer_list<std::string_view> methods) {
  return event.type == "rpc" && std::any_of(methods.begin(), methods.end(), [&](std::string_view method) {
           return event.text.starts_with(std::string(method) + " ") || event.text == method;
         });
}

bool is_of_volume(const LatencyHistory& history, const PastEvent& event) {
  return event.object == history.raid || event.object.starts_with(history.raid + " ");
}

std::vector<Suspect> suspects_in_the_mirror(const LatencyHistory& history) {
  std::vector<Suspect> suspects;
  const auto of_raid = [&](std::string_view type) {
    return stretches_of(history, [&history, type](const PastEvent& event) {
      return event.type == type && is_of_volume(history, event);
    });
  };
  suspects.push_back({.code = "rebuild",
                      .layer = "raid",
                      .node = {},
                      .summary = "the mirror copies to a leg",
                      .next = "wait for its end, or bound it: bdev_raid_set_options process_max_bandwidth_mb_sec",
                      .fits = {},
                      .can_be_certain = true,
                      .slack_ms = kEventSlackMs,
                      .stretches = of_raid("rebuild")});
  suspects.push_back({.code = "scrub",
                      .layer = "raid",
                      .node = {},
                      .summary = "the mirror compares its legs",
                      .next = "run scrubs with a bandwidth limit, or when there is less load",
                      .fits = {},
                      .can_be_certain = true,
                      .slack_ms = kEventSlackMs,
                      .stretches = of_raid("scrub")});
  suspects.push_back({.code = "leg-change",
                      .layer = "raid",
                      .node = {},
                      .summary = "a leg was not in sync",
                      .next = fmt::format("diskengine volume diagnose {}", history.volume),
                      .fits = {},
                      .can_be_certain = true,
                      .slack_ms = kEventSlackMs,
                      .stretches = of_raid("leg")});
  const std::set<std::string> controllers(history.controllers.begin(), history.controllers.end());
  suspects.push_back({.code = "reconnect",
                      .layer = "network",
                      .node = {},
                      .summary = "the connection to a replica was down and came back",
                      .next = fmt::format("diskengine volume diagnose {}", history.volume),
                      .fits = {},
                      .can_be_certain = true,
                      .slack_ms = kEventSlackMs,
                      .stretches = stretches_of(history, [controllers](const PastEvent& event) {
                        return event.type == "path" && controllers.contains(event.object);
                      })});
  return suspects;
}

std::vector<Suspect> suspects_of_processes(const LatencyHistory& history) {
  std::vector<Suspect> suspects;
  suspects.push_back({.code = "restart",
                      .layer = "target",
                      .node = {},
                      .summary = "a data plane of the path was started",
                      .next = "look into its log for why it had ended",
                      .fits = {},
                      .can_be_certain = true,
                      .slack_ms = kEventSlackMs,
                      .stretches = stretches_of(history, [](const PastEvent& e) { return e.type == "started"; })});
  suspects.push_back({.code = "snapshot",
                      .layer = "lvol",
                      .node = {},
                      .summary = "a snapshot or clone was taken",
                      .next = "take fewer or at other times; the first write to each cluster after one copies it",
                      .fits = {"lvol", "disk", "target"},
                      .can_be_certain = true,
                      .slack_ms = kEventSlackMs,
                      .stretches = stretches_of(history, [](const PastEvent& event) {
                        return is_call(event, {"bdev_lvol_snapshot", "bdev_lvol_clone", "bdev_lvol_clone_bdev"});
                      })});
  suspects.push_back({.code = "lvol-copy",
                      .layer = "lvol",
                      .node = {},
                      .summary = "clusters of a lvol were copied or freed",
                      .next = "do it when there is less load",
                      .fits = {"lvol", "disk", "target"},
                      .can_be_certain = false,
                      .slack_ms = kEventSlackMs,
                      .stretches = stretches_of(history, [](const PastEvent& event) {
                        return is_call(
                            event, {"bdev_lvol_inflate", "bdev_lvol_decouple_parent", "bdev_lvol_start_shallow_copy",
                                    "bdev_lvol_delete", "bdev_lvol_resize", "bdev_lvol_set_parent"});
                      })});
  suspects.push_back({.code = "store-space",
                      .layer = "lvol",
                      .node = {},
                      .summary = "a lvol store was short of space",
                      .next = "diskengine status",
                      .fits = {"lvol", "disk", "target"},
                      .can_be_certain = false,
                      .slack_ms = kEventSlackMs,
                      .stretches = stretches_of(history, [](const PastEvent& event) {
                        return is_of_type(event, {"diskengine_lvol_space"});
                      })});
  suspects.push_back({.code = "disk-health",
                      .layer = "disk",
                      .node = {},
                      .summary = "a disk said that it is not well",
                      .next = "bdev_nvme_get_controller_health_info on its node",
                      .fits = {"disk"},
                      .can_be_certain = false,
                      .slack_ms = kEventSlackMs,
                      .stretches = stretches_of(history, [](const PastEvent& event) {
                        return is_of_type(event, {"diskengine_disk_health"});
                      })});
  return suspects;
}

// The samples of a series that fulfil something, those beside each other taken together.
std::vector<Stretch> stretches_where(const PastSeries& series,
                                     const std::function<std::string(const PastSample&)>& what) {
  std::vector<Stretch> stretches;
  for (const PastSample& sample : series.samples) {
    const std::string text = what(sample);
    if (text.empty()) continue;
    const int64_t begin_ms = sample.end_ms - sample.span_ms;
    if (!stretches.empty() && begin_ms - stretches.back().end_ms < sample.span_ms)
      stretches.back().end_ms = sample.end_ms;
    else
      stretches.push_back({begin_ms, sample.end_ms, text});
  }
  return stretches;
}

const PastSample* sample_at(const PastSeries& series, int64_t at_ms) {
  for (const PastSample& sample : series.samples)
    if (sample.end_ms - sample.span_ms < at_ms && at_ms <= sample.end_ms) return &sample;
  return nullptr;
}

const PastSeries* lvol_beside(const LatencyHistory& history, const PastSeries& disk) {
  for (const PastSeries& series : history.series)
    if (series.role == PastRole::lvol && series.leg == disk.leg) return &series;
  return nullptr;
}

// A disk that does mostly other I/O than this volume's, and more of it than usual.
Suspect neighbours(const LatencyHistory& history, const PastSeries& disk) {
  Suspect suspect{.code = "neighbours",
                  .layer = "disk",
                  .node = disk.node,
                  .summary = fmt::format("other volumes used the disk {} of {}", disk.name, disk.node),
                  .next = "move one of the volumes to another disk, or bound the load of the others",
                  .fits = {"disk", "lvol", "target"},
                  .can_be_certain = false,
                  .stretches = {}};
  const PastSeries* lvol = lvol_beside(history, disk);
  if (lvol == nullptr || disk.samples.empty()) return suspect;
  std::vector<double> others;
  for (const PastSample& sample : disk.samples) {
    const PastSample* own = sample_at(*lvol, sample.end_ms);
    others.push_back(std::max(0.0, sample.kib - (own != nullptr ? own->kib : 0)));
  }
  std::vector<double> sorted = others;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
  const double usual_kib = sorted[sorted.size() / 2];
  suspect.stretches = stretches_where(disk, [&](const PastSample& sample) {
    const double other = others[static_cast<size_t>(&sample - disk.samples.data())];
    const bool much = other > kNeighbourShare * sample.kib && other > 2 * usual_kib + 1024;
    return much ? fmt::format("{:.0f} of {:.0f} KiB on {} were of others", other, sample.kib, disk.name)
                : std::string();
  });
  return suspect;
}

bool is_compute_node(const LatencyHistory& history, const std::string& node) {
  return std::any_of(history.series.begin(), history.series.end(),
                     [&](const PastSeries& series) { return series.role == PastRole::volume && series.node == node; });
}

// The one of the compute node makes everything slow as the mirror sees it, but no lvol or disk of another machine.
Suspect saturated_reactor(const LatencyHistory& history, const PastSeries& reactor) {
  const bool is_compute = is_compute_node(history, reactor.node);
  Suspect suspect{.code = "reactor-saturated",
                  .layer = "reactor",
                  .node = reactor.node,
                  .summary = fmt::format("{} of {} had no time left", reactor.name, reactor.node),
                  .next = "give its data plane more cores (-m), or spread its volumes",
                  .fits = is_compute ? std::vector<std::string>{"raid", "network", "target"}
                                     : std::vector<std::string>{"network", "target", "lvol", "disk"},
                  .can_be_certain = false,
                  .fits_elsewhere = is_compute,
                  .is_beside = true,
                  .stretches = {}};
  suspect.stretches = stretches_where(reactor, [&](const PastSample& sample) {
    return sample.busy_percent >= kBusyPercent ? fmt::format("{} was {:.0f} % busy", reactor.name, sample.busy_percent)
                                               : std::string();
  });
  return suspect;
}

// Of the connections to a replica, as either end counted them.
Suspect retransmissions(const LatencyHistory& history, const PastSeries& lvol) {
  Suspect suspect{.code = "retransmissions",
                  .layer = "network",
                  .node = lvol.node,
                  .summary = fmt::format("the network lost what was on its way between the mirror and {}", lvol.node),
                  .next = "look at cables, switches and their queues between the two; ethtool -S, ss -ti",
                  .fits = {"network", "target"},
                  .can_be_certain = true,
                  .stretches = {}};
  for (const PastSeries& series : history.series) {
    if (series.role != PastRole::connections || series.leg != lvol.leg) continue;
    for (Stretch& stretch : stretches_where(series, [&](const PastSample& sample) {
           return sample.again > 0 ? fmt::format("{:.0f} segments were sent again, of {:.0f}, counted on {} ({})",
                                                 sample.again, sample.sent, series.node, series.name)
                                   : std::string();
         }))
      suspect.stretches.push_back(std::move(stretch));
  }
  std::sort(suspect.stretches.begin(), suspect.stretches.end(),
            [](const Stretch& a, const Stretch& b) { return a.begin_ms < b.begin_ms; });
  return suspect;
}

Suspect network_errors(const LatencyHistory& history, const PastSeries& interface) {
  return {
      .code = "network-errors",
      .layer = "network",
      .node = interface.node,
      .summary = fmt::format("{} of {} dropped, damaged or repeated what it carried", interface.name, interface.node),
      .next = "ethtool -S, or the port's counters in /sys/class/infiniband",
      .fits = {"network", "target"},
      .can_be_certain = false,
      .fits_elsewhere = is_compute_node(history, interface.node),
      .stretches = stretches_where(interface, [&](const PastSample& sample) {
        return sample.again + sample.lost > 0 ? fmt::format("{}: {:.0f} dropped or damaged, {:.0f} sent again",
                                                            interface.name, sample.lost, sample.again)
                                              : std::string();
      })};
}

Suspect hot_disk(const PastSeries& disk) {
  return {.code = "disk-health",
          .layer = "disk",
          .node = disk.node,
          .summary = fmt::format("the disk {} of {} was so hot that it slows itself down", disk.name, disk.node),
          .next = "cool it: air flow, its heat sink, less load",
          .fits = {"disk"},
          .can_be_certain = false,
          .stretches = stretches_where(disk, [&](const PastSample& sample) {
            const double limit = sample.warning_celsius > 0 ? sample.warning_celsius : kHotCelsius;
            return sample.celsius >= limit
                       ? fmt::format("{} had {:.0f} C, and warns from {:.0f} on", disk.name, sample.celsius, limit)
                       : std::string();
          })};
}

std::vector<Suspect> suspects_in_samples(const LatencyHistory& history) {
  std::vector<Suspect> suspects;
  for (const PastSeries& series : history.series) {
    if (series.role == PastRole::reactor) suspects.push_back(saturated_reactor(history, series));
    if (series.role == PastRole::lvol)
      suspects.push_back({.code = "allocation",
                          .layer = "lvol",
                          .node = series.node,
                          .summary = fmt::format(
                              "first writes to clusters waited for them to be allocated or copied on {}", series.node),
                          .next = "expected after snapshots and in new thin volumes; bdev_lvol_inflate ends it",
                          .fits = {"lvol", "disk", "target"},
                          .can_be_certain = false,
                          .stretches = stretches_where(series, [](const PastSample& sample) {
                            return sample.allocate_us >= kAllocateUs
                                       ? fmt::format("preparing a cluster took {:.1f} ms", sample.allocate_us / 1000)
                                       : std::string();
                          })});
    if (series.role == PastRole::disk) suspects.push_back(neighbours(history, series));
    if (series.role == PastRole::lvol) suspects.push_back(retransmissions(history, series));
    if (series.role == PastRole::interface) suspects.push_back(network_errors(history, series));
    if (series.role == PastRole::temperature) suspects.push_back(hot_disk(series));
  }
  return suspects;
}

}  // namespace

std::vector<Suspect> suspects_of(const LatencyHistory& history) {
  std::vector<Suspect> suspects = suspects_in_the_mirror(history);
  for (auto* more : {suspects_of_processes, suspects_in_samples})
    for (Suspect& suspect : more(history)) suspects.push_back(std::move(suspect));
  return suspects;
}

}  // namespace diskengine::control
