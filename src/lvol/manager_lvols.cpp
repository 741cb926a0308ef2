// lvols: what an operator may ask of them, by name.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "lvol/manager.h"
#include "lvol/manager_parts.h"
#include "lvol/shallow_copy.h"

namespace diskengine::lvol {
namespace {

uint64_t clusters_for(const Store& store, uint64_t bytes) noexcept {
  const uint64_t cluster = store.geometry().cluster_bytes();
  return bytes / cluster + (bytes % cluster != 0 ? 1 : 0);
}

}  // namespace

Result<LvolManager::Found> LvolManager::find_lvol(std::string_view name) const {
  const Result<Uuid> uuid = Uuid::parse(name);
  for (const auto& held : stores_) {
    const Store& store = *held->store;
    const bool in_store =
        name.size() > store.name().size() && name.starts_with(store.name()) && name[store.name().size()] == '/';
    const std::string_view rest = in_store ? name.substr(store.name().size() + 1) : std::string_view();
    for (const auto& [id, blob] : store.blobs()) {
      const bool by_id = in_store && blob->damaged() && rest == fmt::format("{:#x}", id);
      const bool by_uuid = uuid && blob->uuid == *uuid && !uuid->is_nil();
      const bool by_device =
          !blob->damaged() && blob->uuid.is_nil() && name == fmt::format("{}_{}", store.uuid().to_string(), id);
      if (by_uuid || by_id || by_device || (in_store && !blob->name.empty() && rest == blob->name))
        return Found{held.get(), blob};
    }
  }
  return Error(Errc::no_device, fmt::format("there is no lvol '{}'", name));
}

Result<LvolManager::Found> LvolManager::find_sound_lvol(std::string_view name) const {
  TRY_ASSIGN(const Found found, find_lvol(name));
  if (found.blob->damaged())
    return Error(Errc::io_error, fmt::format("lvol '{}' is damaged: {}", name, found.blob->damage));
  if (found.held->closing)
    return Error(Errc::busy, fmt::format("lvol store '{}' is being closed", found.held->store->name()));
  return found;
}

Result<std::vector<LvolInfo>> LvolManager::lvols(std::string_view store) const {
  if (!store.empty() && find_store(store) == nullptr)
    return Error(Errc::no_device, fmt::format("there is no lvol store '{}'", store));
  std::vector<LvolInfo> list;
  for (const auto& held : stores_) {
    if (!store.empty() && held.get() != find_store(store)) continue;
    for (const auto& [id, blob] : held->store->blobs())
      if (!blob->damaged()) list.push_back(held->store->info_of(*blob));
  }
  std::sort(list.begin(), list.end(), [](const LvolInfo& a, const LvolInfo& b) { return a.alias < b.alias; });
  return list;
}

Result<LvolInfo> LvolManager::lvol(std::string_view name) const {
  TRY_ASSIGN(const Found found, find_sound_lvol(name));
  return found.held->store->info_of(*found.blob);
}

std::vector<DamagedLvol> LvolManager::damaged(std::string_view store) const {
  std::vector<DamagedLvol> list;
  for (const auto& held : stores_) {
    if (!store.empty() && held.get() != find_store(store)) continue;
    const std::vector<DamagedLvol> some = held->store->damaged();
    list.insert(list.end(), some.begin(), some.end());
  }
  return list;
}

// --- New lvols

Result<void> LvolManager::check_new_lvol(const Store& store, std::string_view name, const Uuid& uuid) const {
  TRY(check_name(name, "lvol"));
  const std::string alias = store.name() + "/" + std::string(name);
  if (store.find(name) != nullptr ||
      std::find(pending_names_.begin(), pending_names_.end(), alias) != pending_names_.end() || registry_.find(alias))
    return Error(Errc::already_exists, fmt::format("the name '{}' is taken", alias));
  if (store.find(uuid) != nullptr || registry_.find(uuid.to_string()))
    return Error(Errc::already_exists, fmt::format("the UUID {} is taken", uuid.to_string()));
  return {};
}

Result<LvolInfo> LvolManager::list_new(Held& held, const std::shared_ptr<Blob>& blob) {
  list(held, blob);
  if (blob->damaged()) return Error(Errc::already_exists, blob->damage);
  return held.store->info_of(*blob);
}

Task<Result<LvolInfo>> LvolManager::create_lvol(CreateLvol options) {
  const Result<Held*> held = need_store(options.store);
  CO_TRY(held);
  const Held::Use use(**held);
  const std::shared_ptr<Store> store = (*held)->store;
  if (options.uuid.is_nil()) options.uuid = random_.uuid();
  CO_TRY(check_new_lvol(*store, options.name, options.uuid));
  if (options.size_bytes == 0)
    co_return Error(Errc::invalid_argument, fmt::format("lvol '{}': its size is 0", options.name));
  const Pending pending(pending_names_, store->name() + "/" + options.name);
  Store::NewBlob wanted;
  wanted.name = options.name;
  wanted.uuid = options.uuid;
  wanted.clusters = clusters_for(*store, options.size_bytes);
  wanted.thin = options.thin;
  wanted.clear_method = options.clear_method;
  Result<std::shared_ptr<Blob>> made = co_await store->create_blob(std::move(wanted));
  CO_TRY(made);
  co_return list_new(**held, *made);
}

Task<Result<LvolInfo>> LvolManager::snapshot(std::string name, std::string snapshot_name, Uuid uuid) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  const std::shared_ptr<Store> store = found->held->store;
  if (uuid.is_nil()) uuid = random_.uuid();
  CO_TRY(check_new_lvol(*store, snapshot_name, uuid));
  const Pending pending(pending_names_, store->name() + "/" + snapshot_name);
  Result<std::shared_ptr<Blob>> made = co_await store->snapshot(found->blob, std::move(snapshot_name), uuid);
  CO_TRY(made);
  co_return list_new(*found->held, *made);
}

