#include "control/cli/exit_code.h"

namespace diskengine::control::cli {

int exit_code_of(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::out_of_range:
      return kExitUsage;
    case Errc::not_found:
    case Errc::no_device:
      return kExitNotFound;
    case Errc::already_exists:
    case Errc::busy:
    case Errc::conflict:
      return kExitConflict;
    case Errc::timed_out:
      return kExitTimedOut;
    case Errc::unreachable:
      return kExitUnreachable;
    default:
      return kExitFailed;
  }
}

Errc errc_named(std::string_view name) {
  for (int code = static_cast<int>(Errc::invalid_argument); code <= static_cast<int>(Errc::internal); ++code)
    if (name_of(static_cast<Errc>(code)) == name) return static_cast<Errc>(code);
  return Errc::internal;
}

}  // namespace diskengine::control::cli
