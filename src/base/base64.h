// Base64 of RFC 4648 with padding. Any thread.
#pragma once

#include <string>
#include <string_view>

namespace diskengine {

std::string base64_encode(std::string_view bytes);

}  // namespace diskengine
