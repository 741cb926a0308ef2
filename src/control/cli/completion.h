// Shell completion scripts, generated from the command tree: what the parser accepts is what the shell offers.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace CLI {
class App;
}

namespace diskengine::control::cli {

// `shell`: bash, zsh or fish.
Result<std::string> completion_script(const CLI::App& root, std::string_view shell);

}  // namespace diskengine::control::cli
