#include "vhost/guest_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/checked.h"

namespace diskengine::vhost {

Unmapper::Unmapper(DmaRegions* regions) : regions_(regions), thread_([this] { run(); }) {}

Unmapper::~Unmapper() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  more_.notify_one();
  thread_.join();
}

void Unmapper::unmap(void* base, size_t bytes) {
  {
    std::lock_guard lock(mutex_);
    waiting_.emplace_back(base, bytes);
  }
  more_.notify_one();
}

void Unmapper::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    more_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    std::vector<std::pair<void*, size_t>> due = std::move(waiting_);
    waiting_.clear();
    const bool last = stopping_;
    lock.unlock();
    for (const auto& [base, bytes] : due) munmap(base, bytes);
    lock.lock();
    if (last && waiting_.empty()) return;
  }
}

Result<std::unique_ptr<Mapping>> Mapping::map(int fd, uint64_t offset, uint64_t bytes,
                                              std::shared_ptr<Unmapper> unmapper) {
  struct stat file {};
  if (fstat(fd, &file) != 0) return Error::from_errno(errno, "look at the file behind a memory region");
  if (!S_ISREG(file.st_mode)) return Error(Errc::invalid_argument, "the file behind a memory region is not a file");
  if (bytes == 0 || !in_range(offset, bytes, static_cast<uint64_t>(file.st_size)))
    return Error(
        Errc::invalid_argument,
        fmt::format("a memory region of {} bytes at {} is outside its file of {} bytes", bytes, offset, file.st_size));
  // Files of huge pages are mapped in whole pages, and say their size here.
  constexpr uint64_t kPageBytes = 4096;
  constexpr uint64_t kHugePageBytesMax = uint64_t{1} << 30;
  uint64_t page = static_cast<uint64_t>(file.st_blksize);
  if (page < kPageBytes || page > kHugePageBytesMax || !is_power_of_two(page)) page = kPageBytes;
  const uint64_t start = offset / page * page;
  const uint64_t length = round_up(offset + bytes - start, page);
  void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(start));
  if (base == MAP_FAILED) return Error::from_errno(errno, fmt::format("map a memory region of {} bytes", bytes));
  madvise(base, length, MADV_DONTDUMP);
  Result<FaultGuard> guard = FaultGuard::guard(base, length);
  if (!guard) {
    munmap(base, length);
    return guard.error();
  }
  return std::unique_ptr<Mapping>(new Mapping(base, length, static_cast<uint8_t*>(base) + (offset - start),
                                              std::move(*guard), std::move(unmapper)));
}

Mapping::~Mapping() {
  { const DmaRegions::Listed ended = std::move(listed_); }
  { const FaultGuard ended = std::move(guard_); }
  unmapper_->unmap(base_, bytes_);
}

Result<GuestMemory::Region> GuestMemory::map(const spec::VhostUserRegion& region, int fd,
                                             std::shared_ptr<Unmapper> unmapper) {
  TRY_ASSIGN(std::unique_ptr<Mapping> mapping, Mapping::map(fd, region.mmap_offset, region.size, std::move(unmapper)));
  mapping->list(region.size);
  uint8_t* host = mapping->data();
  return Region{region.guest_address, region.size, region.user_address, host, std::move(mapping)};
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::make(std::vector<Region> regions) {
  if (regions.size() > kRegionsMax)
    return Error(Errc::invalid_argument, fmt::format("{} memory regions, at most {}", regions.size(), kRegionsMax));
  for (const Region& region : regions) {
    uint64_t end = 0;
    if (region.size == 0 || !checked_add(region.guest_address, region.size, &end) ||
        !checked_add(region.user_address, region.size, &end))
      return Error(Errc::invalid_argument, fmt::format("a memory region at guest address {:#x} of {:#x} bytes wraps",
                                                       region.guest_address, region.size));
  }
  const auto overlap = [&regions](uint64_t Region::*address) -> const Region* {
    std::sort(regions.begin(), regions.end(),
              [address](const Region& a, const Region& b) { return a.*address < b.*address; });
    for (size_t i = 1; i < regions.size(); ++i)
      if (regions[i - 1].*address + regions[i - 1].size > regions[i].*address) return &regions[i];
    return nullptr;
  };
  const Region* bad = overlap(&Region::user_address);
  if (bad == nullptr) bad = overlap(&Region::guest_address);
  if (bad != nullptr)
    return Error(Errc::invalid_argument,
                 fmt::format("the memory region at guest address {:#x} overlaps another", bad->guest_address));
  return std::shared_ptr<const GuestMemory>(new GuestMemory(std::move(regions)));
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::with(Region region) const {
  std::vector<Region> regions = regions_;
  regions.push_back(std::move(region));
  return make(std::move(regions));
}

Result<std::shared_ptr<const GuestMemory>> GuestMemory::without(const spec::VhostUserRegion& region) const {
  std::vector<Region> regions = regions_;
  const size_t removed = std::erase_if(regions, [&region](const Region& r) {
    return r.guest_address == region.guest_address && r.user_address == region.user_address && r.size == region.size;
  });
  if (removed == 0)
    return Error(Errc::not_found, fmt::format("no memory region at guest address {:#x} of {:#x} bytes",
                                              region.guest_address, region.size));
  return make(std::move(regions));
}

bool GuestMemory::faulted() const noexcept {
  return std::any_of(regions_.begin(), regions_.end(),
                     [](const Region& region) { return region.mapping != nullptr && region.mapping->faulted(); });
}

uint8_t* GuestMemory::translate(uint64_t guest_address, uint64_t bytes) const noexcept {
  const Region* region = find(guest_address);
  if (region == nullptr) return nullptr;
  const uint64_t offset = guest_address - region->guest_address;
  return bytes <= region->size - offset ? region->host + offset : nullptr;
}

uint8_t* GuestMemory::translate_user(uint64_t user_address, uint64_t bytes) const noexcept {
  for (const Region& region : regions_) {
    const uint64_t offset = user_address - region.user_address;
    if (offset < region.size) return bytes <= region.size - offset ? region.host + offset : nullptr;
  }
  return nullptr;
}

}  // namespace diskengine::vhost