Task<Result<LvolInfo>> LvolManager::clone(std::string snapshot_name, std::string clone_name, Uuid uuid) {
  const Result<Found> found = find_sound_lvol(snapshot_name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  const std::shared_ptr<Store> store = found->held->store;
  if (uuid.is_nil()) uuid = random_.uuid();
  CO_TRY(check_new_lvol(*store, clone_name, uuid));
  if (!found->blob->read_only)
    co_return Error(Errc::invalid_argument,
                    fmt::format("lvol '{}' can be written: take a snapshot of it first", snapshot_name));
  if (found->blob->operation != nullptr)
    co_return Error(Errc::busy, fmt::format("lvol '{}': {} is under way", snapshot_name, found->blob->operation));
  const Pending pending(pending_names_, store->name() + "/" + clone_name);
  Store::NewBlob wanted;
  wanted.name = std::move(clone_name);
  wanted.uuid = uuid;
  wanted.clusters = found->blob->map.size();
  wanted.thin = true;
  wanted.parent = found->blob.get();
  found->blob->operation = "making a clone of it";
  Result<std::shared_ptr<Blob>> made = co_await store->create_blob(std::move(wanted));
  found->blob->operation = nullptr;
  CO_TRY(made);
  co_return list_new(*found->held, *made);
}

Task<Result<LvolInfo>> LvolManager::clone_bdev(std::string bdev, std::string store_name, std::string clone_name,
                                               Uuid uuid) {
  const Result<Held*> held = need_store(store_name);
  CO_TRY(held);
  const Held::Use use(**held);
  const std::shared_ptr<Store> store = (*held)->store;
  const Result<std::shared_ptr<Device>> device = registry_.find(bdev);
  CO_TRY(device);
  const DeviceInfo& info = (*device)->info();
  if (uuid.is_nil()) uuid = random_.uuid();
  CO_TRY(check_new_lvol(*store, clone_name, uuid));
  if (info.uuid.is_nil())
    co_return Error(Errc::invalid_argument, fmt::format("device '{}' has no UUID to be found again by", info.name));
  if (info.size_bytes() % store->geometry().cluster_bytes() != 0 || store->geometry().unit_bytes % info.block_size != 0)
    co_return Error(Errc::invalid_argument,
                    fmt::format("device '{}' has {} bytes in blocks of {}: clusters have {}, blocks of lvols {}",
                                info.name, info.size_bytes(), info.block_size, store->geometry().cluster_bytes(),
                                store->geometry().unit_bytes));
  const Pending pending(pending_names_, store->name() + "/" + clone_name);
  Store::NewBlob wanted;
  wanted.esnap_id = info.uuid.to_string();
  Result<std::shared_ptr<Device>> outside = take_outside(wanted.esnap_id);
  CO_TRY(outside);
  wanted.name = std::move(clone_name);
  wanted.uuid = uuid;
  wanted.clusters = info.size_bytes() / store->geometry().cluster_bytes();
  wanted.thin = true;
  wanted.esnap = std::move(outside).value();
  Result<std::shared_ptr<Blob>> made = co_await store->create_blob(std::move(wanted));
  drop_unused_outside();
  CO_TRY(made);
  co_return list_new(**held, *made);
}

// --- Changes

Task<Result<void>> LvolManager::delete_lvol(std::string name) {
  const Result<Found> found = find_lvol(name);
  CO_TRY(found);
  Held& held = *found->held;
  const std::shared_ptr<Store> store = held.store;
  const std::shared_ptr<Blob> blob = found->blob;
  if (held.closing) co_return Error(Errc::busy, fmt::format("lvol store '{}' is being closed", store->name()));
  const Held::Use use(held);
  if (blob->clones.size() > 1)
    co_return Error(Errc::busy, fmt::format("lvol '{}' has {} clones: delete or inflate all but one of them", name,
                                            blob->clones.size()));
  if (blob->operation != nullptr)
    co_return Error(Errc::busy, fmt::format("lvol '{}': {} is under way", name, blob->operation));
  if (!blob->damaged()) {
    blob->pause_when_full = false;
    store->provisioner().space_changed();
    const std::string device = store->info_of(*blob).device_name;
    blob->operation = "its deletion";
    Result<void> removed = co_await registry_.remove(device);
    blob->operation = nullptr;
    if (!removed && removed.error().code() != Errc::no_device) co_return removed;
  }
  Result<void> deleted = co_await store->delete_blob(blob);
  if (!deleted && !blob->damaged()) list(held, blob);
  drop_unused_outside();
  co_return deleted;
}

Task<Result<void>> LvolManager::rename_lvol(std::string name, std::string new_name) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  CO_TRY(check_name(new_name, "lvol"));
  const std::shared_ptr<Store> store = found->held->store;
  const std::shared_ptr<Blob> blob = found->blob;
  if (blob->name == new_name) co_return Result<void>{};
  const std::string alias = store->name() + "/" + new_name;
  if (store->find(new_name) != nullptr ||
      std::find(pending_names_.begin(), pending_names_.end(), alias) != pending_names_.end() || registry_.find(alias))
    co_return Error(Errc::already_exists, fmt::format("the name '{}' is taken", alias));
  const Pending pending(pending_names_, alias);
  const std::string before = store->name() + "/" + blob->name;
  const Result<void> renamed = co_await store->rename_blob(blob, new_name);
  CO_TRY(renamed);
  co_return registry_.replace_alias(store->info_of(*blob).device_name, before, alias);
}

