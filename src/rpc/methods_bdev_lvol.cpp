#include "rpc/methods_bdev_lvol.h"

#include <boost/json/array.hpp>

#include "rpc/lvol_replies.h"
#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

using lvol::LvolInfo;
using lvol::LvolManager;

constexpr uint64_t kMib = 1024 * 1024;

Reply uuid_of(const Result<LvolInfo>& made) {
  if (!made) return lvol_fault(made.error(), kInvalidParams);
  return json::value(json::string(made->uuid.to_string()));
}

Task<Reply> create(LvolManager& manager, json::object params) {
  const Result<lvol::StoreInfo> store = named_store(manager, params);
  if (!store) co_return lvol_fault(store.error());
  lvol::CreateLvol options;
  options.store = store->uuid.to_string();
  options.name = text_param(params, "lvol_name");
  options.size_bytes = uint_param(params, "size_in_mib") * kMib;
  options.thin = bool_param(params, "thin_provision");
  options.clear_method = clear_method_of(params);
  Task<Result<LvolInfo>> creating = manager.create_lvol(std::move(options));
  const Result<LvolInfo> made = co_await creating;
  if (!made && (made.error().code() == Errc::invalid_argument || made.error().code() == Errc::already_exists))
    co_return lvol_fault(made.error());  // about its name, which SPDK looks at before it begins
  co_return uuid_of(made);
}

// --- What is done to one lvol
// --------------------------------------------------------------------------------------------

using Operation = Task<Result<void>> (LvolManager::*)(std::string);

Task<Reply> on_lvol(LvolManager& manager, Operation operation, json::object params) {
  const std::string name = text_param(params, "name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  Task<Result<void>> running = (manager.*operation)(name);
  const Result<void> done = co_await running;
  co_return lvol_done(done);
}

Task<Reply> remove(LvolManager& manager, json::object params) {
  Task<Result<void>> deleting = manager.delete_lvol(text_param(params, "name"));
  const Result<void> deleted = co_await deleting;
  if (deleted) co_return json::value(true);
  const Error& error = deleted.error();
  co_return lvol_fault(error, error.code() == Errc::no_device ? -errno_of(error.code()) : kInternalError);
}

Task<Reply> rename(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "old_name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  Task<Result<void>> renaming = manager.rename_lvol(name, text_param(params, "new_name"));
  const Result<void> renamed = co_await renaming;
  co_return lvol_done(renamed);
}

Task<Reply> resize(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  Task<Result<void>> resizing = manager.resize_lvol(name, uint_param(params, "size_in_mib") * kMib);
  const Result<void> resized = co_await resizing;
  co_return lvol_done(resized);
}

Task<Reply> set_pause(LvolManager& manager, json::object params) {
  Task<Result<void>> setting = manager.set_pause_when_full(text_param(params, "name"), bool_param(params, "pause"));
  const Result<void> set = co_await setting;
  if (!set) co_return lvol_fault(set.error());
  co_return json::value(true);
}

// --- Parents
// -------------------------------------------------------------------------------------------------------------

Task<Reply> snapshot(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "lvol_name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  Task<Result<LvolInfo>> making = manager.snapshot(name, text_param(params, "snapshot_name"));
  const Result<LvolInfo> made = co_await making;
  co_return uuid_of(made);
}

Task<Reply> clone(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "snapshot_name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  Task<Result<LvolInfo>> making = manager.clone(name, text_param(params, "clone_name"));
  const Result<LvolInfo> made = co_await making;
  co_return uuid_of(made);
}

Task<Reply> clone_bdev(DeviceRegistry& devices, LvolManager& manager, json::object params) {
  json::object by_name{{"lvs_name", param(params, "lvs_name")}};
  const Result<lvol::StoreInfo> store = named_store(manager, by_name);
  if (!store) co_return Fault{kInvalidParams, "lvs does not exist"};
  const std::string bdev = text_param(params, "bdev");
  if (!devices.find(bdev)) co_return Fault{kInvalidParams, "bdev does not exist"};
  const Result<LvolInfo> same = manager.lvol(bdev);
  if (same && same->store_uuid == store->uuid)
    co_return Fault{kInvalidParams, "bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead"};
  Task<Result<LvolInfo>> making = manager.clone_bdev(bdev, store->uuid.to_string(), text_param(params, "clone_name"));
  const Result<LvolInfo> made = co_await making;
  co_return uuid_of(made);
}

Task<Reply> set_parent(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "lvol_name");
  const std::string parent = text_param(params, "parent_name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  const Result<LvolInfo> found_parent = manager.lvol(parent);
  if (!found_parent) co_return lvol_fault(found_parent.error());
  Task<Result<void>> setting = manager.set_parent(name, parent);
  const Result<void> set = co_await setting;
  co_return lvol_done(set);
}

Task<Reply> set_parent_bdev(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "lvol_name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  Task<Result<void>> setting = manager.set_parent_bdev(name, text_param(params, "parent_name"));
  const Result<void> set = co_await setting;
  co_return lvol_done(set);
}

// --- Shallow copies
// ------------------------------------------------------------------------------------------------------

Task<Reply> start_copy(LvolManager& manager, json::object params) {
  const std::string name = text_param(params, "src_lvol_name");
  const Result<LvolInfo> found = manager.lvol(name);
  if (!found) co_return lvol_fault(found.error());
  const Result<uint32_t> id = manager.start_shallow_copy(name, text_param(params, "dst_bdev_name"));
  if (!id) co_return lvol_fault(id.error(), kInvalidParams);
  co_return json::value(json::object{{"operation_id", *id}});
}

Task<Reply> check_copy(LvolManager& manager, json::object params) {
  const Result<lvol::ShallowCopyStatus> status =
      manager.check_shallow_copy(static_cast<uint32_t>(uint_param(params, "operation_id")));
  if (!status) co_return lvol_fault(status.error());
  json::object answer{{"copied_clusters", status->copied_clusters}, {"total_clusters", status->total_clusters}};
  const bool failed = !status->error.empty();
  if (failed)
    answer["state"] = "error";
  else
    answer["state"] = status->ended ? "complete" : "in progress";
  if (failed) answer["error"] = status->error;
  co_return json::value(std::move(answer));
}

// --- Looking
// -------------------------------------------------------------------------------------------------------------

json::object describe(const LvolInfo& lvol) {
  return {{"alias", lvol.alias},
          {"uuid", lvol.uuid.to_string()},
          {"name", lvol.name},
          {"is_thin_provisioned", lvol.thin},
          {"is_snapshot", lvol.snapshot},
          {"is_clone", lvol.clone},
          {"is_esnap_clone", lvol.esnap_clone},
          {"is_degraded", lvol.degraded},
          {"num_allocated_clusters", lvol.allocated_clusters},
          {"lvs", json::object{{"name", lvol.store_name}, {"uuid", lvol.store_uuid.to_string()}}},
          {"is_read_only", lvol.read_only},
          {"size_bytes", lvol.size_bytes},
          {"allocated_bytes", lvol.allocated_bytes()},
          {"unique_bytes", lvol.unique_bytes()},
          {"shared_bytes", lvol.shared_bytes()},
          {"pause_when_full", lvol.pause_when_full}};
}

Task<Reply> get_lvols(const LvolManager& manager, json::object params) {
  std::string store;
  if (!params.empty()) {
    const Result<lvol::StoreInfo> named = named_store(manager, params, "lvs_uuid");
    if (!named) co_return lvol_fault(named.error());
    store = named->uuid.to_string();
  }
  const Result<std::vector<LvolInfo>> lvols = manager.lvols(store);
  if (!lvols) co_return lvol_fault(lvols.error());
  json::array list;
  for (const LvolInfo& lvol : *lvols) list.push_back(describe(lvol));
  co_return json::value(std::move(list));
}

}  // namespace

