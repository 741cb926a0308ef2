// Stores: made, found, given up; and the devices that come and go below them.
#include "lvol/manager.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "lvol/disk_io.h"
#include "lvol/manager_parts.h"
#include "lvol/shallow_copy.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

constexpr uint64_t kPollNs = 1'000'000;
constexpr const char* kOutsideOwner = "lvol external snapshot";

Task<bool> has_signature(std::shared_ptr<Device> device, Reactor& main) {
  const DeviceInfo& info = device->info();
  if (info.size_bytes() < bs::kPageBytes) co_return false;
  Result<std::unique_ptr<Channel>> opened = device->open_channel(main);
  if (!opened) co_return false;
  const std::unique_ptr<Channel> channel = std::move(opened).value();
  DmaBuffer buffer(bs::kPageBytes);
  const IoStatus status = co_await read_bytes(*channel, 0, buffer.span());
  if (!status.ok()) co_return false;
  const Result<bs::FoundSuper> found =
      bs::decode_super(bs::PageBytes(buffer.data(), bs::kPageBytes), info.size_bytes());
  if (!found && found.error().code() != Errc::not_found)
    LOG_WARN("lvol", "device '{}': {}", info.name, found.error().message());
  co_return found.has_value() && found->super.type == bs::kLvolStoreType;
}

}  // namespace

std::string_view name_of(Finding::Kind kind) noexcept {
  switch (kind) {
    case Finding::Kind::damaged_lvol:
      return "damaged_lvol";
    case Finding::Kind::missing_parent:
      return "missing_parent";
    case Finding::Kind::double_cluster:
      return "double_cluster";
    case Finding::Kind::double_page:
      return "double_page";
    case Finding::Kind::leaked_clusters:
      return "leaked_clusters";
    case Finding::Kind::leaked_pages:
      return "leaked_pages";
    case Finding::Kind::unmarked_clusters:
      return "unmarked_clusters";
    case Finding::Kind::unmarked_pages:
      return "unmarked_pages";
    case Finding::Kind::bad_mask:
      return "bad_mask";
    case Finding::Kind::super_block:
      return "super_block";
    case Finding::Kind::stale_page:
      return "stale_page";
  }
  return "unknown";
}

LvolManager::LvolManager(DeviceRegistry& registry, uint64_t random_seed) : registry_(registry), random_(random_seed) {
  registry_.observe(*this);
}

LvolManager::~LvolManager() {
  DE_ASSERT(stores_.empty());
  registry_.unobserve(*this);
}

// --- Looking

LvolManager::Held* LvolManager::find_store(std::string_view name) const {
  const Result<Uuid> uuid = Uuid::parse(name);
  for (const auto& held : stores_)
    if (held->store->name() == name || (uuid && held->store->uuid() == *uuid)) return held.get();
  return nullptr;
}

Result<LvolManager::Held*> LvolManager::need_store(std::string_view name) const {
  Held* held = find_store(name);
  if (held == nullptr) return Error(Errc::no_device, fmt::format("there is no lvol store '{}'", name));
  if (held->closing) return Error(Errc::busy, fmt::format("lvol store '{}' is being closed", name));
  return held;
}

std::vector<StoreInfo> LvolManager::stores() const {
  std::vector<StoreInfo> list;
  for (const auto& held : stores_) list.push_back(held->store->info());
  return list;
}

Result<StoreInfo> LvolManager::store(std::string_view store) const {
  const Held* held = find_store(store);
  if (held == nullptr) return Error(Errc::no_device, fmt::format("there is no lvol store '{}'", store));
  return held->store->info();
}

// --- Taking stores up

// A store that was loaded, or made, gets its devices.
Result<LvolManager::Held*> LvolManager::take_up(std::shared_ptr<Store> store, const std::shared_ptr<Device>& disk) {
  if (stores_.size() >= kStoresMax)
    return Error(Errc::no_space, fmt::format("there are {} lvol stores, the most there can be", kStoresMax));
  if (find_store(store->name()) != nullptr || find_store(store->uuid().to_string()) != nullptr)
    return Error(Errc::already_exists,
                 fmt::format("device '{}': its lvol store '{}' ({}) has the name or UUID of another", disk->name(),
                             store->name(), store->uuid().to_string()));
  disk->release();
  TRY(disk->claim("lvol store " + store->name()));
  stores_.push_back(std::make_unique<Held>(*this, std::move(store), disk));
  Held& held = *stores_.back();
  watch_space(held);
  for (const auto& [id, blob] : held.store->blobs()) {
    if (blob->damaged()) continue;
    if (!blob->esnap_id.empty()) {
      const Result<std::shared_ptr<Device>> outside = take_outside(blob->esnap_id);
      if (outside) {
        blob->esnap.set(*outside);
      } else {
        LOG_WARN("lvol", "lvol '{}/{}': {}", held.store->name(), blob->name, outside.error().message());
      }
    }
  }
  const std::map<uint64_t, std::shared_ptr<Blob>> blobs = held.store->blobs();
  for (const auto& [id, blob] : blobs) list(held, blob);
  if (events_.on_store_loaded) events_.on_store_loaded(held.store->info());
  return &held;
}

