#include "control/diagnose/tar.h"

#include <fmt/format.h>

#include <cstring>

namespace diskengine::control {
namespace {

constexpr size_t kBlockBytes = 512;

// POSIX.1-2017, pax: ustar Interchange Format. Numbers are octal digits.
struct UstarHeader {
  char name[100];
  char mode[8];
  char uid[8];
  char gid[8];
  char size[12];
  char mtime[12];
  char checksum[8];
  char typeflag;
  char linkname[100];
  char magic[6];
  char version[2];
  char uname[32];
  char gname[32];
  char devmajor[8];
  char devminor[8];
  char prefix[155];
  char unused[12];
};
static_assert(sizeof(UstarHeader) == kBlockBytes);
static_assert(offsetof(UstarHeader, checksum) == 148 && offsetof(UstarHeader, magic) == 257);

// With the closing NUL that the zeroed field has.
template <size_t kSize>
void put_octal(char (&field)[kSize], uint64_t number) {
  const std::string digits = fmt::format("{:0{}o}", number, kSize - 1);
  std::memcpy(field, digits.data(), std::min(digits.size(), kSize - 1));
}

// A name that is too long for its field is split at its last slash.
Result<void> put_name(std::string_view name, UstarHeader* header) {
  const size_t slash = name.size() < sizeof header->name ? std::string_view::npos : name.rfind('/');
  const std::string_view prefix = slash == std::string_view::npos ? std::string_view() : name.substr(0, slash);
  const std::string_view rest = slash == std::string_view::npos ? name : name.substr(slash + 1);
  if (rest.empty() || rest.size() >= sizeof header->name || prefix.size() >= sizeof header->prefix)
    return Error(Errc::invalid_argument, fmt::format("'{}' does not fit as a name in an archive", name));
  rest.copy(header->name, rest.size());
  prefix.copy(header->prefix, prefix.size());
  return {};
}

void put_checksum(UstarHeader* header) {
  std::memset(header->checksum, ' ', sizeof header->checksum);
  unsigned sum = 0;
  const auto* bytes = reinterpret_cast<const unsigned char*>(header);
  for (size_t i = 0; i < sizeof *header; ++i) sum += bytes[i];
  const std::string digits = fmt::format("{:06o}", sum);
  std::memcpy(header->checksum, digits.data(), digits.size());
  header->checksum[6] = '\0';
}

}  // namespace

Result<void> TarWriter::add(std::string_view name, std::string_view content) {
  UstarHeader header{};
  TRY(put_name(name, &header));
  put_octal(header.mode, 0600);
  put_octal(header.uid, 0);
  put_octal(header.gid, 0);
  put_octal(header.size, content.size());
  put_octal(header.mtime, static_cast<uint64_t>(modified_s_));
  header.typeflag = '0';
  std::memcpy(header.magic, "ustar", 6);
  std::memcpy(header.version, "00", 2);
  put_checksum(&header);
  bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
  bytes_ += content;
  bytes_.append((kBlockBytes - content.size() % kBlockBytes) % kBlockBytes, '\0');
  return {};
}

std::string TarWriter::finish() {
  bytes_.append(2 * kBlockBytes, '\0');
  return std::move(bytes_);
}

}  // namespace diskengine::control
