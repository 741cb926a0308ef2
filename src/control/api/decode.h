// What people send to the API, checked: every member is known, of the right type and within its limits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "control/model.h"
#include "control/storagenode/disk_init.h"

namespace diskengine::control {

inline constexpr int64_t kMinVolumeBytes = kClusterBytes;
inline constexpr int64_t kMaxVolumeBytes = int64_t{1} << 46;  // 64 TiB
inline constexpr int64_t kVolumeGranularityBytes = kClusterBytes;
inline constexpr int64_t kMinReplicas = 2;
inline constexpr int64_t kMaxReplicas = 4;

struct DiskRequest {
  std::string node;
  std::string path;  // absolute, or a PCI address, or "serial:" and a serial number
  int64_t block_size = 512;
  bool overwrite = false;
};

struct VolumeRequest {
  std::string name;
  int64_t size_bytes = 0;
  int64_t block_size = 512;
  int64_t replicas = 2;
  std::optional<bool> superblock;  // not given: as the compute nodes that are known can use it
};

struct AttachmentRequest {
  std::string volume;
  std::string node;  // empty: the only compute node
};

// Letters, digits, '.', '_' and '-', starting with a letter, at most 63.
Result<void> check_name(std::string_view what, std::string_view name);
// "10.0.0.1:4420" or "[fd00::1]:4420" into a node's address and port.
Result<void> parse_address(std::string_view text, Node* node);
// Checks what a node needs for its role.
Result<void> check_node(const Node& node);

// The node that an attachment is to move to.
Result<std::string> decode_move(const std::string& body);
Result<Node> decode_node(const std::string& body);
Result<DiskRequest> decode_disk(const std::string& body);
Result<VolumeRequest> decode_volume(const std::string& body);
Result<AttachmentRequest> decode_attachment(const std::string& body);

}  // namespace diskengine::control
