// What a controller says of itself and its namespaces: Identify.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/endian.h"
#include "nvmf/controller.h"
#include "nvmf/queue.h"
#include "nvmf/subsystem.h"
#include "nvmf/target.h"

namespace diskengine::nvmf {

using fabric::TargetCommand;
using spec::Cns;
using spec::Status;

namespace {

constexpr uint8_t kCommandSetNvm = 0;

template <size_t N>
void put_text(char (&field)[N], const std::string& text) noexcept {
  std::memset(field, ' ', N);
  std::memcpy(field, text.data(), std::min(N, text.size()));
}

// `process` names this run of the process, with which a device's unflushed writes end unless it says otherwise.
spec::IdentifyNamespace identify_namespace(const Namespace& ns, const Uuid& process) {
  const DeviceInfo& info = ns.device().info();
  spec::IdentifyNamespace id{};
  id.size_blocks = id.capacity_blocks = id.used_blocks = ns.device().size_blocks();
  id.lba_format_table[0].data_size_log2 = static_cast<uint8_t>(std::countr_zero(info.block_size));
  id.nmic = spec::kNsShared;
  id.deallocate_features = info.can_unmap && info.can_write_zeroes ? spec::kNsWriteZeroesDeallocate : 0;
  id.optimal_io_boundary = static_cast<uint16_t>(info.optimal_blocks <= 0xffff ? info.optimal_blocks : 0);
  id.capacity_bytes.low = ns.device().size_blocks() * info.block_size;
  id.attributes = ns.device().read_only() ? spec::kNsReadOnly : 0;
  std::memcpy(id.nguid, ns.ids().nguid.data(), sizeof id.nguid);
  std::memcpy(id.eui64, ns.ids().eui64.data(), sizeof id.eui64);
  const Uuid cache = ns.device().cache_instance();
  spec::put_instance(id, cache.is_nil() ? process : cache);
  return id;
}

// The same, in the form that does not depend on the command set (base 2.0 figure 280).
std::array<uint8_t, 16> identify_independent(const Namespace& ns) noexcept {
  std::array<uint8_t, 16> id{};
  id[1] = spec::kNsShared;
  id[8] = ns.device().read_only() ? spec::kNsReadOnly : 0;
  id[14] = 1;  // ready
  return id;
}

void add_descriptor(std::vector<uint8_t>& list, spec::NsDescriptorType type, std::span<const uint8_t> value) {
  spec::NsDescriptorHeader header;
  header.type = static_cast<uint8_t>(type);
  header.length = static_cast<uint8_t>(value.size());
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  list.insert(list.end(), bytes, bytes + sizeof header);
  list.insert(list.end(), value.begin(), value.end());
}

bool all_zero(std::span<const uint8_t> bytes) noexcept {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

std::vector<uint8_t> descriptors_of(const Namespace& ns) {
  std::vector<uint8_t> list;
  const NamespaceIds& ids = ns.ids();
  if (!all_zero(ids.eui64)) add_descriptor(list, spec::NsDescriptorType::eui64, ids.eui64);
  if (!all_zero(ids.nguid)) add_descriptor(list, spec::NsDescriptorType::nguid, ids.nguid);
  if (!ids.uuid.is_nil()) add_descriptor(list, spec::NsDescriptorType::uuid, ids.uuid.bytes);
  const uint8_t command_set = kCommandSetNvm;
  add_descriptor(list, spec::NsDescriptorType::command_set, {&command_set, 1});
  return list;
}

}  // namespace

spec::IdentifyController Controller::identify_controller(const QueueRecord& queue) const {
  spec::IdentifyController id{};
  put_text(id.serial_number, subsystem_.options().serial_number);
  put_text(id.model_number, subsystem_.options().model_number);
  put_text(id.firmware_revision, kFirmwareRevision);
  id.cntlid = identity_.id;
  id.version = spec::nvme_version(1, 4);
  id.controller_type =
      static_cast<uint8_t>(is_discovery() ? spec::ControllerType::discovery : spec::ControllerType::io);
  id.mdts = static_cast<uint8_t>(std::countr_zero(queue.options.max_io_bytes / cap_.page_bytes_min()));
  id.ctratt = spec::kCtrattHostId128;
  id.acl = 3;
  id.aerl = kAsyncEventsMax - 1;
  id.frmw = 0x03;  // one slot, read only
  id.lpa = spec::kLpaExtended;
  id.keep_alive_granularity = kKeepAliveGranularity;
  id.maxcmd = static_cast<uint16_t>(queue.options.max_queue_depth);
  id.sgls = spec::kSglsSupported | spec::kSglsOffset;
  if (queue.listen_address.type == "RDMA") id.sgls |= spec::kSglsKeyed;
  std::memcpy(id.subsystem_nqn, subsystem_.nqn().data(), subsystem_.nqn().size());
  id.ioccsz = (sizeof(spec::Sqe) + queue.options.in_capsule_bytes) / 16;
  id.iorcsz = sizeof(spec::Cqe) / 16;
  id.msdbd = 1;
  if (is_discovery()) {
    id.oaes = spec::kAsyncDiscoveryChange;
    return id;
  }
  id.cmic = spec::kCmicMultipleControllers;
  id.oaes = spec::kAsyncNamespaceAttribute;
  id.sqes = spec::kQueueEntrySizes;
  id.cqes = spec::kCompletionEntrySizes;
  id.namespaces = id.namespaces_allowed = subsystem_.options().max_namespaces;
  id.oncs = spec::kOncsDatasetManagement | spec::kOncsWriteZeroes;
  if (subsystem_.every_namespace_compares()) id.oncs |= spec::kOncsCompare;
  id.vwc = static_cast<uint8_t>(2u << 1 | (subsystem_.any_namespace_caches() ? spec::kVwcPresent : 0));
  spec::put_instance(id, subsystem_.target().instance());
  return id;
}

void Controller::identify(QueueRecord& queue, TargetCommand& command) {
  const auto cns = static_cast<uint8_t>(command.sqe.cdw10);
  const uint32_t nsid = command.sqe.nsid;
  const auto command_set = static_cast<uint8_t>(command.sqe.cdw11 >> 24);
  if (command.data_bytes != spec::kIdentifyBytes) return set_status(command, Status::invalid_sgl_data_length);
  if (cns == Cns::controller) {
    const spec::IdentifyController id = identify_controller(queue);
    return put_data(command, &id, sizeof id);
  }
  if (is_discovery()) return set_status(command, Status::invalid_field);

  const bool for_namespace = cns == Cns::ns || cns == Cns::ns_descriptors || cns == Cns::csi_ns ||
                             cns == Cns::csi_independent_ns || cns == Cns::allocated_ns;
  const Namespace* ns = for_namespace ? subsystem_.find_namespace(nsid) : nullptr;
  if (for_namespace && (nsid == 0 || nsid > subsystem_.options().max_namespaces))
    return set_status(command, Status::invalid_namespace);
  // Of a namespace that is not there, all zeroes.
  if (for_namespace && ns == nullptr) {
    if (cns == Cns::ns_descriptors) return set_status(command, Status::invalid_namespace);
    return put_data(command, nullptr, 0);
  }
  switch (cns) {
    case Cns::ns:
    case Cns::allocated_ns: {
      const spec::IdentifyNamespace id = identify_namespace(*ns, subsystem_.target().instance());
      return put_data(command, &id, sizeof id);
    }
    case Cns::ns_descriptors: {
      const std::vector<uint8_t> list = descriptors_of(*ns);
      return put_data(command, list.data(), list.size());
    }
    case Cns::csi_independent_ns: {
      const auto id = identify_independent(*ns);
      return put_data(command, id.data(), id.size());
    }
    case Cns::csi_ns:
    case Cns::csi_controller:
      // No limits of the NVM command set beside MDTS, and none of its optional formats.
      if (command_set != kCommandSetNvm) return set_status(command, Status::invalid_field);
      return put_data(command, nullptr, 0);
    case Cns::csi_active_namespaces:
      if (command_set != kCommandSetNvm) return set_status(command, Status::invalid_field);
      [[fallthrough]];
    case Cns::active_namespaces:
    case Cns::allocated_namespaces: {
      if (nsid >= 0xfffffffe) return set_status(command, Status::invalid_namespace);
      const std::vector<uint32_t> list = subsystem_.namespace_ids_after(nsid, spec::kNamespaceListEntries);
      return put_data(command, list.data(), list.size() * sizeof(uint32_t));
    }
    default:
      return set_status(command, Status::invalid_field);
  }
}

}  // namespace diskengine::nvmf