// What cannot be listed is damaged: it is there, but nobody can use it.
void LvolManager::list(Held& held, const std::shared_ptr<Blob>& blob) {
  if (!blob->damaged()) {
    Result<void> added = registry_.add(LvolDevice::make(held.store, blob));
    if (!added) {
      blob->damage = added.error().message();
      blob->damaged_pages = blob->pages;
    }
  }
  if (!blob->damaged()) return;
  LOG_WARN("lvol", "store '{}': lvol '{}' ({:#x}) is damaged: {}", held.store->name(), blob->name, blob->id,
           blob->damage);
  if (events_.on_damaged)
    events_.on_damaged({.uuid = blob->uuid,
                        .name = blob->name,
                        .blob_id = blob->id,
                        .store_name = held.store->name(),
                        .reason = blob->damage});
}

Task<Result<Uuid>> LvolManager::create_store(CreateStore options) {
  CO_TRY(check_name(options.name, "lvol store"));
  if (find_store(options.name) != nullptr ||
      std::find(pending_names_.begin(), pending_names_.end(), options.name) != pending_names_.end())
    co_return Error(Errc::already_exists, fmt::format("there is a lvol store '{}' already", options.name));
  const Result<std::shared_ptr<Device>> found = registry_.find(options.base_bdev);
  CO_TRY(found);
  const std::shared_ptr<Device> disk = *found;
  const Result<void> claimed = disk->claim("lvol store " + options.name);
  if (!claimed) co_return Error(Errc::permission_denied, claimed.error().message());
  const Pending pending(pending_names_, options.name);
  if (options.uuid.is_nil()) options.uuid = random_.uuid();
  Result<std::shared_ptr<Store>> made = co_await Store::create(registry_.main_reactor(), disk, options);
  if (!made) {
    disk->release();
    co_return std::move(made).error();
  }
  const std::shared_ptr<Store> store = std::move(made).value();
  const Result<Held*> held = take_up(store, disk);
  if (!held) {
    store->abandon();
    disk->release();
    co_return held.error();
  }
  co_return store->uuid();
}

Task<Result<void>> LvolManager::load_device(std::shared_ptr<Device> device) {
  const bool looks_like_one = co_await has_signature(device, registry_.main_reactor());
  if (!looks_like_one) co_return Error(Errc::not_found, fmt::format("device '{}' holds no lvol store", device->name()));
  if (device->removed()) co_return Error(Errc::no_device, fmt::format("device '{}' is gone", device->name()));
  CO_TRY(device->claim("lvol store (being loaded)"));
  Result<std::shared_ptr<Store>> loaded = co_await Store::load(registry_.main_reactor(), device);
  if (!loaded) {
    device->release();
    co_return std::move(loaded).error();
  }
  const std::shared_ptr<Store> store = std::move(loaded).value();
  const Result<Held*> held = device->removed()
                                 ? Result<Held*>(Error(Errc::no_device, "device '" + device->name() + "' is gone"))
                                 : take_up(store, device);
  if (!held) {
    store->abandon();
    device->release();
    co_return held.error();
  }
  co_return Result<void>{};
}

Task<Result<void>> LvolManager::load_store(std::string base_bdev) {
  const Result<std::shared_ptr<Device>> device = registry_.find(base_bdev);
  CO_TRY(device);
  Result<void> loaded = co_await load_device(*device);
  co_return loaded;
}

Task<void> LvolManager::examine(std::shared_ptr<Device> device) {
  const Gate::Pass pass(examinations_);
  if (!pass || device->removed() || !device->claimed_by().empty()) co_return;
  const Result<void> loaded = co_await load_device(device);
  if (!loaded && loaded.error().code() != Errc::not_found)
    LOG_WARN("lvol", "device '{}' is not used: {}", device->name(), loaded.error().message());
}

void LvolManager::on_device_added(const std::shared_ptr<Device>& device) {
  if (examinations_.closed()) return;
  const std::string uuid = device->info().uuid.to_string();
  for (const auto& held : stores_)
    for (const auto& [id, blob] : held->store->blobs())
      if (blob->esnap_id == uuid && blob->esnap.get() == nullptr) {
        const Result<std::shared_ptr<Device>> taken = take_outside(uuid);
        if (taken) spawn(outside_changed(uuid, *taken));
        break;
      }
}

