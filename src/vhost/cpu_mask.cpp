#include "vhost/cpu_mask.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

namespace diskengine::vhost {
namespace {

std::optional<unsigned> parse_core(std::string_view text) {
  unsigned core = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), core);
  if (error != std::errc() || end != text.data() + text.size() || core >= kCoresMax) return std::nullopt;
  return core;
}

std::optional<int> hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

// "0,2-3"
bool parse_list(std::string_view text, std::set<unsigned>& cores) {
  for (;;) {
    const size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const size_t dash = item.find('-');
    const std::optional<unsigned> first = parse_core(item.substr(0, dash));
    const std::optional<unsigned> last = dash == item.npos ? first : parse_core(item.substr(dash + 1));
    if (!first || !last || *last < *first) return false;
    for (unsigned core = *first; core <= *last; ++core) cores.insert(core);
    if (comma == text.npos) return true;
    text.remove_prefix(comma + 1);
  }
}

bool parse_hex(std::string_view text, std::set<unsigned>& cores) {
  if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2);
  if (text.empty() || text.size() > kCoresMax / 4) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::optional<int> digit = hex_digit(text[text.size() - 1 - i]);
    if (!digit) return false;
    for (unsigned bit = 0; bit < 4; ++bit)
      if ((*digit >> bit & 1) != 0) cores.insert(static_cast<unsigned>(i * 4 + bit));
  }
  return true;
}

}  // namespace

Result<std::vector<unsigned>> parse_cpu_mask(std::string_view text) {
  std::set<unsigned> cores;
  const bool list = text.size() > 2 && text.front() == '[' && text.back() == ']';
  const bool parsed = list ? parse_list(text.substr(1, text.size() - 2), cores) : parse_hex(text, cores);
  if (!parsed || cores.empty())
    return Error(Errc::invalid_argument,
                 fmt::format("'{}' is not a set of cores: a mask like 0x3 or a list like [0,2-3]", text));
  return std::vector<unsigned>(cores.begin(), cores.end());
}

std::string format_cpu_mask(const std::vector<unsigned>& cores) {
  std::string digits(cores.empty() ? 1 : *std::max_element(cores.begin(), cores.end()) / 4 + 1, '0');
  std::vector<unsigned> values(digits.size(), 0);
  for (const unsigned core : cores) values[core / 4] |= 1u << (core % 4);
  for (size_t i = 0; i < values.size(); ++i) digits[digits.size() - 1 - i] = "0123456789abcdef"[values[i]];
  return "0x" + digits;
}

}  // namespace diskengine::vhost
