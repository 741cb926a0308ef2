#include "control/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "control/sizes.h"

namespace diskengine::control {
namespace {

struct Candidate {
  int64_t disk_id = 0;
  int64_t free_bytes = 0;
};

// Why there are not enough candidates, node by node.
Error not_enough(const Graph& graph, const std::map<int64_t, Candidate>& best, const PlacementWish& wish) {
  std::string found;
  for (const Node& node : graph.nodes) {
    if (node.role != kRoleStorage) continue;
    const auto candidate = best.find(node.id);
    std::string has = fmt::format("no ready disk with blocks of {} bytes", wish.block_size);
    if (node.status.state == state::kDown) has = "does not answer";
    if (candidate != best.end()) has = format_size(candidate->second.free_bytes) + " free";
    found += fmt::format("{}{}: {}", found.empty() ? "" : ", ", node.name, has);
  }
  return Error(Errc::no_space,
               fmt::format("{} replicas of {} need that many storage nodes with a ready disk and room; found {}; see "
                           "`diskengine status`, and add disks with `diskengine disk add`",
                           wish.replicas, format_size(wish.size_bytes), found.empty() ? "no storage node" : found));
}

}  // namespace

Result<std::vector<int64_t>> place_replicas(const Graph& graph, const PlacementWish& wish) {
  std::map<int64_t, Candidate> best;  // by node: its disk with the most room
  for (const Disk& disk : graph.disks) {
    if (disk.status.state != state::kReady || disk.block_size != wish.block_size) continue;
    const Node* node = graph.node(disk.node_id);
    if (node == nullptr || node->status.state == state::kDown) continue;
    const int64_t free_bytes = disk.capacity_bytes - graph.promised_bytes(disk.id);
    const auto [entry, is_new] = best.try_emplace(disk.node_id, Candidate{disk.id, free_bytes});
    if (!is_new && free_bytes > entry->second.free_bytes) entry->second = {disk.id, free_bytes};
  }
  std::vector<Candidate> with_room;
  for (const auto& [node_id, candidate] : best)
    if (candidate.free_bytes >= wish.size_bytes) with_room.push_back(candidate);
  if (static_cast<int64_t>(with_room.size()) < wish.replicas) return not_enough(graph, best, wish);
  std::stable_sort(with_room.begin(), with_room.end(),
                   [](const Candidate& a, const Candidate& b) { return a.free_bytes > b.free_bytes; });
  std::vector<int64_t> disks;
  for (int64_t i = 0; i < wish.replicas; ++i) disks.push_back(with_room[static_cast<size_t>(i)].disk_id);
  return disks;
}

}  // namespace diskengine::control
