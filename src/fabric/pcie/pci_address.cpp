#include <fmt/format.h>

#include <charconv>

#include "fabric/pcie/pci_device.h"

namespace diskengine::fabric::pcie {
namespace {

constexpr unsigned kDomainMax = 0xfffff;  // beyond 16 bits behind a volume management device
constexpr unsigned kBusMax = 0xff;
constexpr unsigned kDeviceMax = 0x1f;
constexpr unsigned kFunctionMax = 7;

// One hexadecimal number at the front of `rest`, which moves past it.
bool take_number(std::string_view& rest, unsigned max, unsigned* number) {
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), *number, 16);
  if (error != std::errc() || *number > max) return false;
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  return true;
}

bool take_separator(std::string_view& rest) {
  if (rest.empty() || (rest.front() != ':' && rest.front() != '.')) return false;
  rest.remove_prefix(1);
  return true;
}

}  // namespace

Result<std::string> normal_pci_address(const std::string& text) {
  size_t separators = 0;
  for (const char c : text) separators += c == ':' || c == '.' ? 1 : 0;
  std::string_view rest = text;
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
  unsigned function = 0;
  bool good = separators == 2 || separators == 3;
  if (separators == 3) good = take_number(rest, kDomainMax, &domain) && take_separator(rest);
  good = good && take_number(rest, kBusMax, &bus) && take_separator(rest) && take_number(rest, kDeviceMax, &device) &&
         take_separator(rest) && take_number(rest, kFunctionMax, &function) && rest.empty();
  if (!good)
    return Error(Errc::invalid_argument,
                 fmt::format("'{}' is no PCI address; one looks like 0000:00:04.0, as lspci -D prints it", text));
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", domain, bus, device, function);
}

}  // namespace diskengine::fabric::pcie
