// Takes secrets out of what is shown to others: keys of NVMe in-band authentication and TLS, and passwords, by the
// names of members and by what texts look like. Pure; any thread.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <string_view>

namespace diskengine::control {

inline constexpr std::string_view kRedacted = "(redacted)";

// "postgresql://me:secret@db/x", "password=secret", "DHHC-1:...:", "NVMeTLSkey-1:...:" lose their secret part.
std::string redacted_text(std::string_view text);

// The value with every text in it as redacted_text() has it, and the members that hold a secret by their name replaced.
boost::json::value redacted(const boost::json::value& value);

}  // namespace diskengine::control