Task<Result<void>> LvolManager::resize_lvol(std::string name, uint64_t size_bytes) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  if (size_bytes == 0) co_return Error(Errc::invalid_argument, fmt::format("lvol '{}': the new size is 0", name));
  const std::shared_ptr<Store> store = found->held->store;
  Result<void> resized = co_await store->resize_blob(found->blob, clusters_for(*store, size_bytes));
  co_return resized;
}

Task<Result<void>> LvolManager::inflate(std::string name) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  Result<void> done = co_await found->held->store->inflate(found->blob, false);
  drop_unused_outside();
  co_return done;
}

Task<Result<void>> LvolManager::decouple_parent(std::string name) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  Result<void> done = co_await found->held->store->inflate(found->blob, true);
  drop_unused_outside();
  co_return done;
}

Task<Result<void>> LvolManager::set_parent(std::string name, std::string snapshot_name) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  const Result<Found> parent = find_sound_lvol(snapshot_name);
  CO_TRY(parent);
  if (found->held != parent->held)
    co_return Error(Errc::invalid_argument,
                    fmt::format("lvols '{}' and '{}' are in different stores", name, snapshot_name));
  Result<void> done = co_await found->held->store->set_parent(found->blob, parent->blob);
  drop_unused_outside();
  co_return done;
}

