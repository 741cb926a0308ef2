#include "fabric/region_map.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "base/log.h"

namespace diskengine::fabric {

void RegistrarWork::run(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  more_.notify_one();
}

void RegistrarWork::dispose(std::shared_ptr<void> object) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back([object = std::move(object)]() mutable { object.reset(); });
    changed_ = true;  // what could not be registered because of it can be now
  }
  more_.notify_one();
}

const RegionMap::Entry* RegionMap::find(const void* at, size_t bytes) noexcept {
  if (regions_.version() != version_) refresh();
  const auto address = reinterpret_cast<uint64_t>(at);
  for (const Entry& entry : entries_) {
    const auto base = reinterpret_cast<uint64_t>(entry.region.base);
    if (address >= base && in_range(address - base, bytes, entry.region.bytes)) return &entry;
  }
  return nullptr;
}

// Lets go of what left the list.
void RegionMap::refresh() noexcept {
  version_ = regions_.version();
  const std::vector<DmaRegions::Region> listed = regions_.snapshot();
  std::erase_if(entries_, [&](Entry& entry) {
    const auto same = [&entry](const DmaRegions::Region& region) { return region.id == entry.region.id; };
    if (std::ranges::any_of(listed, same)) return false;
    work_->dispose(std::move(entry.registration));
    return true;
  });
}

void RegionMap::install(const DmaRegions::Region& region, std::shared_ptr<void> registration) {
  entries_.push_back({region, std::move(registration)});
  refresh();  // it may have left meanwhile
}

Registrar::Registrar(DmaRegions& regions) : regions_(regions), thread_([this] { run(); }) { regions_.watch(*this); }

Registrar::~Registrar() {
  regions_.unwatch(*this);
  {
    const std::lock_guard lock(work_->mutex_);
    work_->stopping_ = true;
  }
  work_->more_.notify_one();
  thread_.join();
}

std::shared_ptr<RegionMap> Registrar::make_map(Reactor& reactor, RegionMap::Register make) {
  auto map = std::make_shared<RegionMap>(reactor, regions_, work_, std::move(make));
  {
    const std::lock_guard lock(work_->mutex_);
    work_->maps_.push_back(map);
    work_->changed_ = true;
  }
  work_->more_.notify_one();
  return map;
}

void Registrar::on_regions_changed() noexcept {
  {
    const std::lock_guard lock(work_->mutex_);
    work_->changed_ = true;
  }
  work_->more_.notify_one();
}

void Registrar::run() {
  RegistrarWork& work = *work_;
  std::unique_lock lock(work.mutex_);
  for (;;) {
    work.more_.wait(lock, [&work] { return work.stopping_ || work.changed_ || !work.jobs_.empty(); });
    std::deque<std::function<void()>> jobs = std::exchange(work.jobs_, {});
    const bool changed = std::exchange(work.changed_, false) && !work.stopping_;
    const bool stopping = work.stopping_;
    std::erase_if(work.maps_, [](const auto& map) { return map.expired(); });
    const std::vector<std::weak_ptr<RegionMap>> maps = changed ? work.maps_ : std::vector<std::weak_ptr<RegionMap>>();
    lock.unlock();
    while (!jobs.empty()) {
      jobs.front()();
      jobs.pop_front();
    }
    for (const auto& weak : maps)
      if (const std::shared_ptr<RegionMap> map = weak.lock()) serve(map);
    lock.lock();
    if (stopping && work.jobs_.empty()) return;
  }
}

void Registrar::serve(const std::shared_ptr<RegionMap>& map) {
  const std::vector<DmaRegions::Region> listed = regions_.snapshot();
  std::erase_if(map->seen_, [&listed](uint64_t id) {
    return std::ranges::none_of(listed, [id](const DmaRegions::Region& region) { return region.id == id; });
  });
  for (const DmaRegions::Region& region : listed) {
    if (!map->seen_.insert(region.id).second) continue;
    Result<std::shared_ptr<void>> made = map->make_(region);
    if (!made && made.error().code() == Errc::already_exists) {
      map->seen_.erase(region.id);  // what was there before is on its way out, and then it is tried again
      continue;
    }
    if (!made) {
      LOG_WARN("fabric", "{}: the data of this memory is copied", made.error().message());
      continue;
    }
    map->reactor_.post([map, region, registration = *made] { map->install(region, registration); });
  }
  // What left is let go of even where no command comes that would notice.
  map->reactor_.post([map] { map->refresh(); });
}

}  // namespace diskengine::fabric
