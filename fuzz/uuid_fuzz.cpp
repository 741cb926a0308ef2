// Uuid::parse on arbitrary text: what it accepts prints back as the same identifier.
#include "base/uuid.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using diskengine::Uuid;
  const auto parsed = Uuid::parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (parsed) {
    const auto again = Uuid::parse(parsed->to_string());
    DE_ASSERT(again && *again == *parsed);
  }
  return 0;
}
