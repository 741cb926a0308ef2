#include "nvme/io_status.h"

#include <fmt/format.h>

namespace diskengine::nvme {

using spec::Status;

namespace {

IoCode code_of(Status status) noexcept {
  switch (status) {
    case Status::success:
      return IoCode::ok;
    case Status::invalid_opcode:
      return IoCode::not_supported;
    case Status::invalid_field:
    case Status::lba_out_of_range:
    case Status::invalid_sgl_segment:
    case Status::invalid_sgl_count:
    case Status::invalid_sgl_data_length:
    case Status::invalid_sgl_type:
    case Status::invalid_sgl_offset:
    case Status::conflicting_attributes:
      return IoCode::invalid;
    case Status::capacity_exceeded:
      return IoCode::no_space;
    case Status::compare_failure:
      return IoCode::miscompare;
    case Status::namespace_write_protected:
    case Status::write_to_read_only_range:
      return IoCode::read_only;
    case Status::aborted_by_request:
    case Status::aborted_sq_deletion:
      return IoCode::canceled;
    default:
      return spec::status_code_type(status) == 3 ? IoCode::disconnected : IoCode::io_error;
  }
}

}  // namespace

IoStatus io_status_of(uint16_t status_field) noexcept {
  const Status status = spec::status_of(status_field);
  return IoStatus::nvme(code_of(status), spec::status_code_type(status), spec::status_code(status),
                        spec::do_not_retry(status_field));
}

bool is_transient(uint16_t status_field) noexcept {
  if (spec::do_not_retry(status_field)) return false;
  const Status status = spec::status_of(status_field);
  switch (status) {
    case Status::aborted_sq_deletion:
    case Status::namespace_not_ready:
    case Status::command_interrupted:
    case Status::transient_transport_error:
      return true;
    default:
      return spec::status_code_type(status) == 3;
  }
}

std::string describe_status(uint16_t status_field) {
  const Status status = spec::status_of(status_field);
  return fmt::format("{} ({:x}/{:02x}{})", spec::name_of(status), spec::status_code_type(status),
                     spec::status_code(status), spec::do_not_retry(status_field) ? ", do not retry" : "");
}

}  // namespace diskengine::nvme
