#include "control/dataplane/views.h"

#include <algorithm>

namespace diskengine::control {
namespace {

template <typename Row>
const Row* find_name(const std::vector<Row>& rows, std::string_view name) {
  for (const Row& row : rows)
    if (row.name == name) return &row;
  return nullptr;
}

}  // namespace

const RaidLegView* RaidView::leg(std::string_view bdev_name) const { return find_name(legs, bdev_name); }
const BdevView* TargetView::bdev(std::string_view name) const {
  for (const BdevView& row : bdevs)
    if (row.name == name || std::find(row.aliases.begin(), row.aliases.end(), name) != row.aliases.end()) return &row;
  return nullptr;
}

const LvolStoreView* TargetView::lvol_store_on(std::string_view base_bdev) const {
  for (const LvolStoreView& row : lvol_stores)
    if (row.base_bdev == base_bdev) return &row;
  return nullptr;
}

const SubsystemView* TargetView::subsystem(std::string_view nqn) const {
  for (const SubsystemView& row : subsystems)
    if (row.nqn == nqn) return &row;
  return nullptr;
}

bool TargetView::has_transport(std::string_view trtype) const {
  for (const std::string& transport : transports)
    if (transport == trtype) return true;
  return false;
}

const BdevView* ComputeView::bdev(std::string_view name) const { return find_name(bdevs, name); }
const ControllerView* ComputeView::controller(std::string_view name) const { return find_name(controllers, name); }
const RaidView* ComputeView::raid(std::string_view name) const { return find_name(raids, name); }
const VhostView* ComputeView::vhost(std::string_view name) const { return find_name(vhosts, name); }

}  // namespace diskengine::control
