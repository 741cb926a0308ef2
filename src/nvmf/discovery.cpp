// The discovery service: what subsystems a host can reach, and where; and the configuration of the whole target as RPC
// calls.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/json_text.h"
#include "nvmf/target.h"

namespace diskengine::nvmf {

using fabric::Address;

namespace {

template <size_t N>
void put_text(char (&field)[N], const std::string& text, char padding) noexcept {
  std::memset(field, padding, N);
  std::memcpy(field, text.data(), std::min(N, text.size()));
}

bool is_wildcard(const Address& address) noexcept { return address.address == "0.0.0.0" || address.address == "::"; }

uint8_t transport_code(const std::string& type) noexcept {
  if (type == "TCP") return static_cast<uint8_t>(spec::TransportType::tcp);
  if (type == "RDMA") return static_cast<uint8_t>(spec::TransportType::rdma);
  return static_cast<uint8_t>(spec::TransportType::loop);
}

spec::DiscoveryEntry make_entry(const Address& address, const std::string& nqn, spec::SubsystemType type,
                                uint16_t admin_depth) noexcept {
  spec::DiscoveryEntry entry{};
  entry.transport_type = transport_code(address.type);
  if (address.type == "RDMA") {
    entry.transport_specific[0] = static_cast<uint8_t>(spec::RdmaQueueService::reliable_connected);
    entry.transport_specific[2] = static_cast<uint8_t>(spec::RdmaConnectionManager::rdma_cm);
  }
  entry.address_family =
      static_cast<uint8_t>(address.family == "IPv6" ? spec::AddressFamily::ipv6 : spec::AddressFamily::ipv4);
  entry.subsystem_type = static_cast<uint8_t>(type);
  entry.treq = static_cast<uint8_t>(spec::SecureChannel::not_required);
  entry.controller_id = spec::kControllerIdAny;
  entry.admin_queue_size = admin_depth;
  put_text(entry.service_id, address.service, ' ');
  put_text(entry.address, address.address, ' ');
  put_text(entry.subsystem_nqn, nqn, '\0');
  return entry;
}

std::string address_json(const Address& a) {
  return fmt::format(R"({{"trtype":{},"adrfam":{},"traddr":{},"trsvcid":{}}})", json_quote(a.type),
                     json_quote(a.family), json_quote(a.address), json_quote(a.service));
}

std::string hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) text += fmt::format("{:02X}", byte);
  return text;
}

std::string call(const char* method, const std::string& params) {
  return fmt::format(R"({{"method":"{}","params":{{{}}}}})", method, params);
}

std::string transport_call(const fabric::TargetTransport& transport) {
  const fabric::TargetOptions& o = transport.options();
  std::string params = fmt::format(R"("trtype":"{}","max_queue_depth":{},"max_io_qpairs_per_ctrlr":{},)"
                                   R"("in_capsule_data_size":{},"max_io_size":{},"max_aq_depth":{})",
                                   transport.type(), o.max_queue_depth, o.max_io_queues, o.in_capsule_bytes,
                                   o.max_io_bytes, o.max_admin_depth);
  if (transport.type() == "RDMA")
    params += fmt::format(R"(,"max_srq_depth":{},"acceptor_backlog":{})", o.srq_entries, o.backlog);
  return call("nvmf_create_transport", params);
}

std::string namespace_call(const Subsystem& subsystem, const Namespace& ns) {
  std::string fields = fmt::format(R"("nsid":{},"bdev_name":{})", ns.nsid(), json_quote(ns.device().name()));
  const NamespaceOptions& options = ns.options();
  if (options.nguid_given) fields += fmt::format(R"(,"nguid":"{}")", hex(options.ids.nguid));
  if (options.ids.eui64 != decltype(options.ids.eui64){})
    fields += fmt::format(R"(,"eui64":"{}")", hex(options.ids.eui64));
  if (options.uuid_given) fields += fmt::format(R"(,"uuid":"{}")", options.ids.uuid.to_string());
  return call("nvmf_subsystem_add_ns",
              fmt::format(R"("nqn":{},"namespace":{{{}}})", json_quote(subsystem.nqn()), fields));
}

