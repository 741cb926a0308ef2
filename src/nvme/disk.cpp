#include "nvme/disk.h"

#include <fmt/format.h>

#include "base/json_text.h"
#include "nvme/channel.h"

namespace diskengine::nvme {

std::string NvmeDisk::name_of(const Controller& controller, uint32_t nsid) {
  return fmt::format("{}n{}", controller.options().name, nsid);
}

std::shared_ptr<NvmeDisk> NvmeDisk::create(std::shared_ptr<Controller> controller, const NamespaceInfo& ns) {
  const ControllerLimits& limits = controller->limits();
  DeviceInfo info;
  info.name = name_of(*controller, ns.nsid);
  info.product_name = "NVMe disk";
  info.layer = trace::Layer::nvme;
  info.uuid = ns.uuid;
  info.block_size = ns.block_size;
  info.size_blocks = ns.size_blocks;
  info.write_cache = limits.write_cache;
  info.read_only = ns.read_only;
  info.can_unmap = limits.can_deallocate;
  info.can_write_zeroes = limits.can_write_zeroes;
  info.can_compare = limits.can_compare;
  info.optimal_blocks = ns.optimal_blocks;
  return std::shared_ptr<NvmeDisk>(new NvmeDisk(std::move(info), std::move(controller), ns));
}

Result<std::unique_ptr<Channel>> NvmeDisk::open_channel(Reactor& reactor) {
  return std::unique_ptr<Channel>(std::make_unique<NvmeChannel>(shared_from_this(), reactor, controller_, ns_.nsid));
}

void NvmeDisk::resize(uint64_t size_blocks) {
  ns_.size_blocks = size_blocks;
  set_size_blocks(size_blocks);
}

std::string transport_id_json(const ControllerOptions& options) {
  if (options.subsystem_nqn.empty())  // a PCI device has an address and nothing else
    return fmt::format(R"({{"trtype":{},"traddr":{}}})", json_quote(options.address.transport),
                       json_quote(options.address.address));
  return fmt::format(R"({{"trtype":{},"adrfam":{},"traddr":{},"trsvcid":{},"subnqn":{}}})",
                     json_quote(options.address.transport), json_quote(options.address_family),
                     json_quote(options.address.address), json_quote(options.address.service),
                     json_quote(options.subsystem_nqn));
}

std::string NvmeDisk::driver_specific_json() const {
  const spec::IdentifyController& id = controller_->identity();
  const auto text = [](const char* field, size_t bytes) { return json_quote(nvme::text_of(field, bytes)); };
  const uint32_t version = controller_->version();
  const uint32_t tertiary = version & 0xff;
  const std::string version_text = fmt::format("{}.{}{}", version >> 16, version >> 8 & 0xff,
                                               tertiary != 0 ? fmt::format(".{}", tertiary) : std::string());
  const fabric::HostAddress& address = controller_->options().address;
  const std::string pci_address =
      address.transport == "PCIe" ? fmt::format(R"("pci_address":{},)", json_quote(address.address)) : std::string();
  return fmt::format(
      R"({{"nvme":[{{{}"trid":{},"ctrlr_data":{{"cntlid":{},"vendor_id":"0x{:04x}","model_number":{},"serial_number":{},)"
      R"("firmware_revision":{},"subnqn":{},"oacs":{{"security":{},"format":{},"firmware":{},"ns_manage":{}}},)"
      R"("multi_ctrlr":{},"ana_reporting":{}}},"vs":{{"nvme_version":"{}"}},"ns_data":{{"id":{},"can_share":{}}}}}],)"
      R"("mp_policy":"active_passive"}})",
      pci_address, transport_id_json(controller_->options()), controller_->limits().controller_id, id.vid,
      text(id.model_number, sizeof id.model_number), text(id.serial_number, sizeof id.serial_number),
      text(id.firmware_revision, sizeof id.firmware_revision), text(id.subsystem_nqn, sizeof id.subsystem_nqn),
      id.oacs & 1, id.oacs >> 1 & 1, id.oacs >> 2 & 1, id.oacs >> 3 & 1,
      (id.cmic & spec::kCmicMultipleControllers) != 0, (id.cmic & spec::kCmicAna) != 0, version_text, ns_.nsid,
      ns_.shared);
}

}  // namespace diskengine::nvme