void add_lvol_methods(MethodTable& methods, DeviceRegistry& devices, LvolManager& manager) {
  const auto with = [&manager](Task<Reply> (*handler)(LvolManager&, json::object)) {
    return [&manager, handler](json::object params) { return handler(manager, std::move(params)); };
  };
  const auto operation = [&manager](Operation does) {
    return [&manager, does](json::object params) { return on_lvol(manager, does, std::move(params)); };
  };
  methods.add("bdev_lvol_create", with(create));
  methods.add("bdev_lvol_delete", with(remove));
  methods.add("bdev_lvol_rename", with(rename));
  methods.add("bdev_lvol_resize", with(resize));
  methods.add("bdev_lvol_set_read_only", operation(&LvolManager::set_read_only));
  methods.add("bdev_lvol_inflate", operation(&LvolManager::inflate));
  methods.add("bdev_lvol_decouple_parent", operation(&LvolManager::decouple_parent));
  methods.add("bdev_lvol_snapshot", with(snapshot));
  methods.add("bdev_lvol_clone", with(clone));
  methods.add("bdev_lvol_clone_bdev",
              [&devices, &manager](json::object params) { return clone_bdev(devices, manager, std::move(params)); });
  methods.add("bdev_lvol_set_parent", with(set_parent));
  methods.add("bdev_lvol_set_parent_bdev", with(set_parent_bdev));
  methods.add("bdev_lvol_start_shallow_copy", with(start_copy));
  methods.add("bdev_lvol_check_shallow_copy", with(check_copy));
  methods.add("bdev_lvol_get_lvols", [&manager](json::object params) { return get_lvols(manager, std::move(params)); });
  methods.add("diskengine_lvol_set_pause_when_full", with(set_pause));
}

}  // namespace diskengine::rpc
