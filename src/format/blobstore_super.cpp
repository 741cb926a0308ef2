// Super block and masks.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/endian.h"
#include "format/blobstore.h"

namespace diskengine::spec::blobstore {
namespace {

constexpr char kSignature[8] = {'S', 'P', 'D', 'K', 'B', 'L', 'O', 'B'};

Error corrupt(const std::string& what) { return Error(Errc::corrupt, "blobstore super block: " + what); }
Error unsupported(const std::string& what) { return Error(Errc::not_supported, "blobstore super block: " + what); }

uint32_t checksum(PageBytes page) noexcept { return crc32c(page.data(), kCrcAt); }

Seal seal_of(PageBytes page) {
  const auto stored = load_le<uint32_t>(page.data() + kCrcAt);
  if (checksum(page) == stored) return Seal::good;
  Page other;
  std::copy(page.begin(), page.end(), other.begin());
  for (const uint32_t clean : {0u, 1u}) {
    store_le(other.data() + offsetof(SuperRecord, clean), clean);
    if (checksum(other) == stored) return Seal::torn_flag;
  }
  return Seal::broken;
}

bool holds_mask(const PageRange& range, uint64_t bits) noexcept { return range.length >= mask_pages(bits); }

// Super block, page mask, cluster mask, blob id mask and metadata lie in this order and do not overlap.
Result<void> check_places(const Super& super) {
  const auto end = [](const PageRange& range) { return uint64_t{range.start} + range.length; };
  if (super.used_page_mask.start < 1 || end(super.used_page_mask) > super.used_cluster_mask.start)
    return corrupt("the mask of used pages lies over something else");
  const bool has_ids = super.used_blobid_mask.length != 0;
  const uint64_t after_clusters = has_ids ? super.used_blobid_mask.start : super.md_start;
  if (end(super.used_cluster_mask) > after_clusters)
    return corrupt("the mask of used clusters lies over something else");
  if (has_ids && end(super.used_blobid_mask) > super.md_start)
    return corrupt("the mask of used blob ids lies over something else");
  if (!holds_mask(super.used_page_mask, super.md_len) || !holds_mask(super.used_cluster_mask, super.total_clusters()) ||
      (has_ids && !holds_mask(super.used_blobid_mask, super.md_len)))
    return corrupt("a mask is too short for what it describes");
  return {};
}

Result<void> check_sizes(const Super& super, uint64_t device_bytes) {
  if (super.cluster_bytes == 0 || super.cluster_bytes % kPageBytes != 0)
    return corrupt(fmt::format("a cluster size of {} bytes is no multiple of {}", super.cluster_bytes, kPageBytes));
  if (super.io_unit_bytes != 512 && super.io_unit_bytes != 4096)
    return unsupported(fmt::format("I/O units of {} bytes; 512 and 4096 are known", super.io_unit_bytes));
  if (super.size_bytes > device_bytes)
    return corrupt(fmt::format("it describes {} bytes, the device has {}: it was cut short or is another one",
                               super.size_bytes, device_bytes));
  const uint64_t clusters = super.size_bytes / super.cluster_bytes;
  if (clusters == 0 || clusters >= UINT32_MAX)
    return corrupt(fmt::format("{} clusters of {} bytes", clusters, super.cluster_bytes));
  if (super.md_len == 0) return corrupt("it has no metadata pages");
  if (super.md_start == 0 || super.metadata_clusters() > clusters)
    return corrupt("its metadata is not within the device");
  if (super.super_blob != kNoBlob && !is_blob_id(super.super_blob, super.md_len))
    return corrupt(fmt::format("its super blob {:#x} is no blob", super.super_blob));
  return {};
}

std::string text_of(const uint8_t (&field)[kTypeBytes]) {
  const char* text = reinterpret_cast<const char*>(field);
  return {text, strnlen(text, kTypeBytes)};
}

}  // namespace

uint64_t Super::clusters_max() const noexcept {
  const uint32_t end = used_blobid_mask.length != 0 ? used_blobid_mask.start : md_start;
  const uint64_t bytes = uint64_t{end - used_cluster_mask.start} * kPageBytes - kMaskHeaderBytes;
  return std::min<uint64_t>(bytes * 8, UINT32_MAX - 1);
}

Result<FoundSuper> decode_super(PageBytes page, uint64_t device_bytes) {
  const auto record = load_le<SuperRecord>(page.data());
  if (std::memcmp(record.signature, kSignature, sizeof kSignature) != 0)
    return Error(Errc::not_found, "there is no blobstore");
  FoundSuper found;
  found.seal = seal_of(page);
  if (record.version < 1 || record.version > kVersion)
    return unsupported(fmt::format("version {}; 1 to {} are known", record.version, kVersion));
  if (record.md_page_size != 0 && record.md_page_size != kPageBytes)
    return unsupported(fmt::format("metadata pages of {} bytes; only {} are known", record.md_page_size, kPageBytes));
  Super& super = found.super;
  super.version = record.version;
  super.clean = record.clean == 1 && found.seal == Seal::good;
  super.super_blob = record.super_blob;
  super.cluster_bytes = record.cluster_size;
  super.used_page_mask = {record.used_page_mask_start, record.used_page_mask_len};
  super.used_cluster_mask = {record.used_cluster_mask_start, record.used_cluster_mask_len};
  super.used_blobid_mask = {record.used_blobid_mask_start, record.used_blobid_mask_len};
  super.md_start = record.md_start;
  super.md_len = record.md_len;
  super.type = text_of(record.bstype);
  super.size_bytes = record.size != 0 ? record.size : device_bytes;
  super.io_unit_bytes = record.io_unit_size != 0 ? record.io_unit_size : static_cast<uint32_t>(kPageBytes);
  TRY(check_sizes(super, device_bytes));
  TRY(check_places(super));
  return found;
}

void encode_super(const Super& super, Page& page) {
  DE_ASSERT(super.type.size() <= kTypeBytes);
  auto record = load_le<SuperRecord>(page.data());
  std::memcpy(record.signature, kSignature, sizeof kSignature);
  record.version = super.version;
  record.length = sizeof(SuperRecord);
  record.clean = super.clean ? 1 : 0;
  record.super_blob = super.super_blob;
  record.cluster_size = super.cluster_bytes;
  record.used_page_mask_start = super.used_page_mask.start;
  record.used_page_mask_len = super.used_page_mask.length;
  record.used_cluster_mask_start = super.used_cluster_mask.start;
  record.used_cluster_mask_len = super.used_cluster_mask.length;
  record.md_start = super.md_start;
  record.md_len = super.md_len;
  std::memset(record.bstype, 0, sizeof record.bstype);
  std::memcpy(record.bstype, super.type.data(), super.type.size());
  record.used_blobid_mask_start = super.used_blobid_mask.start;
  record.used_blobid_mask_len = super.used_blobid_mask.length;
  record.size = super.size_bytes;
  record.io_unit_size = super.io_unit_bytes;
  record.md_page_size = kPageBytes;
  store_le(page.data(), record);
  store_le(page.data() + kCrcAt, checksum(page));
}

Result<Super> lay_out(const NewStore& store) {
  const auto invalid = [](std::string why) { return Error(Errc::invalid_argument, std::move(why)); };
  if (store.cluster_bytes == 0 || store.cluster_bytes % kPageBytes != 0)
    return invalid(fmt::format("a cluster size of {} bytes is no multiple of {}", store.cluster_bytes, kPageBytes));
  if (store.block_bytes != 512 && store.block_bytes != 4096)
    return invalid(fmt::format("a block size of {} bytes is neither 512 nor 4096", store.block_bytes));
  const uint64_t clusters = store.device_bytes / store.cluster_bytes;
  if (clusters == 0)
    return Error(Errc::no_space, fmt::format("the device has {} bytes, less than one cluster of {}", store.device_bytes,
                                             store.cluster_bytes));
  if (clusters >= UINT32_MAX) return invalid(fmt::format("{} clusters are too many: use larger ones", clusters));
  if (store.md_len == 0) return invalid("there would be no metadata pages: raise their share");
  Super super;
  super.type = kLvolStoreType;
  super.cluster_bytes = store.cluster_bytes;
  super.size_bytes = store.device_bytes;
  super.io_unit_bytes = store.block_bytes;
  const uint64_t page_mask = mask_pages(store.md_len);
  const uint64_t cluster_mask = mask_pages(clusters);
  const uint64_t md_start = 1 + page_mask + std::max(cluster_mask, page_mask) + page_mask;
  const uint64_t md_pages = md_start + store.md_len;
  if (md_pages > clusters * (store.cluster_bytes / kPageBytes) || md_pages > UINT32_MAX)
    return Error(Errc::no_memory,
                 fmt::format("{} metadata pages do not fit on the device: lower their share, or take larger clusters",
                             store.md_len));
  super.used_page_mask = {1, static_cast<uint32_t>(page_mask)};
  super.used_cluster_mask = {super.used_page_mask.start + super.used_page_mask.length,
                             static_cast<uint32_t>(cluster_mask)};
  super.used_blobid_mask = {static_cast<uint32_t>(md_start - page_mask), static_cast<uint32_t>(page_mask)};
  super.md_start = static_cast<uint32_t>(md_start);
  super.md_len = static_cast<uint32_t>(store.md_len);
  return super;
}

Result<std::span<const uint8_t>> decode_mask(std::span<const uint8_t> bytes, MaskType type, uint32_t bits) {
  const size_t length = (size_t{bits} + 7) / 8;
  if (bytes.size() < kMaskHeaderBytes + length) return Error(Errc::corrupt, "a blobstore mask is cut short");
  if (bytes[0] != static_cast<uint8_t>(type))
    return Error(Errc::corrupt, fmt::format("a blobstore mask has type {}, not {}", bytes[0], static_cast<int>(type)));
  const auto stored = load_le<uint32_t>(bytes.data() + 1);
  const bool fits = type == MaskType::used_clusters ? stored >= bits : stored == bits;
  if (!fits) return Error(Errc::corrupt, fmt::format("a blobstore mask has {} bits, not {}", stored, bits));
  return bytes.subspan(kMaskHeaderBytes, length);
}

void encode_mask(MaskType type, uint32_t bits, std::span<const uint8_t> mask, std::span<uint8_t> bytes) {
  DE_ASSERT(bytes.size() >= mask_pages(bits) * kPageBytes && mask.size() == (size_t{bits} + 7) / 8);
  std::fill(bytes.begin(), bytes.end(), uint8_t{0});
  bytes[0] = static_cast<uint8_t>(type);
  store_le(bytes.data() + 1, bits);
  std::copy(mask.begin(), mask.end(), bytes.begin() + kMaskHeaderBytes);
  if (bits % 8 != 0) bytes[kMaskHeaderBytes + mask.size() - 1] &= static_cast<uint8_t>((1u << (bits % 8)) - 1);
}

}  // namespace diskengine::spec::blobstore
