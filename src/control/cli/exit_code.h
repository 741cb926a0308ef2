// The exit codes of the `diskengine` command, and how errors map to them.
#pragma once

#include "base/result.h"

namespace diskengine::control::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotFound = 3;
inline constexpr int kExitConflict = 4;
inline constexpr int kExitTimedOut = 5;
inline constexpr int kExitUnreachable = 6;

int exit_code_of(Errc code);
// The Errc whose name_of() is `name`; `internal` for a name that is not known.
Errc errc_named(std::string_view name);

}  // namespace diskengine::control::cli
