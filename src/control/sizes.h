// Sizes and times as people write them. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace diskengine::control {

// "1GiB", "512 MiB", "10G" (binary: 10 GiB), "1GB" (decimal), "4096" (bytes). Fractions ("1.5GiB") where they come out
// as whole bytes.
Result<int64_t> parse_size(std::string_view text);
// "1 GiB", "1.5 GiB", "4096 B": at most one decimal.
std::string format_size(int64_t bytes);

// "30s", "5m", "1h", "250ms", or a number of seconds.
Result<int64_t> parse_duration_ms(std::string_view text);
// "45 s", "3 min 20 s", "2 h 5 min".
std::string format_duration(int64_t ms);

}  // namespace diskengine::control
