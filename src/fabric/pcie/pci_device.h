// The seam to PCI devices that a process drives by itself: registers, memory they reach, interrupts, reset. The real
// one is VFIO (vfio.h), sim_controller.h stands in for it in tests.
//
// Threads: each function says whose it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/dma_buffer.h"
#include "runtime/dma_regions.h"

namespace diskengine::fabric::pcie {

class DmaMapping;

// Where devices see a piece of memory: in runs of equal length, each of which is contiguous for them as well.
struct DmaAddresses {
  unsigned run_shift = 63;  // the length is 2 to the power of this
  std::vector<uint64_t> runs;
};

// What a group of devices can reach. Any thread. Mappings end with their domain.
class DmaDomain {
 public:
  virtual ~DmaDomain() = default;
  // Lets the devices reach [at, at + bytes), whole pages, which are locked in memory. Takes as long as touching all of
  // it. Errc::already_exists: what was mapped at these addresses before has not been unmapped yet.
  virtual Result<DmaAddresses> map(uint8_t* at, size_t bytes) = 0;
  // With nothing under way in it.
  virtual void unmap(const DmaAddresses& addresses, size_t bytes) noexcept = 0;
  // Memory that map() takes.
  virtual Result<DmaBuffer> allocate(size_t bytes) { return DmaBuffer::allocate(bytes); }
  // Whether it takes other memory as well, in one run.
  virtual bool maps_any_memory() const noexcept { return true; }

  // The one mapping of a listed region, for all who use it.
  static Result<std::shared_ptr<DmaMapping>> map_region(const std::shared_ptr<DmaDomain>& domain,
                                                        const DmaRegions::Region& region);

 private:
  std::mutex mutex_;
  std::map<uint64_t, std::weak_ptr<DmaMapping>> regions_;  // by their ids
};

// Memory of someone else that a domain's devices reach until the end of this object.
class DmaMapping {
 public:
  static Result<DmaMapping> make(std::shared_ptr<DmaDomain> domain, uint8_t* at, size_t bytes) {
    DmaMapping mapping;
    TRY_ASSIGN(mapping.addresses_, domain->map(at, bytes));
    mapping.domain_ = std::move(domain);
    mapping.base_ = at;
    mapping.bytes_ = bytes;
    return mapping;
  }
  DmaMapping() = default;
  DmaMapping(DmaMapping&& other) noexcept { *this = std::move(other); }
  DmaMapping& operator=(DmaMapping&& other) noexcept {
    std::swap(domain_, other.domain_);
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    std::swap(addresses_, other.addresses_);
    return *this;
  }
  ~DmaMapping() {
    if (domain_ != nullptr) domain_->unmap(addresses_, bytes_);
  }

  // Of an address inside the memory.
  uint64_t iova_of(const void* at) const noexcept {
    const uint64_t offset = offset_of(at);
    return addresses_.runs[offset >> addresses_.run_shift] + (offset & (run_bytes() - 1));
  }
  // How much from there on is contiguous for the devices.
  uint64_t contiguous_at(const void* at) const noexcept { return run_bytes() - (offset_of(at) & (run_bytes() - 1)); }

 private:
  uint64_t offset_of(const void* at) const noexcept {
    return static_cast<uint64_t>(static_cast<const uint8_t*>(at) - base_);
  }
  uint64_t run_bytes() const noexcept { return uint64_t{1} << addresses_.run_shift; }

  std::shared_ptr<DmaDomain> domain_;
  uint8_t* base_ = nullptr;
  size_t bytes_ = 0;
  DmaAddresses addresses_;
};

// Memory of our own that a domain's devices reach. Its first kContiguousBytes are contiguous for them, and so is every
// page.
class DmaMemory {
 public:
  static constexpr size_t kContiguousBytes = size_t{2} << 20;

  static Result<DmaMemory> make(std::shared_ptr<DmaDomain> domain, size_t bytes) {
    DmaMemory memory;
    TRY_ASSIGN(memory.buffer_, domain->allocate(bytes));
    TRY_ASSIGN(memory.mapping_, DmaMapping::make(std::move(domain), memory.buffer_.data(), memory.buffer_.size()));
    return memory;
  }

  uint8_t* data() noexcept { return buffer_.data(); }
  size_t size() const noexcept { return buffer_.size(); }
  const DmaMapping& mapping() const noexcept { return mapping_; }
  uint64_t iova_of(const void* at) const noexcept { return mapping_.iova_of(at); }

 private:
  DmaBuffer buffer_;
  DmaMapping mapping_;  // ends before the memory
};

// One function of a PCI device, open and ours alone. Held by shared_ptr from any thread; its end may take as long as a
// reset, so it is let go of off the reactors.
class PciDevice {
 public:
  virtual ~PciDevice() = default;

  // Any thread. Registers of BAR 0 by offset, which is below register_bytes() and aligned. What is written to memory
  // before is seen by the device that sees the write. A device that is gone reads kRegisterGone.
  virtual size_t register_bytes() const noexcept = 0;
  virtual uint32_t read32(uint32_t offset) noexcept = 0;
  virtual void write32(uint32_t offset, uint32_t value) noexcept = 0;

  virtual const std::shared_ptr<DmaDomain>& domain() const noexcept = 0;

  // Interrupt vectors, each of which makes its eventfd readable while it is on; all are at first.
  virtual unsigned vectors() const noexcept = 0;
  virtual int vector_fd(unsigned vector) const noexcept = 0;
  // The vector's one user. False if the kernel refuses.
  virtual bool enable_vector(unsigned vector, bool on) noexcept = 0;
  // Readable once the kernel wants the device back: it is about to be unplugged or unbound. -1: it never says.
  virtual int removal_fd() const noexcept = 0;

  // Blocks, for seconds perhaps. After it, whether it succeeds or not, the device reaches no memory.
  virtual Result<void> reset() = 0;
};

// Finds and opens devices. Any thread.
class PciBus {
 public:
  virtual ~PciBus() = default;
  // Blocks. `address` is in the form of normal_pci_address(). Errc::not_found: there is none at the address.
  virtual Result<std::shared_ptr<PciDevice>> open(const std::string& address) = 0;
  // The addresses of NVMe controllers that may be opened, in order.
  virtual std::vector<std::string> list() const = 0;
};

// "0000:00:04.0" of that, "00:04.0" or SPDK's "0000.00.04.0". Errc::invalid_argument.
Result<std::string> normal_pci_address(const std::string& text);

}  // namespace diskengine::fabric::pcie