void LvolManager::on_examine(const std::shared_ptr<Device>& device) {
  if (examinations_.closed()) return;
  if (dynamic_cast<LvolDevice*>(device.get()) != nullptr || !device->claimed_by().empty()) return;
  if (!device->info().read_only) spawn(examine(device));
}

// --- Giving stores up

// Takes the devices of its lvols away and waits until nothing of it is in use.
Task<Result<void>> LvolManager::close_lvols(Held& held) {
  Reactor& main = registry_.main_reactor();
  const std::shared_ptr<Store> store = held.store;
  store->set_stopping(true);
  const auto busy = [&] {
    return std::any_of(store->blobs().begin(), store->blobs().end(),
                       [](const auto& entry) { return entry.second->operation != nullptr; });
  };
  while (held.users != 0 || busy()) co_await sleep_for(main, kPollNs);
  const std::map<uint64_t, std::shared_ptr<Blob>> blobs = store->blobs();
  for (const auto& [id, blob] : blobs) {
    const std::string name = store->info_of(*blob).device_name;
    const bool listed = registry_.find(name).has_value();
    if (!listed || blob->damaged()) continue;
    const Result<void> removed = co_await registry_.remove(name);
    CO_TRY(removed);
  }
  while (!store->provisioner().idle()) co_await sleep_for(main, kPollNs);
  co_return Result<void>{};
}

void LvolManager::forget(Held& held) {
  held.store->space().changed = nullptr;
  held.disk->release();
  std::erase_if(stores_, [&](const auto& one) { return one.get() == &held; });
  drop_unused_outside();
}

Task<Result<void>> LvolManager::close_store(Held& held, bool lost) {
  held.closing = true;
  const Result<void> closed = co_await close_lvols(held);
  if (!closed) {
    held.closing = false;
    held.store->set_stopping(false);
    co_return Error(Errc::busy, closed.error().message());
  }
  const std::shared_ptr<Store> store = held.store;
  Result<void> outcome;
  if (lost) {
    store->abandon();
  } else {
    outcome = co_await store->unload();
  }
  forget(held);
  co_return outcome;
}

Task<Result<void>> LvolManager::unload_store(std::string store) {
  const Result<Held*> held = need_store(store);
  CO_TRY(held);
  Result<void> closed = co_await close_store(**held, false);
  co_return closed;
}

Task<Result<void>> LvolManager::delete_store(std::string store) {
  const Result<Held*> held = need_store(store);
  CO_TRY(held);
  const std::shared_ptr<Device> disk = (*held)->disk;
  const Result<void> closed = co_await close_store(**held, true);
  CO_TRY(closed);
  Result<std::unique_ptr<Channel>> channel = disk->open_channel(registry_.main_reactor());
  CO_TRY(channel);
  Result<void> wiped = co_await Store::wipe(**channel);
  co_return wiped;
}

Task<Result<void>> LvolManager::rename_store(std::string store, std::string new_name) {
  CO_TRY(check_name(new_name, "lvol store"));
  Held* found = find_store(store);
  if (found == nullptr) co_return Error(Errc::not_found, fmt::format("lvol store {} not found", store));
  if (found->closing) co_return Error(Errc::busy, fmt::format("lvol store '{}' is being closed", store));
  const Held::Use use(*found);
  if (found->store->name() == new_name) co_return Result<void>{};
  if (find_store(new_name) != nullptr ||
      std::find(pending_names_.begin(), pending_names_.end(), new_name) != pending_names_.end())
    co_return Error(Errc::already_exists, fmt::format("there is a lvol store '{}' already", new_name));
  const Pending pending(pending_names_, new_name);
  const std::shared_ptr<Store> renamed = found->store;
  const std::string before = renamed->name();
  const Result<void> written = co_await renamed->rename(new_name);
  CO_TRY(written);
  for (const auto& [id, blob] : renamed->blobs()) {
    if (blob->damaged()) continue;
    const Result<void> replaced = registry_.replace_alias(renamed->info_of(*blob).device_name,
                                                          before + "/" + blob->name, new_name + "/" + blob->name);
    if (!replaced) LOG_WARN("lvol", "{}", replaced.error().message());
  }
  co_return Result<void>{};
}

Task<Result<void>> LvolManager::grow_store(std::string store) {
  const Result<Held*> held = need_store(store);
  CO_TRY(held);
  const Held::Use use(**held);
  const std::shared_ptr<Store> growing = (*held)->store;
  Result<void> grown = co_await growing->grow();
  co_return grown;
}

