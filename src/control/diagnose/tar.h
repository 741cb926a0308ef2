// Writes a POSIX ustar archive in memory: plain files, mode 0600, names up to 99 bytes or up to
// 154 before and 99 behind their last slash. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace diskengine::control {

class TarWriter {
 public:
  // `modified_s` is the unix time that every member bears.
  explicit TarWriter(int64_t modified_s) : modified_s_(modified_s) {}

  // `invalid_argument` for a name that does not fit.
  Result<void> add(std::string_view name, std::string_view content);
  // The archive with its end; the writer is done then.
  std::string finish();

 private:
  int64_t modified_s_;
  std::string bytes_;
};

}  // namespace diskengine::control
