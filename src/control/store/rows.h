// How lists of ids stand in a text column: "12,13".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace diskengine::control {

std::string text_from_ids(const std::vector<int64_t>& ids);
// Stops at the first thing that is no id.
std::vector<int64_t> ids_from_text(std::string_view text);

}  // namespace diskengine::control
