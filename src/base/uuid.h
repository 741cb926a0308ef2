// A 128-bit UUID in its 16 bytes of RFC 4122 order.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace diskengine {

struct Uuid {
  std::array<uint8_t, 16> bytes{};

  auto operator<=>(const Uuid&) const = default;
  bool is_nil() const noexcept { return *this == Uuid{}; }
  // "00112233-4455-6677-8899-aabbccddeeff", lower case.
  std::string to_string() const;
  // Accepts either case, with or without dashes in their usual places.
  static Result<Uuid> parse(std::string_view text);
  // A version 4 UUID out of 128 random bits.
  static Uuid from_random(uint64_t high, uint64_t low) noexcept;
  // The same one for the same name (in the form of a version 8 UUID), never nil. Not for secrets: whoever wants to
  // finds two names with one UUID.
  static Uuid from_name(std::string_view name) noexcept;
};

}  // namespace diskengine
