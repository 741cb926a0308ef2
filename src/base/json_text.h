// Text made safe to stand inside JSON that is put together by hand. Any thread.
#pragma once

#include <string>
#include <string_view>

namespace diskengine {

// `text` in double quotes, with what JSON does not allow in a string escaped.
std::string json_quote(std::string_view text);

}  // namespace diskengine
