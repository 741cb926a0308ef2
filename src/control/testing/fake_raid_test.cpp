// The mirrors of a FakeDataPlane: SPDK's methods for them, and ours for epochs and exclusions.
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <mutex>

#include "control/dataplane/json_read.h"
#include "control/testing/fake_state.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

constexpr auto kLookEvery = std::chrono::milliseconds(5);

}  // namespace

FakeRaid& FakeDataPlane::State::raid(const std::string& name) {
  const auto found = raids.find(name);
  if (found == raids.end()) throw RpcFailure{-19, "raid bdev " + name + " not found"};
  return found->second;
}

void FakeDataPlane::State::create_raid(const std::string& name, const json::value& params) {
  if (raids.contains(name)) throw RpcFailure{-17, "Failed to create RAID bdev " + name + ": File exists"};
  FakeRaid raid;
  int64_t blocks = INT64_MAX;
  int64_t block_size = 0;
  for_each(member(params, "base_bdevs"), [&](const json::value& leg) {
    const std::string bdev(leg.get_string());
    raid.legs.push_back(bdev);
    if (!bdevs.contains(bdev)) {
      raid.online = false;
      return;
    }
    blocks = std::min(blocks, bdevs.at(bdev).num_blocks);
    block_size = bdevs.at(bdev).block_size;
  });
  raids[name] = raid;
  if (raid.online)
    bdevs[name] = FakeBdev{.product = "Raid Volume",
                           .uuid = {},
                           .num_blocks = blocks,
                           .block_size = block_size,
                           .claimed_by = {},
                           .alias = {}};
}

// As ours: exactly the named legs serve, the other places stay free, and it is held by its epoch from the start.
void FakeDataPlane::State::assemble_raid(const std::string& name, const json::value& params) {
  if (lacking.contains("diskengine_raid_set_epoch")) throw RpcFailure{-32601, "Method not found"};
  raids.erase(name);
  create_raid(name, params);
  FakeRaid& mirror = raids.at(name);
  mirror.epoch = integer(params, "epoch");
  mirror.legs.resize(static_cast<size_t>(integer(params, "num_base_bdevs")));
  bdevs.at(name).num_blocks -= (1 << 20) / bdevs.at(name).block_size;
}

// A leg fails: at once out, or held in until that is confirmed.
void FakeDataPlane::State::leave_raid(const std::string& name, const std::string& leg) {
  FakeRaid& mirror = raids.at(name);
  if (mirror.epoch != 0) {
    if (mirror.wanted.insert(leg).second) events.push_back({.raid = name, .epoch = mirror.epoch, .leg = leg});
    return;
  }
  std::replace(mirror.legs.begin(), mirror.legs.end(), leg, std::string());
}

void FakeDataPlane::State::change_epoch(const std::string& method, const json::value& params) {
  FakeRaid& mirror = raid(text(params, "name"));
  const int64_t epoch = integer(params, "epoch");
  if (method == "diskengine_raid_fence") {
    if (!mirror.fenced && epoch <= mirror.epoch) throw RpcFailure{-116, "the epoch cannot end it"};
    mirror.fenced = true;
    return;
  }
  if (mirror.fenced || epoch < mirror.epoch) throw RpcFailure{-116, "the epoch is over"};
  if (method == "diskengine_raid_set_epoch") {
    mirror.epoch = epoch;
    return;
  }
  if (epoch != mirror.epoch) throw RpcFailure{-116, "a confirmation of another epoch"};
  const std::string leg = text(params, "leg");
  const auto place = std::find(mirror.legs.begin(), mirror.legs.end(), leg);
  if (place == mirror.legs.end()) throw RpcFailure{-19, "none of its legs"};
  place->clear();
  mirror.wanted.erase(leg);
}