Task<Result<CheckReport>> LvolManager::check(std::string target, bool repair) {
  if (Held* held = find_store(target); held != nullptr && !held->closing) {
    const Held::Use use(*held);
    const std::shared_ptr<Store> store = held->store;
    Result<CheckReport> report = co_await store->check(repair);
    co_return report;
  }
  const Result<std::shared_ptr<Device>> device = registry_.find(target);
  CO_TRY(device);
  for (const auto& held : stores_)
    if (held->disk == *device) {
      const Held::Use use(*held);
      const std::shared_ptr<Store> store = held->store;
      Result<CheckReport> report = co_await store->check(repair);
      co_return report;
    }
  CO_TRY((*device)->claim("a check of the lvol store on it"));
  Result<CheckReport> report = co_await Store::check_disk(registry_.main_reactor(), *device, repair);
  (*device)->release();
  co_return report;
}

void LvolManager::Held::on_removed(Device& device) {
  static_cast<void>(device);
  if (closing) return;
  closing = true;
  spawn(manager.lose_store(store->uuid().to_string()));
}

// Its disk is gone.
Task<void> LvolManager::lose_store(std::string uuid) {
  const Gate::Pass pass(background_);
  Held* held = find_store(uuid);
  if (held == nullptr) co_return;
  const Result<void> closed = co_await close_store(*held, true);
  if (!closed) LOG_WARN("lvol", "{}", closed.error().message());
}

Task<void> LvolManager::stop() {
  Reactor& main = registry_.main_reactor();
  OneShot<bool> examined(main);
  examinations_.close([&examined] { examined.set(true); });
  co_await examined;
  for (auto& [id, copy] : copies_) copy->stop();
  for (const auto& [id, copy] : copies_)
    while (!copy->ended()) co_await sleep_for(main, kPollNs);
  copies_.clear();
  while (!stores_.empty()) {
    Held& held = *stores_.back();
    if (held.closing) {
      co_await sleep_for(main, kPollNs);
      continue;
    }
    const Result<void> closed = co_await close_store(held, false);
    if (!closed) LOG_WARN("lvol", "{}", closed.error().message());
  }
  OneShot<bool> left(main);
  background_.close([&left] { left.set(true); });
  co_await left;
}

void LvolManager::watch_space(Held& held) {
  held.store->space().changed = [this, &held] {
    const uint64_t free = held.store->space().free_clusters();
    const uint64_t total = held.store->data_clusters();
    for (size_t i = 0; i < std::size(kThresholdsPercent); ++i) {
      const bool below = free * 100 < total * kThresholdsPercent[i];
      if (below == held.below[i]) continue;
      held.below[i] = below;
      const StoreInfo info = held.store->info();
      if (below)
        LOG_WARN("lvol", "store '{}': less than {} % of its clusters are free", info.name, kThresholdsPercent[i]);
      if (events_.on_threshold) events_.on_threshold(info, kThresholdsPercent[i], below);
    }
  };
}

// --- Devices below esnap clones

Result<std::shared_ptr<Device>> LvolManager::take_outside(const std::string& esnap_id) {
  const auto held = outsides_.find(esnap_id);
  if (held != outsides_.end()) return held->second->device;
  TRY_ASSIGN(const std::shared_ptr<Device> device, registry_.find(esnap_id));
  TRY(device->claim(kOutsideOwner));
  outsides_.emplace(esnap_id, std::make_unique<Outside>(*this, esnap_id, device));
  return device;
}

void LvolManager::drop_unused_outside() {
  std::erase_if(outsides_, [&](const auto& entry) {
    return std::none_of(stores_.begin(), stores_.end(), [&](const auto& held) {
      return std::any_of(held->store->blobs().begin(), held->store->blobs().end(),
                         [&](const auto& blob) { return blob.second->esnap_id == entry.first; });
    });
  });
}

Task<void> LvolManager::outside_changed(std::string esnap_id, std::shared_ptr<Device> device) {
  const Gate::Pass pass(background_);
  if (!pass) co_return;
  std::vector<std::shared_ptr<Store>> stores;
  for (const auto& held : stores_) stores.push_back(held->store);
  for (const std::shared_ptr<Store>& store : stores) co_await store->set_outside_device(esnap_id, device);
}

void LvolManager::Outside::on_removed(Device& removed) {
  static_cast<void>(removed);
  manager.on_outside_removed(*this);
}

void LvolManager::on_outside_removed(Outside& outside) {
  const std::string id = outside.id;
  registry_.main_reactor().post([this, id] {
    outsides_.erase(id);
    spawn(outside_changed(id, nullptr));
  });
}

}  // namespace diskengine::lvol
