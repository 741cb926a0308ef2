#include "base/uuid.h"

#include <cstring>

namespace diskengine {
namespace {

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Every bit of the result depends on every bit of `value` (the last step of SplitMix64).
uint64_t mix(uint64_t value) noexcept {
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

}  // namespace

std::string Uuid::to_string() const {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  text.reserve(36);
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kHex[bytes[i] >> 4];
    text += kHex[bytes[i] & 15];
  }
  return text;
}

Result<Uuid> Uuid::parse(std::string_view text) {
  const bool dashed = text.size() == 36;
  Uuid uuid;
  size_t digits = 0;
  bool good = dashed || text.size() == 32;
  for (size_t i = 0; good && i < text.size(); ++i) {
    if (dashed && (i == 8 || i == 13 || i == 18 || i == 23)) {
      good = text[i] == '-';
      continue;
    }
    const int digit = hex_digit(text[i]);
    good = digit >= 0 && digits < 32;
    if (!good) break;
    uuid.bytes[digits / 2] = static_cast<uint8_t>(uuid.bytes[digits / 2] << 4 | digit);
    ++digits;
  }
  if (!good || digits != 32) {
    std::string message = "'";
    message.append(text.substr(0, 64));
    message += "' is not a UUID: expected 32 hexadecimal digits, as in 00112233-4455-6677-8899-aabbccddeeff";
    return Error(Errc::invalid_argument, std::move(message));
  }
  return uuid;
}

Uuid Uuid::from_random(uint64_t high, uint64_t low) noexcept {
  Uuid uuid;
  std::memcpy(uuid.bytes.data(), &high, 8);
  std::memcpy(uuid.bytes.data() + 8, &low, 8);
  uuid.bytes[6] = static_cast<uint8_t>((uuid.bytes[6] & 0x0f) | 0x40);
  uuid.bytes[8] = static_cast<uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

Uuid Uuid::from_name(std::string_view name) noexcept {
  uint64_t high = 0xcbf29ce484222325;  // FNV-1a, and the same from another start with another end
  uint64_t low = 0x9e3779b97f4a7c15;
  for (const char c : name) {
    high = (high ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    low = mix((low + static_cast<uint8_t>(c)) * 0x100000001b3);
  }
  Uuid uuid = from_random(mix(high), low);
  uuid.bytes[6] = static_cast<uint8_t>((uuid.bytes[6] & 0x0f) | 0x80);
  return uuid;
}

}  // namespace diskengine
