#include "format/disk_signatures.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/endian.h"

namespace diskengine::spec {
namespace {

using namespace std::string_view_literals;

struct Signature {
  std::string_view name;
  size_t offset;
  std::string_view mark;
};

// At the start of a disk.
constexpr Signature kAtHead[] = {
    {"blobstore (lvol store)"sv, 0, "SPDKBLOB"sv},
    {"mirror's superblock"sv, 0, "SPDKRAID"sv},
    {"ext file system"sv, 1024 + 56, "\x53\xef"sv},
    {"XFS file system"sv, 0, "XFSB"sv},
    {"Btrfs file system"sv, 0x10040, "_BHRfS_M"sv},
    {"F2FS file system"sv, 1024, "\x10\x20\xf5\xf2"sv},
    {"NTFS file system"sv, 3, "NTFS    "sv},
    {"exFAT file system"sv, 3, "EXFAT   "sv},
    {"FAT file system"sv, 54, "FAT1"sv},
    {"FAT file system"sv, 82, "FAT32   "sv},
    {"ISO 9660 file system"sv, 0x8001, "CD001"sv},
    {"SquashFS file system"sv, 0, "hsqs"sv},
    {"EROFS file system"sv, 1024, "\xe2\xe1\xf5\xe0"sv},
    {"bcache device"sv, 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"sv},
    {"encrypted volume (LUKS)"sv, 0, "LUKS\xba\xbe"sv},
    {"swap space"sv, 4096 - 10, "SWAPSPACE2"sv},
    {"software RAID member (md)"sv, 0, "\xfc\x4e\x2b\xa9"sv},
    {"software RAID member (md)"sv, 4096, "\xfc\x4e\x2b\xa9"sv},
    {"Ceph BlueStore"sv, 0, "bluestore block device"sv},
};

bool has(std::span<const uint8_t> bytes, size_t offset, std::string_view mark) noexcept {
  return in_range(offset, mark.size(), bytes.size()) && std::memcmp(&bytes[offset], mark.data(), mark.size()) == 0;
}

// A boot sector's mark is shared by partition tables and by FAT; the former has an entry that is in use.
bool has_mbr(std::span<const uint8_t> head) noexcept {
  constexpr size_t kEntries = 446;
  if (!has(head, 510, "\x55\xaa"sv)) return false;
  for (size_t i = 0; i < 4; ++i) {
    const uint8_t* const entry = &head[kEntries + i * 16];
    const bool sane = entry[0] == 0 || entry[0] == 0x80;
    if (sane && entry[4] != 0 && load_le<uint32_t>(entry + 12) != 0) return true;
  }
  return false;
}

bool has_gpt(const DiskPieces& disk) noexcept {
  constexpr std::string_view kMark = "EFI PART"sv;
  for (const size_t block : {size_t{512}, size_t{4096}}) {
    if (has(disk.head, block, kMark)) return true;
    if (disk.tail.size() >= block && has(disk.tail, disk.tail.size() - block, kMark)) return true;
  }
  return false;
}

// In one of the first four sectors.
bool has_lvm(std::span<const uint8_t> head) noexcept {
  for (size_t sector = 0; sector < 4; ++sector)
    if (has(head, sector * 512, "LABELONE"sv) && has(head, sector * 512 + 24, "LVM2 001"sv)) return true;
  return false;
}

// Labels of 256 KiB, two at each end; the magic number of one of the last uberblocks in a label's ring at 128 KiB.
bool has_zfs(std::span<const uint8_t> head) noexcept {
  constexpr std::string_view kMagic = "\x0c\xb1\xba\x00\x00\x00\x00\x00"sv;
  constexpr size_t kRing = 128 * 1024;
  for (const size_t label : {size_t{0}, size_t{256} * 1024})
    for (size_t at = 0; at < kRing; at += 1024)
      if (has(head, label + kRing + at, kMagic)) return true;
  return false;
}

// Versions 0.90 and 1.0 are in the last 128 KiB; these lie at multiples of 4096 from a 64 KiB boundary of the end.
bool has_md_at_end(std::span<const uint8_t> tail) noexcept {
  for (size_t back = 4096; back <= tail.size(); back += 4096)
    if (has(tail, tail.size() - back, "\xfc\x4e\x2b\xa9"sv)) return true;
  return false;
}

}  // namespace

std::vector<std::string_view> find_signatures(const DiskPieces& disk) {
  std::vector<std::string_view> found;
  const auto note = [&found](std::string_view name, bool there) {
    if (there && std::ranges::find(found, name) == found.end()) found.push_back(name);
  };
  note("GPT partition table", has_gpt(disk));
  note("MBR partition table", has_mbr(disk.head));
  for (const Signature& signature : kAtHead) note(signature.name, has(disk.head, signature.offset, signature.mark));
  note("LVM physical volume", has_lvm(disk.head));
  note("ZFS pool member", has_zfs(disk.head));
  note("software RAID member (md)", has_md_at_end(disk.tail));
  return found;
}

bool is_blank(const DiskPieces& disk) noexcept {
  const auto zero = [](uint8_t byte) { return byte == 0; };
  return std::ranges::all_of(disk.head, zero) && std::ranges::all_of(disk.tail, zero);
}

}  // namespace diskengine::spec