Task<Result<void>> LvolManager::set_parent_bdev(std::string name, std::string bdev) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  const Result<std::shared_ptr<Device>> device = registry_.find(bdev);
  CO_TRY(device);
  const Uuid uuid = (*device)->info().uuid;
  if (uuid.is_nil())
    co_return Error(Errc::invalid_argument, fmt::format("device '{}' has no UUID to be found again by", bdev));
  Result<std::shared_ptr<Device>> outside = take_outside(uuid.to_string());
  CO_TRY(outside);
  const std::shared_ptr<Store> store = found->held->store;
  Result<void> done = co_await store->set_outside_parent(found->blob, uuid.to_string(), std::move(outside).value());
  drop_unused_outside();
  co_return done;
}

Task<Result<void>> LvolManager::set_read_only(std::string name) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  Result<void> done = co_await found->held->store->set_read_only(found->blob);
  co_return done;
}

Task<Result<void>> LvolManager::set_pause_when_full(std::string name, bool pause) {
  const Result<Found> found = find_sound_lvol(name);
  CO_TRY(found);
  const Held::Use use(*found->held);
  Result<void> done = co_await found->held->store->set_pause_when_full(found->blob, pause);
  co_return done;
}

// --- Shallow copies

Result<uint32_t> LvolManager::start_shallow_copy(std::string name, std::string destination_bdev) {
  TRY_ASSIGN(const Found found, find_sound_lvol(name));
  TRY_ASSIGN(const std::shared_ptr<Device> to, registry_.find(destination_bdev));
  const LvolInfo info = found.held->store->info_of(*found.blob);
  if (!found.blob->read_only)
    return Error(Errc::permission_denied, fmt::format("lvol '{}' can be written: make it read-only first", name));
  if (to->info().size_bytes() < info.size_bytes)
    return Error(Errc::invalid_argument, fmt::format("device '{}' has {} bytes, lvol '{}' has {}", destination_bdev,
                                                     to->info().size_bytes(), name, info.size_bytes));
  if (found.held->store->geometry().unit_bytes % to->info().block_size != 0)
    return Error(Errc::invalid_argument,
                 fmt::format("device '{}' has blocks of {} bytes, lvol '{}' has {}", destination_bdev,
                             to->info().block_size, name, found.held->store->geometry().unit_bytes));
  if (copies_.size() >= kShallowCopiesMax)
    return Error(Errc::busy, "there are too many shallow copies: ask for the state of those that have ended");
  const Result<void> claimed = to->claim("a shallow copy of " + name);
  if (!claimed) return Error(Errc::permission_denied, claimed.error().message());
  const uint32_t id = ++last_copy_id_;
  auto copy = std::make_shared<ShallowCopy>(id, found.held->store, found.blob, to);
  copies_.emplace(id, copy);
  copy->start();
  return id;
}

Result<ShallowCopyStatus> LvolManager::check_shallow_copy(uint32_t operation_id) {
  const auto at = copies_.find(operation_id);
  if (at == copies_.end()) return Error(Errc::no_device, fmt::format("there is no shallow copy {}", operation_id));
  const ShallowCopyStatus status = at->second->status();
  if (status.ended) copies_.erase(at);
  return status;
}

}  // namespace diskengine::lvol
