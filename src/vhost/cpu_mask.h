// SPDK's notation of sets of cores: a hexadecimal mask ("0x3", "3") or a list ("[0,2-3]"). Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace diskengine::vhost {

inline constexpr unsigned kCoresMax = 1024;

// In ascending order, at least one.
Result<std::vector<unsigned>> parse_cpu_mask(std::string_view text);
// As a mask: "0x5".
std::string format_cpu_mask(const std::vector<unsigned>& cores);

}  // namespace diskengine::vhost
