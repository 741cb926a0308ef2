#include <fmt/format.h>

#include <boost/json/array.hpp>

#include "rpc/lvol_replies.h"
#include "rpc/methods_bdev_lvol.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

using lvol::LvolManager;

// SPDK finds these before it begins, and then answers with -errno.
bool found_before_the_start(const DeviceRegistry& devices, const lvol::CreateStore& options, Errc code) {
  if (code == Errc::no_device || code == Errc::already_exists || code == Errc::permission_denied) return true;
  if (code != Errc::invalid_argument) return false;
  if (options.name.empty() || options.name.size() >= lvol::kNameBytes) return true;
  if (options.md_page_bytes != 0 && options.md_page_bytes != 4096) return true;
  const Result<std::shared_ptr<Device>> device = devices.find(options.base_bdev);
  return device && options.cluster_bytes % (*device)->info().block_size != 0;
}

Task<Reply> create_store(DeviceRegistry& devices, LvolManager& manager, json::object params) {
  lvol::CreateStore options;
  options.base_bdev = text_param(params, "bdev_name");
  options.name = text_param(params, "lvs_name");
  options.cluster_bytes = static_cast<uint32_t>(uint_param(params, "cluster_sz"));
  options.clear_method = clear_method_of(params);
  options.md_pages_per_cluster_percent = static_cast<uint32_t>(uint_param(params, "num_md_pages_per_cluster_ratio"));
  options.md_page_bytes = static_cast<uint32_t>(uint_param(params, "md_page_size"));
  Task<Result<Uuid>> creating = manager.create_store(options);
  const Result<Uuid> uuid = co_await creating;
  if (uuid) co_return json::value(json::string(uuid->to_string()));
  const Error& error = uuid.error();
  if (found_before_the_start(devices, options, error.code())) co_return lvol_fault(error);
  co_return lvol_fault(error, kInvalidParams);
}

Task<Reply> rename_store(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "old_name");
  json::object by_name{{"lvs_name", name}};
  const Result<lvol::StoreInfo> store = named_store(manager, by_name);
  if (!store) co_return Fault{-errno_of(Errc::not_found), fmt::format("Lvol store {} not found", name)};
  Task<Result<void>> renaming = manager.rename_store(store->uuid.to_string(), text_param(params, "new_name"));
  const Result<void> renamed = co_await renaming;
  co_return lvol_done(renamed);
}

using StoreOperation = Task<Result<void>> (LvolManager::*)(std::string);

Task<Reply> on_store(LvolManager& manager, StoreOperation operation, json::object params) {
  const Result<lvol::StoreInfo> store = named_store(manager, params);
  if (!store) co_return lvol_fault(store.error());
  Task<Result<void>> running = (manager.*operation)(store->uuid.to_string());
  const Result<void> done = co_await running;
  co_return lvol_done(done);
}

json::object describe(const lvol::StoreInfo& store) {
  json::object entry{{"uuid", store.uuid.to_string()},       {"name", store.name},
                     {"base_bdev", store.base_bdev},         {"total_data_clusters", store.total_data_clusters},
                     {"free_clusters", store.free_clusters}, {"block_size", store.block_size},
                     {"cluster_size", store.cluster_bytes},  {"max_growable_size", store.max_growable_bytes},
                     {"size_bytes", store.size_bytes},       {"md_pages", store.md_pages},
                     {"md_pages_used", store.md_pages_used}, {"lvols", store.lvols},
                     {"damaged_lvols", store.damaged},       {"was_recovered", store.was_recovered}};
  if (!store.frozen_reason.empty()) entry["frozen_reason"] = store.frozen_reason;
  return entry;
}

Task<Reply> get_stores(const LvolManager& manager, json::object params) {
  json::array list;
  if (params.empty()) {
    for (const lvol::StoreInfo& store : manager.stores()) list.push_back(describe(store));
    co_return json::value(std::move(list));
  }
  const Result<lvol::StoreInfo> store = named_store(manager, params);
  if (!store) co_return lvol_fault(store.error());
  list.push_back(describe(*store));
  co_return json::value(std::move(list));
}

json::object describe(const lvol::Finding& finding) {
  const std::string_view kind = name_of(finding.kind);
  return {{"kind", json::string_view(kind.data(), kind.size())},
          {"blob_id", fmt::format("{:#x}", finding.blob_id)},
          {"count", finding.count},
          {"repairable", finding.repairable},
          {"repaired", finding.repaired},
          {"text", finding.text}};
}

Task<Reply> check(LvolManager& manager, json::object params) {
  Task<Result<lvol::CheckReport>> checking = manager.check(text_param(params, "store"), bool_param(params, "repair"));
  const Result<lvol::CheckReport> report = co_await checking;
  if (!report) co_return lvol_fault(report.error());
  json::array findings;
  for (const lvol::Finding& finding : report->findings) findings.push_back(describe(finding));
  co_return json::value(json::object{{"store_uuid", report->store_uuid.to_string()},
                                     {"store_name", report->store_name},
                                     {"clean", report->clean},
                                     {"sound", report->sound()},
                                     {"lvols", report->lvols},
                                     {"clusters_total", report->clusters_total},
                                     {"clusters_used", report->clusters_used},
                                     {"pages_total", report->pages_total},
                                     {"pages_used", report->pages_used},
                                     {"findings", std::move(findings)},
                                     {"findings_left_off", report->findings_left_off}});
}

Task<Reply> get_damaged(const LvolManager& manager, json::object params) {
  const std::string store = text_param_or(params, "lvs_name", "");
  if (!store.empty()) {
    const Result<lvol::StoreInfo> named = manager.store(store);
    if (!named) co_return lvol_fault(named.error());
  }
  json::array list;
  for (const lvol::DamagedLvol& damaged : manager.damaged(store))
    list.push_back(json::object{{"uuid", damaged.uuid.to_string()},
                                {"name", damaged.name},
                                {"blob_id", fmt::format("{:#x}", damaged.blob_id)},
                                {"lvs_name", damaged.store_name},
                                {"reason", damaged.reason}});
  co_return json::value(std::move(list));
}

}  // namespace

void add_lvol_store_methods(MethodTable& methods, DeviceRegistry& devices, LvolManager& manager) {
  const auto operation = [&manager](StoreOperation does) {
    return [&manager, does](json::object params) { return on_store(manager, does, std::move(params)); };
  };
  methods.add("bdev_lvol_create_lvstore",
              [&devices, &manager](json::object params) { return create_store(devices, manager, std::move(params)); });
  methods.add("bdev_lvol_rename_lvstore",
              [&manager](json::object params) { return rename_store(manager, std::move(params)); });
  methods.add("bdev_lvol_grow_lvstore", operation(&LvolManager::grow_store));
  methods.add("bdev_lvol_delete_lvstore", operation(&LvolManager::delete_store));
  methods.add("bdev_lvol_get_lvstores",
              [&manager](json::object params) { return get_stores(manager, std::move(params)); });
  methods.add("diskengine_lvol_check", [&manager](json::object params) { return check(manager, std::move(params)); });
  methods.add("diskengine_lvol_get_damaged",
              [&manager](json::object params) { return get_damaged(manager, std::move(params)); });
}

}  // namespace diskengine::rpc
