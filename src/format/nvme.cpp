#include "format/nvme.h"

#include <algorithm>
#include <array>

namespace diskengine::spec {
namespace {

struct StatusName {
  Status status;
  std::string_view name;
};

// In order of the numbers: name_of searches it by halves.
constexpr std::array kStatusNames = {
    StatusName{Status::success, "success"},
    StatusName{Status::invalid_opcode, "invalid command opcode"},
    StatusName{Status::invalid_field, "invalid field in command"},
    StatusName{Status::command_id_conflict, "command id conflict"},
    StatusName{Status::data_transfer_error, "data transfer error"},
    StatusName{Status::aborted_power_loss, "aborted: power loss"},
    StatusName{Status::internal_error, "internal error"},
    StatusName{Status::aborted_by_request, "aborted by request"},
    StatusName{Status::aborted_sq_deletion, "aborted: queue deleted"},
    StatusName{Status::aborted_failed_fused, "aborted: fused command failed"},
    StatusName{Status::aborted_missing_fused, "aborted: fused command missing"},
    StatusName{Status::invalid_namespace, "invalid namespace or format"},
    StatusName{Status::command_sequence_error, "command sequence error"},
    StatusName{Status::invalid_sgl_segment, "invalid SGL segment descriptor"},
    StatusName{Status::invalid_sgl_count, "invalid number of SGL descriptors"},
    StatusName{Status::invalid_sgl_data_length, "invalid data SGL length"},
    StatusName{Status::invalid_sgl_metadata_length, "invalid metadata SGL length"},
    StatusName{Status::invalid_sgl_type, "invalid SGL descriptor type"},
    StatusName{Status::operation_denied, "operation denied"},
    StatusName{Status::invalid_sgl_offset, "invalid SGL offset"},
    StatusName{Status::host_id_inconsistent, "host identifier inconsistent format"},
    StatusName{Status::keep_alive_expired, "keep alive timer expired"},
    StatusName{Status::keep_alive_invalid, "keep alive timeout invalid"},
    StatusName{Status::sanitize_in_progress, "sanitize in progress"},
    StatusName{Status::namespace_write_protected, "namespace is write protected"},
    StatusName{Status::command_interrupted, "command interrupted"},
    StatusName{Status::transient_transport_error, "transient transport error"},
    StatusName{Status::lba_out_of_range, "LBA out of range"},
    StatusName{Status::capacity_exceeded, "capacity exceeded"},
    StatusName{Status::namespace_not_ready, "namespace not ready"},
    StatusName{Status::reservation_conflict, "reservation conflict"},
    StatusName{Status::format_in_progress, "format in progress"},
    StatusName{Status::invalid_completion_queue, "completion queue invalid"},
    StatusName{Status::invalid_queue_id, "invalid queue identifier"},
    StatusName{Status::invalid_queue_size, "invalid queue size"},
    StatusName{Status::abort_limit_exceeded, "abort command limit exceeded"},
    StatusName{Status::async_event_limit_exceeded, "asynchronous event request limit exceeded"},
    StatusName{Status::invalid_log_page, "invalid log page"},
    StatusName{Status::invalid_format, "invalid format"},
    StatusName{Status::feature_not_saveable, "feature identifier not saveable"},
    StatusName{Status::feature_not_changeable, "feature not changeable"},
    StatusName{Status::feature_not_namespace_specific, "feature not namespace specific"},
    StatusName{Status::namespace_already_attached, "namespace already attached"},
    StatusName{Status::namespace_not_attached, "namespace not attached"},
    StatusName{Status::connect_incompatible_format, "connect: incompatible format"},
    StatusName{Status::connect_controller_busy, "connect: controller busy"},
    StatusName{Status::connect_invalid_parameters, "connect: invalid parameters"},
    StatusName{Status::connect_restart_discovery, "connect: restart discovery"},
    StatusName{Status::connect_invalid_host, "connect: invalid host"},
    StatusName{Status::connect_invalid_queue_type, "connect: invalid queue type"},
    StatusName{Status::discover_restart, "discover restart"},
    StatusName{Status::authentication_required, "authentication required"},
    StatusName{Status::write_fault, "write fault"},
    StatusName{Status::unrecovered_read_error, "unrecovered read error"},
    StatusName{Status::guard_check_error, "end-to-end guard check error"},
    StatusName{Status::compare_failure, "compare failure"},
    StatusName{Status::access_denied, "access denied"},
    StatusName{Status::deallocated_block, "deallocated or unwritten block"},
    StatusName{Status::internal_path_error, "internal path error"},
    StatusName{Status::ana_persistent_loss, "asymmetric access persistent loss"},
    StatusName{Status::ana_inaccessible, "asymmetric access inaccessible"},
    StatusName{Status::ana_transition, "asymmetric access transition"},
    StatusName{Status::controller_path_error, "controller pathing error"},
    StatusName{Status::host_path_error, "host pathing error"},
    StatusName{Status::aborted_by_host, "command aborted by host"},
};

constexpr bool in_order() {
  for (size_t i = 1; i < kStatusNames.size(); ++i)
    if (kStatusNames[i - 1].status >= kStatusNames[i].status) return false;
  return true;
}
static_assert(in_order());

}  // namespace

std::string_view name_of(Status status) noexcept {
  const auto* at = std::lower_bound(kStatusNames.begin(), kStatusNames.end(), status,
                                    [](const StatusName& entry, Status wanted) { return entry.status < wanted; });
  return at != kStatusNames.end() && at->status == status ? at->name : "unknown status";
}

}  // namespace diskengine::spec
