// What callers of the lvol stores say and are told: options, descriptions of stores and lvols, reports. Plain values,
// any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/uuid.h"

namespace diskengine::lvol {

inline constexpr uint32_t kDefaultClusterBytes = 1024 * 1024;  // docs/lvol.md says why; SPDK takes 4 MiB
// As SPDK has it: names are shorter than this many bytes.
inline constexpr size_t kNameBytes = 64;
// lvols of one store, snapshots included; one more is refused with Errc::no_space.
inline constexpr size_t kLvolsMax = 65536;
inline constexpr size_t kStoresMax = 256;

// What happens to clusters that are given up. `by_default` is unmap.
enum class ClearMethod : uint8_t { by_default = 0, none = 1, unmap = 2, write_zeroes = 3 };

struct CreateStore {
  std::string base_bdev;
  std::string name;
  // 0: kDefaultClusterBytes. A multiple of 4096 and of the disk's block size.
  uint32_t cluster_bytes = 0;
  ClearMethod clear_method = ClearMethod::by_default;  // for the whole disk, when the store is made
  // Metadata pages in percent of the clusters; 0: 100.
  uint32_t md_pages_per_cluster_percent = 0;
  // 0 or 4096: other sizes are refused with Errc::invalid_argument.
  uint32_t md_page_bytes = 0;
  Uuid uuid{};  // nil: a random one
};

// Where a lvol store stands. Clusters are counted without those of the metadata.
struct StoreInfo {
  Uuid uuid;
  std::string name;
  std::string base_bdev;
  uint64_t total_data_clusters = 0;
  uint64_t free_clusters = 0;
  uint32_t block_size = 0;     // bytes
  uint32_t cluster_bytes = 0;  // bytes
  uint64_t size_bytes = 0;     // of the disk that the store uses
  uint64_t max_growable_bytes = 0;
  uint32_t md_pages = 0;
  uint32_t md_pages_used = 0;
  uint64_t lvols = 0;
  uint64_t damaged = 0;
  bool was_recovered = false;  // it had not been unloaded when it was loaded
  // Not empty: metadata can no longer be written; what is allocated is still served. Says why.
  std::string frozen_reason;
};

struct LvolInfo {
  Uuid uuid;
  std::string name;
  std::string alias;        // "store/name"
  std::string device_name;  // of its block device: the UUID's text
  Uuid store_uuid;
  std::string store_name;
  std::string base_bdev;
  uint64_t blob_id = 0;
  uint64_t clusters = 0;
  uint64_t size_bytes = 0;
  uint32_t cluster_bytes = 0;
  uint64_t allocated_clusters = 0;  // of its own
  uint64_t unique_clusters = 0;     // of those, the ones that no clone shows: they would be freed with it
  uint64_t shared_clusters = 0;     // of its parents, shown by it
  bool thin = false;
  bool read_only = false;
  bool snapshot = false;     // other lvols are based on it
  bool clone = false;        // its parent is a snapshot of its store
  bool esnap_clone = false;  // its parent is a device outside the store
  bool degraded = false;     // that device is missing: what would be read from it fails
  std::string parent_name;   // of the snapshot it is a clone of
  std::string esnap_id;      // the outside device's UUID text
  std::vector<std::string> clone_names;
  ClearMethod clear_method = ClearMethod::by_default;
  bool pause_when_full = false;

  uint64_t allocated_bytes() const noexcept { return allocated_clusters * cluster_bytes; }
  uint64_t unique_bytes() const noexcept { return unique_clusters * cluster_bytes; }
  uint64_t shared_bytes() const noexcept { return shared_clusters * cluster_bytes; }
};

// A lvol that could not be loaded. It has no device; deleting it gives back what is known to be its own.
struct DamagedLvol {
  Uuid uuid;         // nil if it cannot be read
  std::string name;  // empty if it cannot be read
  uint64_t blob_id = 0;
  std::string store_name;
  std::string reason;
};

struct CreateLvol {
  std::string store;  // UUID text or name
  std::string name;
  uint64_t size_bytes = 0;  // rounded up to whole clusters
  bool thin = false;
  ClearMethod clear_method = ClearMethod::by_default;
  Uuid uuid{};  // nil: a random one
};

struct ShallowCopyStatus {
  uint32_t operation_id = 0;
  uint64_t copied_clusters = 0;
  uint64_t total_clusters = 0;
  bool ended = false;
  std::string error;       // empty: none
  int negative_errno = 0;  // of `error`
};

// One thing that `check` found wrong.
struct Finding {
  enum class Kind : uint8_t {
    damaged_lvol,       // its metadata cannot be read; the lvol is lost unless its pages come back
    missing_parent,     // its snapshot does not exist
    double_cluster,     // claimed by two lvols
    double_page,        // a metadata page claimed twice
    leaked_clusters,    // marked used on disk, belong to nobody: repaired
    leaked_pages,       // metadata pages, likewise: repaired
    unmarked_clusters,  // in use but marked free on disk: repaired
    unmarked_pages,     // likewise: repaired
    bad_mask,           // a mask cannot be read: repaired
    super_block,        // its checksum is wrong but it can be made out: repaired
    stale_page,         // a metadata page differs from what is in memory
  };
  Kind kind = Kind::damaged_lvol;
  uint64_t blob_id = 0;  // 0: none in particular
  uint64_t count = 0;    // clusters or pages
  bool repairable = false;
  bool repaired = false;
  std::string text;  // for people
};
std::string_view name_of(Finding::Kind kind) noexcept;

struct CheckReport {
  Uuid store_uuid;
  std::string store_name;
  bool clean = false;  // the store had been unloaded
  uint64_t lvols = 0;
  uint64_t clusters_total = 0;
  uint64_t clusters_used = 0;
  uint64_t pages_total = 0;
  uint64_t pages_used = 0;
  std::vector<Finding> findings;  // at most kFindingsMax
  uint64_t findings_left_off = 0;
  static constexpr size_t kFindingsMax = 1000;
  bool sound() const noexcept { return findings.empty(); }
};

}  // namespace diskengine::lvol
