#include "base/result.h"

#include <cerrno>
#include <system_error>

namespace diskengine {
namespace {

struct Row {
  Errc code;
  int number;
  std::string_view name;
};

constexpr Row kRows[] = {
    {Errc::invalid_argument, EINVAL, "invalid_argument"},
    {Errc::not_found, ENOENT, "not_found"},
    {Errc::no_device, ENODEV, "no_device"},
    {Errc::already_exists, EEXIST, "already_exists"},
    {Errc::busy, EBUSY, "busy"},
    {Errc::permission_denied, EPERM, "permission_denied"},
    {Errc::access_denied, EACCES, "access_denied"},
    {Errc::out_of_range, ERANGE, "out_of_range"},
    {Errc::no_memory, ENOMEM, "no_memory"},
    {Errc::no_space, ENOSPC, "no_space"},
    {Errc::not_supported, ENOTSUP, "not_supported"},
    {Errc::timed_out, ETIMEDOUT, "timed_out"},
    {Errc::canceled, ECANCELED, "canceled"},
    {Errc::unreachable, ECONNREFUSED, "unreachable"},
    {Errc::io_error, EIO, "io_error"},
    {Errc::protocol, EPROTO, "protocol"},
    {Errc::corrupt, EILSEQ, "corrupt"},
    {Errc::conflict, ESTALE, "conflict"},
    {Errc::would_block, EAGAIN, "would_block"},
    {Errc::internal, EFAULT, "internal"},
};

}  // namespace

std::string_view name_of(Errc code) noexcept {
  for (const Row& row : kRows)
    if (row.code == code) return row.name;
  return "unknown";
}

int errno_of(Errc code) noexcept {
  for (const Row& row : kRows)
    if (row.code == code) return row.number;
  return EIO;
}

Errc errc_from_errno(int positive_errno) noexcept {
  for (const Row& row : kRows)
    if (row.number == positive_errno) return row.code;
  switch (positive_errno) {
    case ECONNRESET:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENOTCONN:
      return Errc::unreachable;
    case EOPNOTSUPP:
      return Errc::not_supported;
    default:
      return Errc::io_error;
  }
}

Error Error::from_errno(int positive_errno, std::string_view what) {
  std::string message(what);
  message += ": ";
  message += std::generic_category().message(positive_errno);
  return Error(errc_from_errno(positive_errno), std::move(message));
}

Error Error::with_context(std::string_view context) const {
  std::string message(context);
  message += ": ";
  message += message_;
  return Error(code_, std::move(message));
}

}  // namespace diskengine
