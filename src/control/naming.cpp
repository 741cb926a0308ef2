#include "control/naming.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/crc32c.h"

namespace diskengine::control {
namespace {

constexpr std::string_view kReplicaPart = "replica-";
constexpr size_t kSerialChars = 20;

bool is_plain(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
}

}  // namespace

std::string vhost_controller_name(int64_t volume_vm_mapping_id) { return fmt::format("vhost{}", volume_vm_mapping_id); }
std::string raid_bdev_name(int64_t volume_id) { return fmt::format("raid_{}", volume_id); }
std::string stand_in_name(int64_t volume_id, int64_t slot) { return fmt::format("standin_{}_{}", volume_id, slot); }
std::string nvme_disk_name(int64_t disk_id) { return fmt::format("NvmeDisk{}", disk_id); }
std::string nvme_disk_bdev_name(int64_t disk_id) { return nvme_disk_name(disk_id) + "n1"; }

bool is_pci_disk(std::string_view path) {
  constexpr std::string_view kSerial = "serial:";
  constexpr size_t kSerialChars = 20;  // as many as NVMe has room for
  if (path.starts_with(kSerial)) {
    path.remove_prefix(kSerial.size());
    return !path.empty() && path.size() <= kSerialChars &&
           std::all_of(path.begin(), path.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  }
  // dddd:bb:dd.f, where a domain may have five digits.
  constexpr std::string_view kForm = "hhhh:hh:hh.o";
  if (path.size() == kForm.size() + 1) path.remove_prefix(1);
  if (path.size() != kForm.size()) return false;
  for (size_t i = 0; i < path.size(); ++i) {
    const char c = path[i];
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (kForm[i] == 'h' ? !hex : kForm[i] == 'o' ? c < '0' || c > '7' : c != kForm[i]) return false;
  }
  return true;
}

std::string lvol_store_name(std::string_view disk_uuid) { return fmt::format("lvs_{}", disk_uuid); }
std::string lvol_name(int64_t lvol_id) { return fmt::format("lvol_{}", lvol_id); }
std::string lvol_alias(std::string_view disk_uuid, int64_t lvol_id) {
  return lvol_store_name(disk_uuid) + "/" + lvol_name(lvol_id);
}

std::string replica_nqn(std::string_view uuid) { return fmt::format("{}{}{}", kNqnPrefix, kReplicaPart, uuid); }

std::string host_nqn(int64_t volume_vm_mapping_id, int64_t epoch) {
  return fmt::format("{}host:{}:{}", kNqnPrefix, volume_vm_mapping_id, epoch);
}

std::string controller_name_from_nqn(std::string_view nqn) {
  if (nqn.starts_with(kNqnPrefix)) {
    const std::string_view own = nqn.substr(kNqnPrefix.size());
    if (own.starts_with(kReplicaPart) && std::all_of(own.begin(), own.end(), is_plain)) return std::string(own);
  }
  // A foreign NQN keeps its readable characters; a checksum tells apart what the replacement made equal.
  std::string name(nqn);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !is_plain(c); }, '_');
  return fmt::format("{}_{:08x}", name, crc32c(nqn.data(), nqn.size()));
}

std::string base_bdev_name_from_nqn(std::string_view nqn) { return controller_name_from_nqn(nqn) + "n1"; }

std::string serial_number_of(std::string_view lvol_uuid) {
  std::string serial;
  for (const char c : lvol_uuid)
    if (c != '-' && serial.size() < kSerialChars) serial.push_back(c);
  return serial;
}

}  // namespace diskengine::control
