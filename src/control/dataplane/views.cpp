#include "control/dataplane/views.h"

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
const BdevView* TargetView::bdev(std::string_view name) const { return find_name(bdevs, name); }

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
