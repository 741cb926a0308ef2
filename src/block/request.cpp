#include "block/request.h"

#include <cerrno>

namespace diskengine {

std::string_view name_of(Op op) noexcept {
  switch (op) {
    case Op::read:
      return "read";
    case Op::write:
      return "write";
    case Op::flush:
      return "flush";
    case Op::unmap:
      return "unmap";
    case Op::write_zeroes:
      return "write_zeroes";
    case Op::compare:
      return "compare";
  }
  return "unknown";
}

std::string_view name_of(IoCode code) noexcept {
  switch (code) {
    case IoCode::ok:
      return "ok";
    case IoCode::io_error:
      return "io_error";
    case IoCode::invalid:
      return "invalid";
    case IoCode::not_supported:
      return "not_supported";
    case IoCode::no_space:
      return "no_space";
    case IoCode::canceled:
      return "canceled";
    case IoCode::timed_out:
      return "timed_out";
    case IoCode::disconnected:
      return "disconnected";
    case IoCode::miscompare:
      return "miscompare";
    case IoCode::read_only:
      return "read_only";
    case IoCode::fenced:
      return "fenced";
  }
  return "unknown";
}

IoStatus io_status_from_errno(int positive_errno) noexcept {
  switch (positive_errno) {
    case 0:
      return IoStatus::success();
    case ENOSPC:
    case EDQUOT:
      return IoStatus::error(IoCode::no_space, positive_errno);
    case EINVAL:
      return IoStatus::error(IoCode::invalid, positive_errno);
    case EOPNOTSUPP:
      return IoStatus::error(IoCode::not_supported, positive_errno);
    case ECANCELED:
      return IoStatus::error(IoCode::canceled, positive_errno);
    case ETIMEDOUT:
      return IoStatus::error(IoCode::timed_out, positive_errno);
    case EROFS:
      return IoStatus::error(IoCode::read_only, positive_errno);
    default:
      return IoStatus::error(IoCode::io_error, positive_errno);
  }
}

}  // namespace diskengine
