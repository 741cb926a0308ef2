// What a disk holds, told by the marks that partition tables, file systems, volume managers and blobstores leave at
// known places: to ask before a disk is overwritten. docs/formats/disk-signatures.md is its page.
//
// Pure, no I/O; any thread. What is on a disk is hostile: nothing is read outside the two pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace diskengine::spec {

// How much of a disk's start and of its end there is to look at; all of it, for a disk that is smaller.
inline constexpr size_t kSignatureHeadBytes = 1 << 20;
inline constexpr size_t kSignatureTailBytes = 1 << 16;

struct DiskPieces {
  std::span<const uint8_t> head;
  std::span<const uint8_t> tail;  // the last bytes of the disk; may overlap with the head
};

// Names of what was found ("GPT partition table", "ext file system", ...), each once; empty: nothing that is known.
std::vector<std::string_view> find_signatures(const DiskPieces& disk);
// True if there is not a single bit set in the pieces.
bool is_blank(const DiskPieces& disk) noexcept;

}  // namespace diskengine::spec
