#include "nvme/association.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "base/log.h"

namespace diskengine::nvme {

using spec::DataDirection;

namespace {

constexpr uint64_t kReadyPollNs = 10'000'000;
constexpr uint32_t kReadyLimitMs = 30'000;
constexpr uint32_t kShutdownLimitMs = 2'000;
constexpr uint32_t kIcdBytesMax = 1024 * 1024;

template <typename T>
std::span<uint8_t> bytes_of(T& object) {
  return {reinterpret_cast<uint8_t*>(&object), sizeof object};
}

spec::Sqe admin_command(uint8_t opcode) {
  spec::Sqe sqe;
  sqe.opcode = opcode;
  return sqe;
}

void copy_text(char* field, size_t bytes, const std::string& text) {
  std::memset(field, 0, bytes);
  std::copy_n(text.data(), std::min(bytes - 1, text.size()), field);
}

}  // namespace

std::string text_of(const char* field, size_t bytes) {
  std::string text(field, strnlen(field, bytes));
  while (!text.empty() && text.back() == ' ') text.pop_back();
  text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
  // What a controller says is printed and put into JSON: printable ASCII only.
  for (char& c : text)
    if (c < 0x20 || c > 0x7e) c = '?';
  return text;
}

void fill_connect_data(spec::FabricsConnectData* data, const ControllerOptions& options, uint16_t controller_id) {
  *data = {};
  std::copy(options.host_id.bytes.begin(), options.host_id.bytes.end(), data->host_id);
  data->controller_id = controller_id;
  copy_text(data->subsystem_nqn, sizeof data->subsystem_nqn, options.subsystem_nqn);
  copy_text(data->host_nqn, sizeof data->host_nqn, options.host_nqn);
}

Association::Association(Reactor& reactor, fabric::HostTransport& transport, const HostOptions& host,
                         const ControllerOptions& options, std::function<void(const Error&)> lost)
    : reactor_(reactor),
      transport_(transport),
      host_(host),
      options_(options),
      admin_(reactor, std::move(lost)),
      identity_(std::make_unique<spec::IdentifyController>()) {}

uint64_t Association::limit_us() const noexcept {
  const uint64_t wanted = host_.timeout_admin_us != 0 ? host_.timeout_admin_us : host_.timeout_us;
  return wanted == 0 ? kAdminLimitUs : std::min(wanted, kAdminLimitUs);
}

Task<Result<void>> Association::establish() {
  fabric::HostQueueOptions queue;
  queue.name = "nvme_admin";
  queue.header_digest = options_.header_digest;
  queue.data_digest = options_.data_digest;
  Result<void> opened = co_await admin_.open(transport_, options_.address, queue);
  CO_TRY(opened);
  Result<void> connected = co_await connect_admin();
  CO_TRY(connected);
  Result<void> enabled = co_await enable();
  CO_TRY(enabled);
  Result<void> known = co_await read_identity();
  CO_TRY(known);
  admin_.start_keep_alive(host_.keep_alive_ms);
  co_return Result<void>{};
}

Task<Result<void>> Association::connect_admin() {
  spec::FabricsConnect connect;
  connect.queue_size = AdminQueue::kDepth - 1;
  connect.keep_alive_ms = host_.keep_alive_ms;
  auto data = std::make_unique<spec::FabricsConnectData>();
  fill_connect_data(data.get(), options_, spec::kControllerIdAny);
  const uint64_t limit = options_.connect_timeout_us != 0 ? options_.connect_timeout_us : limit_us();
  Result<spec::Cqe> answer = co_await admin_.checked(
      fmt::format("cannot connect to subsystem {} as {}", options_.subsystem_nqn, options_.host_nqn),
      load_le<spec::Sqe>(&connect), DataDirection::to_controller, bytes_of(*data), limit);
  CO_TRY(answer);
  if (spec::connect_needs_authentication(answer->cdw0))
    co_return Error(Errc::not_supported, fmt::format("subsystem {} asks for in-band authentication, which this host "
                                                     "does not do",
                                                     options_.subsystem_nqn));
  limits_.controller_id = spec::connect_controller_id(answer->cdw0);
  co_return Result<void>{};
}

Task<Result<uint64_t>> Association::get_property(uint32_t offset, bool wide) {
  spec::FabricsProperty property;
  property.size = wide ? 1 : 0;
  property.offset = offset;
  Result<spec::Cqe> answer =
      co_await admin_.checked(fmt::format("cannot read property {:#x}", offset), load_le<spec::Sqe>(&property),
                              DataDirection::none, {}, limit_us());
  CO_TRY(answer);
  co_return wide ? answer->result() : answer->cdw0;
}

Task<Result<void>> Association::set_property(uint32_t offset, uint32_t value) {
  spec::FabricsProperty property;
  property.type = spec::FabricsType::property_set;
  property.offset = offset;
  property.value = value;
  Result<spec::Cqe> answer =
      co_await admin_.checked(fmt::format("cannot set property {:#x}", offset), load_le<spec::Sqe>(&property),
                              DataDirection::none, {}, limit_us());
  CO_TRY(answer);
  co_return Result<void>{};
}

Task<Result<void>> Association::enable() {
  Result<uint64_t> cap = co_await get_property(spec::Property::cap, true);
  CO_TRY(cap);
  cap_.value = *cap;
  limits_.queue_entries_max = cap_.queue_entries_max();
  Result<uint64_t> version = co_await get_property(spec::Property::vs, false);
  CO_TRY(version);
  version_ = static_cast<uint32_t>(*version);
  Result<uint64_t> config = co_await get_property(spec::Property::cc, false);
  CO_TRY(config);
  const uint32_t limit_ms = std::clamp(cap_.ready_timeout_ms(), 500u, kReadyLimitMs);
  if ((*config & spec::kCcEnable) != 0) {
    Result<void> disabled =
        co_await set_property(spec::Property::cc, static_cast<uint32_t>(*config) & ~spec::kCcEnable);
    CO_TRY(disabled);
    Result<void> idle = co_await wait_ready(false, limit_ms);
    CO_TRY(idle);
  }
  Result<void> enabled = co_await set_property(spec::Property::cc, spec::kCcEnable | spec::kCcEntrySizes);
  CO_TRY(enabled);
  Result<void> ready = co_await wait_ready(true, limit_ms);
  co_return ready;
}

Task<Result<void>> Association::wait_ready(bool ready, uint32_t limit_ms) {
  const uint64_t deadline_ns = reactor_.now_ns() + uint64_t{limit_ms} * 1'000'000;
  for (;;) {
    Result<uint64_t> status = co_await get_property(spec::Property::csts, false);
    CO_TRY(status);
    if ((*status & spec::kCstsFatal) != 0)
      co_return Error(Errc::io_error, "the controller reports a fatal status (CSTS.CFS)");
    if (((*status & spec::kCstsReady) != 0) == ready) co_return Result<void>{};
    if (reactor_.now_ns() >= deadline_ns)
      co_return Error(Errc::timed_out,
                      fmt::format("the controller did not become {} within {} ms", ready ? "ready" : "idle", limit_ms));
    co_await sleep_for(reactor_, kReadyPollNs);
  }
}

Task<Result<void>> Association::identify(uint8_t cns, uint32_t nsid, std::span<uint8_t> data) {
  spec::Sqe sqe = admin_command(spec::AdminOp::identify);
  sqe.nsid = nsid;
  sqe.cdw10 = cns;
  Result<spec::Cqe> answer =
      co_await admin_.checked(fmt::format("cannot identify (CNS {:#04x}, namespace {})", cns, nsid), sqe,
                              DataDirection::from_controller, data, limit_us());
  CO_TRY(answer);
  co_return Result<void>{};
}

Task<Result<void>> Association::read_identity() {
  Result<void> read = co_await identify(spec::Cns::controller, 0, bytes_of(*identity_));
  CO_TRY(read);
  const spec::IdentifyController& id = *identity_;
  // What no connect told.
  if (limits_.controller_id == spec::kControllerIdAny) limits_.controller_id = id.cntlid;
  limits_.transfer_bytes_max = kTransferBytesMax;
  // 2^mdts pages; beyond 2^20 pages it is no limit to us.
  if (id.mdts != 0 && id.mdts < 20)
    limits_.transfer_bytes_max =
        static_cast<uint32_t>(std::min<uint64_t>(kTransferBytesMax, uint64_t{cap_.page_bytes_min()} << id.mdts));
  const uint64_t capsule = uint64_t{id.ioccsz} * 16;
  limits_.capsule_data_bytes =
      capsule > sizeof(spec::Sqe) && id.icdoff == 0
          ? static_cast<uint32_t>(std::min<uint64_t>(capsule - sizeof(spec::Sqe), kIcdBytesMax))
          : 0;
  limits_.write_cache = (id.vwc & spec::kVwcPresent) != 0;
  limits_.sgls = id.sgls;
  limits_.shadow_doorbells = (id.oacs & spec::kOacsDoorbellBuffer) != 0;
  limits_.can_compare = (id.oncs & spec::kOncsCompare) != 0;
  limits_.can_deallocate = (id.oncs & spec::kOncsDatasetManagement) != 0;
  limits_.can_write_zeroes = (id.oncs & spec::kOncsWriteZeroes) != 0;
  if (!limits_.write_cache) co_return Result<void>{};
  Result<void> cache = co_await read_write_cache();
  co_return cache;
}

// A cache that is switched off loses nothing. One of which nothing is said may be on.
Task<Result<void>> Association::read_write_cache() {
  spec::Sqe sqe = admin_command(spec::AdminOp::get_features);
  sqe.cdw10 = spec::Feature::volatile_write_cache;
  Result<spec::Cqe> answer = co_await admin_.command(sqe, DataDirection::none, {}, limit_us());
  CO_TRY(answer);
  const bool known = spec::status_of(answer->status) == spec::Status::success;
  if (known && (answer->cdw0 & 1) == 0) limits_.write_cache = false;
  co_return Result<void>{};
}

Task<Result<void>> Association::set_feature(uint8_t feature, uint32_t value, uint32_t* result) {
  spec::Sqe sqe = admin_command(spec::AdminOp::set_features);
  sqe.cdw10 = feature;
  sqe.cdw11 = value;
  Result<spec::Cqe> answer = co_await admin_.checked(fmt::format("cannot set feature {:#04x}", feature), sqe,
                                                     DataDirection::none, {}, limit_us());
  CO_TRY(answer);
  if (result != nullptr) *result = answer->cdw0;
  co_return Result<void>{};
}

Task<Result<void>> Association::prepare_io(std::function<void(uint32_t)> on_event) {
  const auto wanted = static_cast<uint16_t>(std::clamp(options_.io_queues, 1u, 65535u));
  uint32_t granted = 0;
  Result<void> queues = co_await set_feature(spec::Feature::number_of_queues, spec::queue_count(wanted), &granted);
  CO_TRY(queues);
  limits_.io_queues = static_cast<uint16_t>(std::min({granted & 0xffff, granted >> 16, uint32_t{wanted} - 1}) + 1);
  uint32_t events = identity_->oaes & spec::kAsyncNamespaceAttribute;
  // Targets of fabrics keep their disks' health to themselves, and Linux's refuses these bits.
  if (options_.address.transport == "PCIe") events |= spec::kAsyncCriticalWarnings;
  if (events != 0) {
    Result<void> configured = co_await set_feature(spec::Feature::async_event_config, events, nullptr);
    CO_TRY(configured);
  }
  admin_.start_events(std::move(on_event));
  co_return Result<void>{};
}

Task<Result<void>> Association::watch_discovery(std::function<void(uint32_t)> on_event) {
  const uint32_t events = identity_->oaes & spec::kAsyncDiscoveryChange;
  if (events == 0) co_return Result<void>{};
  Result<void> configured = co_await set_feature(spec::Feature::async_event_config, events, nullptr);
  CO_TRY(configured);
  admin_.start_events(std::move(on_event));
  co_return Result<void>{};
}

// --- Namespaces -----------------------------------------------------------------------------------------------------

Task<Result<std::vector<NamespaceInfo>>> Association::read_namespaces() {
  std::vector<NamespaceInfo> found;
  std::vector<uint32_t> list(spec::kNamespaceListEntries);
  uint32_t after = 0;
  while (found.size() < kNamespacesMax) {
    Result<void> read = co_await identify(spec::Cns::active_namespaces, after,
                                          {reinterpret_cast<uint8_t*>(list.data()), spec::kIdentifyBytes});
    CO_TRY(read);
    for (uint32_t nsid : list) {
      // Ascending, ended by zero; anything else would make the loop endless.
      if (nsid <= after || nsid >= 0xfffffffe || found.size() == kNamespacesMax) co_return found;
      after = nsid;
      NamespaceInfo info;
      Result<bool> usable = co_await read_namespace(nsid, &info);
      CO_TRY(usable);
      if (*usable) found.push_back(info);
    }
  }
  co_return found;
}

// False if it is no device for us.
Task<Result<bool>> Association::read_namespace(uint32_t nsid, NamespaceInfo* info) {
  auto data = std::make_unique<spec::IdentifyNamespace>();
  Result<void> read = co_await identify(spec::Cns::ns, nsid, bytes_of(*data));
  CO_TRY(read);
  const spec::LbaFormat format = data->lba_format_table[spec::lba_format_index(data->lba_format)];
  const bool known_size = format.data_size_log2 == 9 || format.data_size_log2 == 12;
  if (data->size_blocks == 0) co_return false;
  if (!known_size || format.metadata_bytes != 0 || data->size_blocks > (uint64_t{1} << 63) >> format.data_size_log2) {
    LOG_WARN("nvme", "{}: namespace {} is left alone: {} blocks of 2^{} bytes with {} bytes of metadata", options_.name,
             nsid, data->size_blocks, format.data_size_log2, format.metadata_bytes);
    co_return false;
  }
  info->nsid = nsid;
  info->block_size = 1u << format.data_size_log2;
  info->size_blocks = data->size_blocks;
  info->read_only = (data->attributes & spec::kNsReadOnly) != 0;
  info->shared = (data->nmic & spec::kNsShared) != 0;
  info->deallocated_reads_zero = (data->deallocate_features & 7) == spec::kNsDeallocatedReadZero;
  info->optimal_blocks = data->optimal_io_boundary;
  info->cache = spec::instance_of(*data);
  std::copy(std::begin(data->nguid), std::end(data->nguid), info->uuid.bytes.begin());
  if (version_ >= spec::nvme_version(1, 3)) {
    Result<void> described = co_await read_descriptors(nsid, info);
    CO_TRY(described);
  }
  co_return true;
}

Task<Result<void>> Association::read_descriptors(uint32_t nsid, NamespaceInfo* info) {
  std::vector<uint8_t> data(spec::kIdentifyBytes);
  Result<void> read = co_await identify(spec::Cns::ns_descriptors, nsid, data);
  CO_TRY(read);
  size_t at = 0;
  while (at + sizeof(spec::NsDescriptorHeader) <= data.size()) {
    const auto header = load_le<spec::NsDescriptorHeader>(&data[at]);
    at += sizeof header;
    if (header.length == 0 || header.length > data.size() - at) break;
    if (header.type == static_cast<uint8_t>(spec::NsDescriptorType::uuid) && header.length == info->uuid.bytes.size())
      std::copy_n(&data[at], info->uuid.bytes.size(), info->uuid.bytes.begin());
    at += header.length;
  }
  co_return Result<void>{};
}

// --- Log pages ------------------------------------------------------------------------------------------------------

Task<Result<void>> Association::read_log(uint8_t page, uint64_t offset, std::span<uint8_t> data) {
  spec::Sqe sqe = admin_command(spec::AdminOp::get_log_page);
  sqe.nsid = page == spec::LogPage::discovery ? 0 : spec::kNsidAll;
  spec::set_log_page(sqe, page, static_cast<uint32_t>(data.size()), offset);
  Result<spec::Cqe> answer = co_await admin_.checked(fmt::format("cannot read log page {:#04x}", page), sqe,
                                                     DataDirection::from_controller, data, limit_us());
  CO_TRY(answer);
  co_return Result<void>{};
}

Task<Result<std::vector<spec::DiscoveryEntry>>> Association::read_discovery_log() {
  constexpr unsigned kAttempts = 5;
  for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
    spec::DiscoveryHeader before;
    Result<void> begun = co_await read_log(spec::LogPage::discovery, 0, bytes_of(before));
    CO_TRY(begun);
    if (before.records > kDiscoveryEntriesMax)
      co_return Error(Errc::out_of_range, fmt::format("the discovery log has {} records, more than {}", before.records,
                                                      kDiscoveryEntriesMax));
    std::vector<spec::DiscoveryEntry> entries(before.records);
    for (size_t i = 0; i < entries.size(); ++i) {
      Result<void> read = co_await read_log(spec::LogPage::discovery, sizeof before + i * sizeof(spec::DiscoveryEntry),
                                            bytes_of(entries[i]));
      CO_TRY(read);
    }
    spec::DiscoveryHeader after;
    Result<void> ended = co_await read_log(spec::LogPage::discovery, 0, bytes_of(after));
    CO_TRY(ended);
    if (after.generation == before.generation && after.records == before.records) co_return entries;
  }
  co_return Error(Errc::would_block, "the discovery log kept changing while it was read");
}

