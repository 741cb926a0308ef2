#include "fabric/rdma/memory_map.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "base/log.h"

namespace diskengine::fabric::rdma {

const ibv_mr* MemoryMap::find(const void* at, size_t bytes) noexcept {
  if (regions_.version() != version_) refresh();
  const auto address = reinterpret_cast<uint64_t>(at);
  for (const Entry& entry : entries_) {
    const auto base = reinterpret_cast<uint64_t>(entry.region.base);
    if (address >= base && in_range(address - base, bytes, entry.region.bytes)) return entry.mr->get();
  }
  return nullptr;
}

// Lets go of what left the list.
void MemoryMap::refresh() noexcept {
  using Trash = std::pair<std::shared_ptr<MemoryMap>, std::shared_ptr<OwnedMr>>;
  version_ = regions_.version();
  const std::vector<DmaRegions::Region> listed = regions_.snapshot();
  std::erase_if(entries_, [&](Entry& entry) {
    const auto same = [&entry](const DmaRegions::Region& region) { return region.id == entry.region.id; };
    if (std::ranges::any_of(listed, same)) return false;
    work_->dispose(std::make_shared<Trash>(shared_from_this(), std::move(entry.mr)));
    return true;
  });
}

void MemoryMap::install(const DmaRegions::Region& region, std::shared_ptr<OwnedMr> mr) {
  entries_.push_back({region, std::move(mr)});
  refresh();  // it may have left meanwhile
}

Registrar::Registrar(DmaRegions& regions) : regions_(regions), thread_([this] { run(); }) { regions_.watch(*this); }

Registrar::~Registrar() {
  regions_.unwatch(*this);
  {
    const std::lock_guard lock(work_->mutex);
    work_->stopping = true;
  }
  work_->more.notify_one();
  thread_.join();
}

std::shared_ptr<MemoryMap> Registrar::make_map(std::shared_ptr<Verbs> verbs, Reactor& reactor, OwnedPd pd) {
  auto map = std::make_shared<MemoryMap>(std::move(verbs), reactor, std::move(pd), regions_, work_);
  {
    const std::lock_guard lock(work_->mutex);
    work_->maps.push_back(map);
    work_->changed = true;
  }
  work_->more.notify_one();
  return map;
}

void Registrar::on_regions_changed() noexcept {
  {
    const std::lock_guard lock(work_->mutex);
    work_->changed = true;
  }
  work_->more.notify_one();
}

void Registrar::run() {
  RegistrarWork& work = *work_;
  std::unique_lock lock(work.mutex);
  for (;;) {
    work.more.wait(lock, [&work] { return work.stopping || work.changed || !work.trash.empty(); });
    std::vector<std::shared_ptr<void>> trash = std::exchange(work.trash, {});
    const bool changed = std::exchange(work.changed, false) && !work.stopping;
    const bool stopping = work.stopping;
    std::erase_if(work.maps, [](const auto& map) { return map.expired(); });
    const std::vector<std::weak_ptr<MemoryMap>> maps = changed ? work.maps : std::vector<std::weak_ptr<MemoryMap>>();
    lock.unlock();
    trash.clear();
    for (const auto& weak : maps)
      if (const std::shared_ptr<MemoryMap> map = weak.lock()) serve(map);
    lock.lock();
    if (stopping && work.trash.empty()) return;
  }
}

void Registrar::serve(const std::shared_ptr<MemoryMap>& map) {
  constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  const std::vector<DmaRegions::Region> listed = regions_.snapshot();
  std::erase_if(map->seen_, [&listed](uint64_t id) {
    return std::ranges::none_of(listed, [id](const DmaRegions::Region& region) { return region.id == id; });
  });
  for (const DmaRegions::Region& region : listed) {
    if (!map->seen_.insert(region.id).second) continue;
    Result<ibv_mr*> made = map->verbs_->reg_mr(map->pd(), region.base, region.bytes, kAccess);
    if (!made) {
      LOG_WARN("fabric", "{}: the data of this memory is copied", made.error().message());
      continue;
    }
    auto mr = std::make_shared<OwnedMr>(*map->verbs_, *made);
    map->reactor_.post([map, region, mr] { map->install(region, mr); });
  }
  // What left is let go of even where no command comes that would notice.
  map->reactor_.post([map] { map->refresh(); });
}

}  // namespace diskengine::fabric::rdma
