// A front end's memory as this process sees it: mapped regions, and the translation of guest physical addresses (in
// descriptors) and of the front end's own user addresses (of the rings) to pointers.
//
// A GuestMemory never changes: a new table of regions is a new GuestMemory that shares the mappings it keeps. Whoever
// has I/O in a region holds the table it was translated with, so a mapping goes only when its last I/O is done.
// Threads: built on the main reactor, read anywhere, dropped anywhere.
#pragma once

#include <sys/uio.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "format/vhost_user.h"
#include "runtime/dma_regions.h"
#include "vhost/fault_guard.h"

namespace diskengine::vhost {

// Unmaps on a thread of its own: to take down the page tables of a large guest takes too long for a reactor. Knows the
// list that guest memory is put on for devices to reach it.
class Unmapper {
 public:
  // `regions` may be null; otherwise it outlives all mappings.
  explicit Unmapper(DmaRegions* regions = nullptr);
  // Unmaps what is left.
  ~Unmapper();
  Unmapper(const Unmapper&) = delete;
  Unmapper& operator=(const Unmapper&) = delete;

  // Any thread.
  void unmap(void* base, size_t bytes);
  DmaRegions* regions() const noexcept { return regions_; }

 private:
  void run();
  DmaRegions* const regions_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::vector<std::pair<void*, size_t>> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

// One file mapped shared; also used for the in-flight buffer.
class Mapping {
 public:
  // `bytes` at `offset` of the file, which must be that long. The descriptor may be closed afterwards.
  static Result<std::unique_ptr<Mapping>> map(int fd, uint64_t offset, uint64_t bytes,
                                              std::shared_ptr<Unmapper> unmapper);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // The guest's memory, not the in-flight buffer, may be reached by devices.
  void list(size_t bytes) {
    if (unmapper_->regions() != nullptr) listed_ = unmapper_->regions()->list(data_, bytes);
  }
  uint8_t* data() const noexcept { return data_; }
  bool faulted() const noexcept { return guard_.faulted(); }

 private:
  Mapping(void* base, size_t bytes, uint8_t* data, FaultGuard guard, std::shared_ptr<Unmapper> unmapper)
      : base_(base), bytes_(bytes), data_(data), guard_(std::move(guard)), unmapper_(std::move(unmapper)) {}
  void* base_;
  size_t bytes_;
  uint8_t* data_;
  FaultGuard guard_;
  std::shared_ptr<Unmapper> unmapper_;
  DmaRegions::Listed listed_;
};

class GuestMemory {
 public:
  static constexpr size_t kRegionsMax = 32;  // memory slots we let a front end use

  struct Region {
    uint64_t guest_address;
    uint64_t size;
    uint64_t user_address;
    uint8_t* host;
    std::shared_ptr<const Mapping> mapping;  // null for memory of our own (tests)
  };

  GuestMemory() = default;
  // Regions that overlap in either address space, wrap or are empty are refused: Errc::invalid_argument.
  static Result<std::shared_ptr<const GuestMemory>> make(std::vector<Region> regions);
  // Maps the regions of a SET_MEM_TABLE (or of one ADD_MEM_REG); fds in their order.
  static Result<Region> map(const spec::VhostUserRegion& region, int fd, std::shared_ptr<Unmapper> unmapper);

  // This table and one region more, or one less (named by its addresses and size).
  Result<std::shared_ptr<const GuestMemory>> with(Region region) const;
  Result<std::shared_ptr<const GuestMemory>> without(const spec::VhostUserRegion& region) const;

  const std::vector<Region>& regions() const noexcept { return regions_; }
  // The front end took memory away: see FaultGuard.
  bool faulted() const noexcept;

  // The pointer for [guest_address, + bytes) if it lies within one region, else nullptr.
  uint8_t* translate(uint64_t guest_address, uint64_t bytes) const noexcept;
  uint8_t* translate_user(uint64_t user_address, uint64_t bytes) const noexcept;
  // The region that holds this guest address, or nullptr.
  const Region* find(uint64_t guest_address) const noexcept {
    for (const Region& region : regions_)
      if (guest_address - region.guest_address < region.size) return &region;
    return nullptr;
  }

 private:
  explicit GuestMemory(std::vector<Region> regions) : regions_(std::move(regions)) {}
  std::vector<Region> regions_;
};

}  // namespace diskengine::vhost
