// Assertions that stay on in release builds: what must be true of our own code. What a guest, a peer, a disk or a user
// sent is never asserted; it is checked and gets an error.
#pragma once

namespace diskengine {

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace diskengine

#define DE_ASSERT(expression)                                          \
  do {                                                                 \
    if (!(expression)) [[unlikely]]                                    \
      ::diskengine::assertion_failed(#expression, __FILE__, __LINE__); \
  } while (0)