// True if the method was one of a mirror's.
bool FakeDataPlane::State::change_raids(const std::string& method, const json::value& params) {
  const std::string name = text(params, "name");
  if (method == "bdev_raid_create") {
    create_raid(name, params);
  } else if (method == "diskengine_raid_assemble") {
    assemble_raid(name, params);
  } else if (method == "bdev_raid_delete") {
    raid(name);
    raids.erase(name);
    if (bdevs.contains(name)) remove_bdev(name);
  } else if (method == "bdev_raid_add_base_bdev") {
    FakeRaid& mirror = raid(text(params, "raid_bdev"));
    const auto place = std::find(mirror.legs.begin(), mirror.legs.end(), "");
    const std::string bdev = text(params, "base_bdev");
    if (place == mirror.legs.end() || !bdevs.contains(bdev)) throw RpcFailure{-22, "Invalid argument"};
    *place = bdev;
    mirror.process_target = bdev;
    mirror.percent = 0;
  } else if (method == "bdev_raid_remove_base_bdev") {
    for (auto& [raid_name, mirror] : raids) std::replace(mirror.legs.begin(), mirror.legs.end(), name, std::string());
  } else if (method == "diskengine_raid_set_epoch" || method == "diskengine_raid_confirm_exclusion" ||
             method == "diskengine_raid_fence") {
    change_epoch(method, params);
  } else {
    return false;
  }
  return true;
}

// Looks every few milliseconds: what a real data plane is woken by.
json::value FakeDataPlane::State::wait_events(const json::value& params) {
  const int64_t after = integer(params, "after");
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(integer(params, "timeout_ms"));
  for (;;) {
    {
      const std::lock_guard lock(fabric->mutex);
      if (lacking.contains("diskengine_raid_wait_events")) throw RpcFailure{-32601, "Method not found"};
      const auto last = static_cast<int64_t>(events.size());
      const bool is_over = stopping || std::chrono::steady_clock::now() >= end;
      if (last > after || is_over) {
        json::array list;
        for (int64_t id = after + 1; id <= last; ++id) {
          const Event& event = events[static_cast<size_t>(id - 1)];
          list.push_back({{"id", id},
                          {"type", "exclusion_wanted"},
                          {"volume", event.raid},
                          {"epoch", event.epoch},
                          {"leg", event.leg}});
        }
        return {{"instance", std::to_string(starts)}, {"last_id", last}, {"lost", after > last}, {"events", list}};
      }
    }
    std::this_thread::sleep_for(kLookEvery);
  }
}

json::value FakeDataPlane::State::raid_json(const std::string& name, const FakeRaid& mirror) const {
  json::array legs;
  size_t present = 0;
  for (const std::string& leg : mirror.legs) {
    const bool configured = !leg.empty() && bdevs.contains(leg);
    present += configured ? 1 : 0;
    legs.emplace_back(json::object{{"name", leg.empty() ? json::value(nullptr) : json::value(leg)},
                                   {"is_configured", configured},
                                   {"state", leg.empty()                    ? "empty"
                                             : mirror.wanted.contains(leg)  ? "leaving"
                                             : leg == mirror.process_target ? "rebuilding"
                                                                            : "in_sync"}});
  }
  json::object entry{{"name", name},
                     {"state", !mirror.online ? "configuring"
                               : present > 0  ? "online"
                                              : "offline"},
                     {"raid_level", "raid1"},
                     {"base_bdevs_list", legs}};
  json::array wanted;
  for (const std::string& leg : mirror.wanted) wanted.emplace_back(json::object{{"leg", leg}});
  entry["epoch"] = mirror.epoch;
  entry["confirms_exclusions"] = mirror.epoch != 0;
  entry["fenced"] = mirror.fenced;
  entry["exclusions_wanted"] = wanted;
  if (!mirror.process_target.empty())
    entry["process"] = {{"type", "rebuild"},
                        {"target", mirror.process_target},
                        {"progress", {{"blocks", 0}, {"percent", mirror.percent}}}};
  return entry;
}

}  // namespace diskengine::control
