#include "control/dataplane/data_plane.h"

#include <boost/json.hpp>

namespace diskengine::control {
namespace {

namespace json = boost::json;

constexpr int64_t kMiB = 1 << 20;

json::object tcp_address(const std::string& address, int64_t port) {
  const bool is_v6 = address.find(':') != std::string::npos;
  return {
      {"trtype", "TCP"}, {"adrfam", is_v6 ? "IPv6" : "IPv4"}, {"traddr", address}, {"trsvcid", std::to_string(port)}};
}

}  // namespace

DataPlane::DataPlane(client::JsonRpcClient rpc) : rpc_(std::move(rpc)) {}

Result<json::value> DataPlane::call(const char* method, const json::value& params) {
  Result<json::value> answer = rpc_.call(method, params);
  if (!answer) last_failure_ = answer.error().message();
  return answer;
}

Result<void> DataPlane::change(const char* method, const json::object& params) {
  TRY(call(method, params));
  return {};
}

Result<void> DataPlane::create_file_bdev(const FileBdev& bdev) {
  const json::object params{{"filename", bdev.filename}, {"name", bdev.name}, {"block_size", bdev.block_size}};
  Result<void> created = change("bdev_uring_create", params);
  if (!created && created.error().code() == Errc::not_supported) return change("bdev_aio_create", params);
  return created;
}

Result<void> DataPlane::attach_pci_disk(const std::string& name, const std::string& address) {
  return change("bdev_nvme_attach_controller", {{"name", name}, {"trtype", "PCIe"}, {"traddr", address}});
}

Result<std::vector<std::string>> DataPlane::content_of(const std::string& bdev) {
  Result<json::value> answer = call("diskengine_bdev_get_content", json::object{{"name", bdev}});
  if (!answer && answer.error().code() == Errc::not_supported) return std::vector<std::string>();
  TRY(answer);
  const json::object* content = answer->if_object();
  const json::value* holds = content == nullptr ? nullptr : content->if_contains("holds");
  if (holds == nullptr || !holds->is_array())
    return Error(Errc::protocol, "diskengine_bdev_get_content answered without a list of what was found");
  std::vector<std::string> names;
  for (const json::value& name : holds->get_array())
    if (name.is_string()) names.emplace_back(name.get_string());
  return names;
}

Result<void> DataPlane::create_lvol_store(const LvolStoreSpec& spec) {
  // The disk was found to hold nothing that is known, and a thin lvol reads as zeroes whatever lies beneath.
  return change("bdev_lvol_create_lvstore", {{"bdev_name", spec.bdev_name},
                                             {"lvs_name", spec.name},
                                             {"cluster_sz", spec.cluster_bytes},
                                             {"clear_method", "none"}});
}

Result<std::string> DataPlane::create_lvol(const LvolSpec& spec) {
  TRY_ASSIGN(const json::value answer, call("bdev_lvol_create", json::object{{"lvs_name", spec.store},
                                                                             {"lvol_name", spec.name},
                                                                             {"size_in_mib", spec.size_bytes / kMiB},
                                                                             {"thin_provision", true}}));
  const json::string* uuid = answer.if_string();
  if (uuid == nullptr || uuid->empty())
    return Error(Errc::protocol, "bdev_lvol_create answered without the name of the lvol");
  return std::string(*uuid);
}

Result<void> DataPlane::delete_lvol(const std::string& name) { return change("bdev_lvol_delete", {{"name", name}}); }

Result<void> DataPlane::create_tcp_transport() { return change("nvmf_create_transport", {{"trtype", "TCP"}}); }

Result<void> DataPlane::create_subsystem(const std::string& nqn, const std::string& serial_number) {
  return change(
      "nvmf_create_subsystem",
      {{"nqn", nqn}, {"serial_number", serial_number}, {"model_number", "diskengine"}, {"allow_any_host", false}});
}

Result<void> DataPlane::delete_subsystem(const std::string& nqn) {
  return change("nvmf_delete_subsystem", {{"nqn", nqn}});
}

Result<void> DataPlane::add_namespace(const NamespaceSpec& spec) {
  const json::object ns{{"bdev_name", spec.bdev_name}, {"nsid", 1}, {"uuid", spec.uuid}};
  return change("nvmf_subsystem_add_ns", {{"nqn", spec.nqn}, {"namespace", ns}});
}

Result<void> DataPlane::remove_namespace(const std::string& nqn, int64_t nsid) {
  return change("nvmf_subsystem_remove_ns", {{"nqn", nqn}, {"nsid", nsid}});
}

Result<void> DataPlane::add_listener(const ListenerSpec& spec) {
  return change("nvmf_subsystem_add_listener",
                {{"nqn", spec.nqn}, {"listen_address", tcp_address(spec.address, spec.port)}});
}

Result<void> DataPlane::disallow_any_host(const std::string& nqn) {
  return change("nvmf_subsystem_allow_any_host", {{"nqn", nqn}, {"allow_any_host", false}});
}

Result<void> DataPlane::set_subsystem_epoch(const std::string& nqn, int64_t epoch) {
  return change("diskengine_nvmf_subsystem_set_epoch", {{"nqn", nqn}, {"epoch", epoch}});
}

Result<void> DataPlane::admit_host(const std::string& nqn, const std::string& host) {
  return change("nvmf_subsystem_add_host", {{"nqn", nqn}, {"host", host}});
}

Result<void> DataPlane::remove_host(const std::string& nqn, const std::string& host, int64_t timeout_ms) {
  constexpr const char* kMethod = "nvmf_subsystem_remove_host";
  Result<void> removed = change(kMethod, {{"nqn", nqn}, {"host", host}, {"timeout_ms", timeout_ms}});
  // Older targets do not know the limit, and answer when all is drained.
  if (!removed && removed.error().code() == Errc::invalid_argument)
    return change(kMethod, {{"nqn", nqn}, {"host", host}});
  return removed;
}

Result<void> DataPlane::set_keep_alive(int64_t timeout_ms) {
  return change("bdev_nvme_set_options", {{"keep_alive_timeout_ms", timeout_ms}});
}

Result<void> DataPlane::attach_controller(const ControllerSpec& spec) {
  json::object params = tcp_address(spec.address, spec.port);
  params["name"] = spec.name;
  params["subnqn"] = spec.subnqn;
  params["hostnqn"] = spec.hostnqn;
  params["ctrlr_loss_timeout_sec"] = spec.ctrlr_loss_timeout_s;
  params["reconnect_delay_sec"] = spec.reconnect_delay_s;
  params["fast_io_fail_timeout_sec"] = spec.fast_io_fail_timeout_s;
  return change("bdev_nvme_attach_controller", params);
}

Result<void> DataPlane::detach_controller(const std::string& name) {
  return change("bdev_nvme_detach_controller", {{"name", name}});
}

Result<void> DataPlane::create_raid1(const std::string& name, const std::vector<std::string>& legs) {
  return change("bdev_raid_create", {{"name", name},
                                     {"raid_level", "raid1"},
                                     {"superblock", false},
                                     {"base_bdevs", json::array(legs.begin(), legs.end())}});
}

Result<void> DataPlane::assemble_raid(const AssemblySpec& spec) {
  json::object params{{"name", spec.name},
                      {"epoch", spec.epoch},
                      {"confirm_exclusions", true},
                      {"base_bdevs", json::array(spec.legs.begin(), spec.legs.end())},
                      {"num_base_bdevs", spec.places}};
  if (!spec.uuid.empty()) params["uuid"] = spec.uuid;
  return change("diskengine_raid_assemble", params);
}

Result<void> DataPlane::set_raid_epoch(const std::string& raid, int64_t epoch) {
  return change("diskengine_raid_set_epoch", {{"name", raid}, {"epoch", epoch}, {"confirm_exclusions", true}});
}

Result<void> DataPlane::confirm_exclusion(const std::string& raid, int64_t epoch, const std::string& leg) {
  return change("diskengine_raid_confirm_exclusion", {{"name", raid}, {"epoch", epoch}, {"leg", leg}});
}

Result<void> DataPlane::fence_raid(const std::string& raid, int64_t later_epoch) {
  return change("diskengine_raid_fence", {{"name", raid}, {"epoch", later_epoch}});
}

Result<void> DataPlane::delete_raid(const std::string& name) { return change("bdev_raid_delete", {{"name", name}}); }

Result<void> DataPlane::add_leg(const std::string& raid, const std::string& bdev) {
  return change("bdev_raid_add_base_bdev", {{"raid_bdev", raid}, {"base_bdev", bdev}});
}

Result<void> DataPlane::remove_leg(const std::string& bdev) {
  return change("bdev_raid_remove_base_bdev", {{"name", bdev}});
}

Result<void> DataPlane::create_stand_in(const StandInSpec& spec) {
  const json::object params{{"name", spec.name}, {"num_blocks", spec.num_blocks}, {"block_size", spec.block_size}};
  Result<void> created = change("bdev_null_create", params);
  if (!created && created.error().code() == Errc::not_supported) return change("bdev_malloc_create", params);
  return created;
}

Result<void> DataPlane::delete_stand_in(const std::string& name) {
  Result<void> deleted = change("bdev_null_delete", {{"name", name}});
  if (!deleted && deleted.error().code() == Errc::not_supported) return change("bdev_malloc_delete", {{"name", name}});
  return deleted;
}

Result<void> DataPlane::create_vhost(const std::string& name, const std::string& bdev) {
  return change("vhost_create_blk_controller", {{"ctrlr", name}, {"dev_name", bdev}});
}

Result<void> DataPlane::delete_vhost(const std::string& name) {
  return change("vhost_delete_controller", {{"ctrlr", name}});
}

}  // namespace diskengine::control
