// The version, from the build's project().
#pragma once

namespace diskengine::app {

inline constexpr char kVersion[] = DISKENGINE_VERSION;
inline constexpr int kVersionMajor = DISKENGINE_VERSION_MAJOR;
inline constexpr int kVersionMinor = DISKENGINE_VERSION_MINOR;
inline constexpr int kVersionPatch = DISKENGINE_VERSION_PATCH;

}  // namespace diskengine::app