Task<Result<spec::SmartLog>> Association::read_health() {
  spec::SmartLog log;
  Result<void> read = co_await read_log(spec::LogPage::smart, 0, bytes_of(log));
  CO_TRY(read);
  co_return log;
}

Task<Result<std::vector<spec::ErrorLogEntry>>> Association::read_errors() {
  std::vector<spec::ErrorLogEntry> entries(std::min<size_t>(identity_->elpe + size_t{1}, kErrorEntriesMax));
  Result<void> read =
      co_await read_log(spec::LogPage::error, 0,
                        {reinterpret_cast<uint8_t*>(entries.data()), entries.size() * sizeof(spec::ErrorLogEntry)});
  CO_TRY(read);
  std::erase_if(entries, [](const spec::ErrorLogEntry& entry) { return entry.count == 0; });
  co_return entries;
}

Task<Result<void>> Association::acknowledge_namespace_change() {
  std::vector<uint8_t> list(spec::kIdentifyBytes);
  Result<void> read = co_await read_log(spec::LogPage::changed_namespaces, 0, list);
  co_return read;
}

Task<Result<bool>> Association::abort(uint16_t queue_id, uint16_t cid) {
  spec::Sqe sqe = admin_command(spec::AdminOp::abort);
  sqe.cdw10 = spec::abort_target(queue_id, cid);
  Result<spec::Cqe> answer =
      co_await admin_.checked("cannot abort a command", sqe, DataDirection::none, {}, limit_us());
  CO_TRY(answer);
  co_return (answer->cdw0 & 1) == 0;
}

// --- Ending ---------------------------------------------------------------------------------------------------------

Task<void> Association::shut_down() {
  if (admin_.usable()) {
    const uint32_t config = spec::kCcEnable | spec::kCcEntrySizes | spec::kCcShutdownNormal;
    Result<void> asked = co_await set_property(spec::Property::cc, config);
    const uint64_t deadline_ns = reactor_.now_ns() + uint64_t{kShutdownLimitMs} * 1'000'000;
    while (asked && reactor_.now_ns() < deadline_ns) {
      Result<uint64_t> status = co_await get_property(spec::Property::csts, false);
      if (!status || (*status & spec::kCstsShutdownMask) == spec::kCstsShutdownDone) break;
      co_await sleep_for(reactor_, kReadyPollNs);
    }
  }
  co_await close();
}

Task<void> Association::close() {
  Task<void> closing = admin_.close();
  co_await closing;
}

}  // namespace diskengine::nvme