void add_subsystem_calls(const Subsystem& subsystem, std::vector<std::string>& calls) {
  const std::string nqn = json_quote(subsystem.nqn());
  const SubsystemOptions& o = subsystem.options();
  if (!subsystem.is_discovery())
    calls.push_back(call(
        "nvmf_create_subsystem",
        fmt::format(
            R"("nqn":{},"allow_any_host":{},"serial_number":{},"model_number":{},"max_namespaces":{},"min_cntlid":{},"max_cntlid":{})",
            nqn, o.allow_any_host, json_quote(o.serial_number), json_quote(o.model_number), o.max_namespaces,
            o.min_cntlid, o.max_cntlid)));
  for (const std::string& host : subsystem.hosts())
    calls.push_back(call("nvmf_subsystem_add_host", fmt::format(R"("nqn":{},"host":{})", nqn, json_quote(host))));
  for (const auto& [nsid, ns] : subsystem.namespaces())
    if (!ns->removing) calls.push_back(namespace_call(subsystem, *ns));
  for (const Address& address : subsystem.listeners())
    calls.push_back(call("nvmf_subsystem_add_listener",
                         fmt::format(R"("nqn":{},"listen_address":{})", nqn, address_json(address))));
}

}  // namespace

void Target::discovery_changed() {
  ++discovery_generation_;
  for (const auto& subsystem : subsystems_)
    if (subsystem->is_discovery())
      for (const auto& [id, controller] : subsystem->controllers()) controller->discovery_changed();
}

std::vector<uint8_t> Target::discovery_log(const std::string& host_nqn, const QueueRecord& queue) const {
  std::vector<spec::DiscoveryEntry> entries;
  const auto admin_depth = static_cast<uint16_t>(queue.options.max_admin_depth);
  for (const auto& subsystem : subsystems_) {
    if (!subsystem->allows(host_nqn)) continue;
    const auto type = subsystem->is_discovery() ? spec::SubsystemType::current_discovery : spec::SubsystemType::nvm;
    for (const Address& address : subsystem->listeners()) {
      Address reachable = address;
      // Who listens everywhere is reached where this host reached us.
      if (is_wildcard(address)) reachable.address = queue.local_address.address;
      entries.push_back(make_entry(reachable, subsystem->nqn(), type, admin_depth));
    }
  }
  for (const Referral& referral : referrals_)
    entries.push_back(make_entry(referral.address, referral.subsystem_nqn, spec::SubsystemType::referral, admin_depth));
  spec::DiscoveryHeader header{};
  header.generation = discovery_generation_;
  header.records = entries.size();
  std::vector<uint8_t> log(sizeof header + entries.size() * sizeof(spec::DiscoveryEntry));
  std::memcpy(log.data(), &header, sizeof header);
  if (!entries.empty())
    std::memcpy(log.data() + sizeof header, entries.data(), entries.size() * sizeof(spec::DiscoveryEntry));
  return log;
}

Result<void> Target::add_referral(const Referral& referral) {
  if (std::find(referrals_.begin(), referrals_.end(), referral) != referrals_.end())
    return Error(Errc::already_exists, "there is a referral to " + referral.address.to_string() + " already");
  if (referrals_.size() >= kReferralsMax)
    return Error(Errc::out_of_range, fmt::format("there are {} referrals already, the limit", kReferralsMax));
  referrals_.push_back(referral);
  discovery_changed();
  return {};
}

Result<void> Target::remove_referral(const Referral& referral) {
  const auto at = std::find_if(referrals_.begin(), referrals_.end(), [&](const Referral& r) {
    return r.address == referral.address && r.subsystem_nqn == referral.subsystem_nqn;
  });
  if (at == referrals_.end()) return Error(Errc::not_found, "there is no referral to " + referral.address.to_string());
  referrals_.erase(at);
  discovery_changed();
  return {};
}

std::vector<std::string> Target::config_calls() const {
  std::vector<std::string> calls;
  for (const auto& transport : transports_) calls.push_back(transport_call(*transport));
  for (const auto& subsystem : subsystems_) add_subsystem_calls(*subsystem, calls);
  for (const Referral& r : referrals_)
    calls.push_back(call("nvmf_discovery_add_referral",
                         fmt::format(R"("address":{},"secure_channel":{},"subnqn":{})", address_json(r.address),
                                     r.secure_channel, json_quote(r.subsystem_nqn))));
  return calls;
}

}  // namespace diskengine::nvmf
