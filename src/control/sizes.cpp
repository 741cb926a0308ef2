#include "control/sizes.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace diskengine::control {
namespace {

struct Unit {
  std::string_view name;
  int64_t factor;
};

constexpr int64_t kKi = 1024;
constexpr int64_t kMaxSize = int64_t{1} << 60;
constexpr Unit kSizeUnits[] = {
    {"", 1},
    {"b", 1},
    {"k", kKi},
    {"kib", kKi},
    {"m", kKi << 10},
    {"mib", kKi << 10},
    {"g", kKi << 20},
    {"gib", kKi << 20},
    {"t", kKi << 30},
    {"tib", kKi << 30},
    {"kb", 1000},
    {"mb", 1000'000},
    {"gb", 1000'000'000},
    {"tb", 1000'000'000'000},
};
constexpr Unit kTimeUnits[] = {{"ms", 1}, {"", 1000}, {"s", 1000}, {"m", 60'000}, {"min", 60'000}, {"h", 3'600'000}};

template <size_t N>
Result<int64_t> parse_with_units(std::string_view text, const Unit (&units)[N], std::string_view example) {
  const Error bad(Errc::invalid_argument, fmt::format("'{}' is not understood; write for example {}", text, example));
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) return bad;
  std::string unit;
  for (const char* at = stop; at < end; ++at)
    if (*at != ' ' || !unit.empty()) unit.push_back(static_cast<char>(*at >= 'A' && *at <= 'Z' ? *at + 32 : *at));
  for (const Unit& candidate : units) {
    if (candidate.name != unit) continue;
    const double value = number * static_cast<double>(candidate.factor);
    if (value > static_cast<double>(kMaxSize) || value != std::floor(value)) return bad;
    return static_cast<int64_t>(value);
  }
  return bad;
}

}  // namespace

Result<int64_t> parse_size(std::string_view text) { return parse_with_units(text, kSizeUnits, "512MiB, 1GiB or 4096"); }

std::string format_size(int64_t bytes) {
  constexpr std::string_view kNames[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < kKi) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / kKi;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kNames)) {
    value /= 1024;
    ++unit;
  }
  const double rounded = std::round(value * 10) / 10;
  return rounded == std::floor(rounded) ? fmt::format("{:.0f} {}", rounded, kNames[unit])
                                        : fmt::format("{:.1f} {}", rounded, kNames[unit]);
}

Result<int64_t> parse_duration_ms(std::string_view text) {
  return parse_with_units(text, kTimeUnits, "30s, 5m or 250ms");
}

std::string format_duration(int64_t ms) {
  const int64_t seconds = (ms + 999) / 1000;
  if (seconds < 60) return fmt::format("{} s", seconds);
  if (seconds < 3600) return fmt::format("{} min {} s", seconds / 60, seconds % 60);
  return fmt::format("{} h {} min", seconds / 3600, seconds / 60 % 60);
}

}  // namespace diskengine::control
