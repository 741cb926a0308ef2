#include "fabric/pcie/vfio.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "base/log.h"
#include "base/unique_fd.h"

namespace diskengine::fabric::pcie {

namespace fs = std::filesystem;

namespace {

constexpr char kBinding[] = "docs/operating.md says how to bind a disk to vfio-pci";
constexpr char kDevices[] = "/sys/bus/pci/devices";
constexpr char kDriver[] = "vfio-pci";
constexpr uint32_t kNvmeClass = 0x010802;
// Of BAR 0 that is mapped, at most: registers and doorbells of kVectorsMax queues at the usual stride are far less.
constexpr size_t kMappedMax = size_t{1} << 20;

struct Descriptors {
  UniqueFd group;
  UniqueFd device;  // closed first
};

// The last component of what a link points to; empty if there is no such link.
std::string link_name(const fs::path& link) {
  std::error_code error;
  const fs::path target = fs::read_symlink(link, error);
  return error ? std::string() : target.filename().string();
}

uint32_t read_hex_file(const fs::path& path) {
  std::ifstream file(path);
  uint32_t value = 0;
  file >> std::hex >> value;
  return value;
}

// Where /dev/<name> is mounted, or empty.
std::string mount_of(const std::string& name) {
  std::ifstream mounts("/proc/mounts");
  std::string device;
  std::string where;
  std::string rest;
  while (mounts >> device >> where && std::getline(mounts, rest))
    if (device == "/dev/" + name) return where;
  return {};
}

// What the kernel does with the block devices of a controller and their partitions: ", and ... is mounted on /data".
std::string use_by_kernel(const fs::path& device) {
  std::error_code error;
  for (auto at = fs::recursive_directory_iterator(device / "nvme", error);
       !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    const std::string name = at->path().filename().string();
    std::error_code none;
    if (!name.starts_with("nvme") || !fs::exists(at->path() / "dev", none)) continue;
    if (const std::string where = mount_of(name); !where.empty())
      return fmt::format(", and /dev/{} is mounted on {}", name, where);
    const fs::directory_iterator holders(at->path() / "holders", none);
    if (holders != fs::directory_iterator())
      return fmt::format(", and /dev/{} is in use by {}", name, holders->path().filename().string());
  }
  return {};
}

// The name of a device's group below /dev/vfio.
struct Group {
  std::string name;
  bool without_iommu = false;
};

constexpr char kNoIommu[] =
    "has no IOMMU in front of it, which would keep it from all memory but its own: switch it on in the firmware and on "
    "the kernel's command line (intel_iommu=on)";

// What stands in the way of driving the device, in the order in which an operator meets it.
Result<Group> group_of(const std::string& address, bool allow_no_iommu) {
  const fs::path device = fs::path(kDevices) / address;
  std::error_code error;
  if (!fs::exists(device, error)) return Error(Errc::not_found, fmt::format("there is no PCI device at {}", address));
  if (const uint32_t pci_class = read_hex_file(device / "class"); pci_class != kNvmeClass)
    return Error(Errc::invalid_argument,
                 fmt::format("the PCI device at {} is no NVMe controller (class {:06x})", address, pci_class));
  const std::string group = link_name(device / "iommu_group");
  if (group.empty()) return Error(Errc::not_supported, fmt::format("{} {}", address, kNoIommu));
  const std::string driver = link_name(device / "driver");
  if (driver != kDriver)
    return Error(Errc::busy, fmt::format("{} is driven by {}{}: {}", address, driver.empty() ? "nothing" : driver,
                                         use_by_kernel(device), kBinding));
  // The kernel names the groups so that it makes for devices without one (vfio's enable_unsafe_noiommu_mode).
  const std::string unprotected = "noiommu-" + group;
  if (!fs::exists(fs::path("/dev/vfio") / unprotected, error)) return Group{.name = group};
  if (!allow_no_iommu)
    return Error(Errc::permission_denied,
                 fmt::format("{} {}, or say --unsafe-no-iommu to diskengine-io", address, kNoIommu));
  return Group{.name = unprotected, .without_iommu = true};
}

Error ioctl_error(const std::string& what) { return Error::from_errno(errno, what); }

}  // namespace

// --- Memory ---------------------------------------------------------------------------------------------------------

class VfioContainer : public DmaDomain {
 public:
  // `without_iommu`: for devices that have none in front of them.
  static Result<std::shared_ptr<VfioContainer>> open(bool without_iommu);

  // A container is for one life: without groups the kernel forgets its mappings.
  bool usable() const noexcept { return !left_; }
  Result<void> add(const UniqueFd& group) {
    if (const int fd = fd_.get(); ioctl(group.get(), VFIO_GROUP_SET_CONTAINER, &fd) != 0)
      return ioctl_error("adding the IOMMU group to the container");
    if (groups_ == 0 && ioctl(fd_.get(), VFIO_SET_IOMMU, iommu_) != 0) return ioctl_error("switching the IOMMU on");
    ++groups_;
    return {};
  }
  void remove() noexcept {
    if (--groups_ == 0) left_ = true;
  }

 protected:
  explicit VfioContainer(unsigned long iommu) noexcept : iommu_(iommu) {}
  int fd() const noexcept { return fd_.get(); }
  bool in_use() const noexcept { return groups_ > 0; }

 private:
  const unsigned long iommu_;  // which of VFIO's
  UniqueFd fd_;
  std::atomic<unsigned> groups_{0};
  std::atomic<bool> left_{false};
};

namespace {

// Behind an IOMMU: devices see memory at the addresses this process has it at.
class IommuDomain final : public VfioContainer {
 public:
  IommuDomain() : VfioContainer(VFIO_TYPE1v2_IOMMU) {}

  Result<DmaAddresses> map(uint8_t* at, size_t bytes) override {
    vfio_iommu_type1_dma_map request{};
    request.argsz = sizeof request;
    request.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    request.vaddr = request.iova = reinterpret_cast<uint64_t>(at);
    request.size = bytes;
    if (ioctl(fd(), VFIO_IOMMU_MAP_DMA, &request) == 0) return DmaAddresses{.runs = {request.iova}};
    const int error = errno;
    const std::string what = fmt::format("mapping {} bytes for PCI devices", bytes);
    if (error == EEXIST) return Error(Errc::already_exists, fmt::format("{}: its addresses are in use", what));
    if (error == ENOMEM)
      return Error(Errc::no_memory, fmt::format("{}: the limit of locked memory (ulimit -l) is too low", what));
    if (error == EINVAL)
      return Error(
          Errc::not_supported,
          fmt::format("{}: the IOMMU does not take address {:#x}; it needs 48-bit addresses", what, request.iova));
    return Error::from_errno(error, what);
  }

  void unmap(const DmaAddresses& addresses, size_t bytes) noexcept override {
    vfio_iommu_type1_dma_unmap request{};
    request.argsz = sizeof request;
    request.iova = addresses.runs.front();
    request.size = bytes;
    // The kernel has unmapped everything by itself once the last device is gone.
    if (ioctl(fd(), VFIO_IOMMU_UNMAP_DMA, &request) != 0 && in_use())
      LOG_ERROR("fabric", "cannot unmap {} bytes from PCI devices: {}", bytes, std::strerror(errno));
  }
};

// Without one: devices see all memory of the machine at its physical addresses. Only huge pages of the kernel's pool
// stay at theirs.
class PhysicalDomain final : public VfioContainer {
 public:
  PhysicalDomain() : VfioContainer(VFIO_NOIOMMU_IOMMU) {}

  Result<DmaAddresses> map(uint8_t* at, size_t bytes) override {
    const UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    if (!pagemap) return ioctl_error("opening /proc/self/pagemap");
    DmaAddresses addresses{.run_shift = std::countr_zero(DmaBuffer::kHugePageBytes), .runs = {}};
    for (size_t done = 0; done < bytes; done += DmaBuffer::kHugePageBytes) {
      TRY_ASSIGN(const uint64_t address, physical_address(pagemap, at + done));
      addresses.runs.push_back(address);
    }
    return addresses;
  }
  void unmap(const DmaAddresses&, size_t) noexcept override {}
  Result<DmaBuffer> allocate(size_t bytes) override { return DmaBuffer::allocate_huge(bytes); }
  bool maps_any_memory() const noexcept override { return false; }

 private:
  // Of a huge page, by its first small one. The kernel's Documentation/admin-guide/mm/pagemap.rst: eight bytes for each
  // small page, bits 54:0 its number if bit 63 says that it is there; zero for those who may not know.
  static Result<uint64_t> physical_address(const UniqueFd& pagemap, const uint8_t* at) {
    constexpr uint64_t kPresent = uint64_t{1} << 63;
    constexpr uint64_t kNumber = (uint64_t{1} << 55) - 1;
    const uint64_t page = reinterpret_cast<uint64_t>(at) / DmaBuffer::kAlignment;
    uint64_t entry = 0;
    if (pread(pagemap.get(), &entry, sizeof entry, static_cast<off_t>(page * sizeof entry)) != sizeof entry)
      return ioctl_error("reading /proc/self/pagemap");
    const uint64_t address = (entry & kNumber) * DmaBuffer::kAlignment;
    if ((entry & kPresent) == 0 || address == 0 || address % DmaBuffer::kHugePageBytes != 0)
      return Error(Errc::permission_denied,
                   "the kernel does not tell the physical addresses of memory: without an IOMMU root is needed "
                   "(CAP_SYS_ADMIN and CAP_SYS_RAWIO)");
    return address;
  }
};

}  // namespace

Result<std::shared_ptr<VfioContainer>> VfioContainer::open(bool without_iommu) {
  std::shared_ptr<VfioContainer> container;
  if (without_iommu) {
    container = std::make_shared<PhysicalDomain>();
  } else {
    container = std::make_shared<IommuDomain>();
  }
  container->fd_ = UniqueFd(::open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC));
  if (!container->fd_) return ioctl_error("opening /dev/vfio/vfio (is the module vfio-pci loaded?)");
  if (ioctl(container->fd_.get(), VFIO_GET_API_VERSION) != VFIO_API_VERSION ||
      ioctl(container->fd_.get(), VFIO_CHECK_EXTENSION, container->iommu_) == 0)
    return Error(Errc::not_supported, without_iommu ? "this kernel's VFIO does not work without an IOMMU"
                                                    : "this kernel's VFIO has no type 1 IOMMU (module "
                                                      "vfio_iommu_type1)");
  return container;
}

// --- A device -------------------------------------------------------------------------------------------------------

namespace {

class VfioDevice final : public PciDevice {
 public:
  explicit VfioDevice(std::string address) : address_(std::move(address)) {}
  ~VfioDevice() override {
    if (registers_ != nullptr) munmap(const_cast<uint32_t*>(registers_), register_bytes_);
    fds_ = {};
    if (added_) container_->remove();
  }

  Result<void> open(const std::string& group, std::shared_ptr<VfioContainer> container) {
    TRY(open_group(group, std::move(container)));
    TRY(map_registers());
    TRY(set_bus_master(true));
    TRY(open_vectors());
    watch_removal();
    return {};
  }

  size_t register_bytes() const noexcept override { return register_bytes_; }
  uint32_t read32(uint32_t offset) noexcept override { return registers_[offset / sizeof(uint32_t)]; }
  void write32(uint32_t offset, uint32_t value) noexcept override {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    registers_[offset / sizeof(uint32_t)] = value;
  }
  const std::shared_ptr<DmaDomain>& domain() const noexcept override { return domain_; }
  unsigned vectors() const noexcept override { return static_cast<unsigned>(vector_fds_.size()); }
  int vector_fd(unsigned vector) const noexcept override { return vector_fds_[vector].get(); }
  bool enable_vector(unsigned vector, bool on) noexcept override {
    const int32_t fd = on ? vector_fds_[vector].get() : -1;
    return set_eventfds(VFIO_PCI_MSIX_IRQ_INDEX, vector, {&fd, 1}) == 0;
  }
  int removal_fd() const noexcept override { return removal_fd_.get(); }

  Result<void> reset() override {
    Result<void> silenced = set_bus_master(false);
    if (ioctl(fds_.device.get(), VFIO_DEVICE_RESET) != 0)
      LOG_WARN("fabric", "{}: cannot reset the function: {}", address_, std::strerror(errno));
    return silenced;
  }

 private:
  Result<void> open_group(const std::string& group, std::shared_ptr<VfioContainer> container) {
    const std::string path = "/dev/vfio/" + group;
    fds_.group = UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fds_.group) {
      if (errno == EBUSY)
        return Error(Errc::busy, fmt::format("{} is in use by another process or as another device's neighbour in "
                                             "IOMMU group {}",
                                             address_, group));
      return ioctl_error("opening " + path);
    }
    vfio_group_status status{};
    status.argsz = sizeof status;
    if (ioctl(fds_.group.get(), VFIO_GROUP_GET_STATUS, &status) != 0) return ioctl_error("asking for " + path);
    if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0)
      return Error(Errc::busy,
                   fmt::format("other devices of {}'s IOMMU group {} belong to kernel drivers", address_, group));
    TRY(container->add(fds_.group));
    container_ = std::move(container);
    domain_ = container_;
    added_ = true;
    fds_.device = UniqueFd(ioctl(fds_.group.get(), VFIO_GROUP_GET_DEVICE_FD, address_.c_str()));
    if (!fds_.device) return ioctl_error("opening the device");
    return {};
  }

  Result<vfio_region_info> region(uint32_t index) const {
    vfio_region_info info{};
    info.argsz = sizeof info;
    info.index = index;
    if (ioctl(fds_.device.get(), VFIO_DEVICE_GET_REGION_INFO, &info) != 0) return ioctl_error("asking for its regions");
    return info;
  }

  Result<void> map_registers() {
    TRY_ASSIGN(const vfio_region_info info, region(VFIO_PCI_BAR0_REGION_INDEX));
    constexpr size_t kPage = DmaBuffer::kAlignment;
    if (info.size < 2 * kPage || (info.flags & VFIO_REGION_INFO_FLAG_MMAP) == 0)
      return Error(Errc::not_supported,
                   fmt::format("its registers cannot be mapped (BAR 0 of {} bytes)", uint64_t{info.size}));
    const size_t bytes = std::min<size_t>(info.size / kPage * kPage, kMappedMax);
    void* const mapped =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds_.device.get(), static_cast<off_t>(info.offset));
    if (mapped == MAP_FAILED) return ioctl_error("mapping its registers");
    registers_ = static_cast<volatile uint32_t*>(mapped);
    register_bytes_ = bytes;
    return {};
  }

  Result<void> set_bus_master(bool on) {
    TRY_ASSIGN(const vfio_region_info config, region(VFIO_PCI_CONFIG_REGION_INDEX));
    const auto at = static_cast<off_t>(config.offset + PCI_COMMAND);
    uint16_t command = 0;
    if (pread(fds_.device.get(), &command, sizeof command, at) != sizeof command)
      return ioctl_error("reading its configuration");
    command =
        static_cast<uint16_t>(on ? command | PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MASTER);
    if (pwrite(fds_.device.get(), &command, sizeof command, at) != sizeof command)
      return ioctl_error("writing its configuration");
    return {};
  }

  // Returns what the ioctl does: 0, -1 with errno, or how many vectors there could have been.
  int set_eventfds(uint32_t index, uint32_t start, std::span<const int32_t> fds) const noexcept {
    std::array<uint8_t, sizeof(vfio_irq_set) + VfioBus::kVectorsMax * sizeof(int32_t)> room;
    vfio_irq_set set{};
    set.argsz = static_cast<uint32_t>(sizeof set + fds.size_bytes());
    set.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    set.index = index;
    set.start = start;
    set.count = static_cast<uint32_t>(fds.size());
    std::memcpy(room.data(), &set, sizeof set);
    std::memcpy(room.data() + sizeof set, fds.data(), fds.size_bytes());
    return ioctl(fds_.device.get(), VFIO_DEVICE_SET_IRQS, room.data());
  }

  uint32_t irqs(uint32_t index) const noexcept {
    vfio_irq_info info{};
    info.argsz = sizeof info;
    info.index = index;
    if (ioctl(fds_.device.get(), VFIO_DEVICE_GET_IRQ_INFO, &info) != 0) return 0;
    return (info.flags & VFIO_IRQ_INFO_EVENTFD) != 0 ? info.count : 0;
  }

  Result<void> open_vectors() {
    size_t count = std::min(irqs(VFIO_PCI_MSIX_IRQ_INDEX), VfioBus::kVectorsMax);
    if (count < 2) return Error(Errc::not_supported, fmt::format("it has {} MSI-X vectors, and 2 are needed", count));
    std::vector<int32_t> raw;
    for (size_t i = 0; i < count; ++i) {
      vector_fds_.emplace_back(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
      if (!vector_fds_.back()) return ioctl_error("making an eventfd");
      raw.push_back(vector_fds_.back().get());
    }
    // The kernel says how many it could give where it cannot give all.
    for (;;) {
      const int outcome = set_eventfds(VFIO_PCI_MSIX_IRQ_INDEX, 0, {raw.data(), count});
      if (outcome == 0) break;
      if (outcome < 2 || static_cast<size_t>(outcome) >= count) return ioctl_error("switching its interrupts on");
      count = static_cast<size_t>(outcome);
    }
    vector_fds_.resize(count);
    return {};
  }

  void watch_removal() {
    if (irqs(VFIO_PCI_REQ_IRQ_INDEX) == 0) return;
    UniqueFd fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    const int32_t raw = fd.get();
    if (fd && set_eventfds(VFIO_PCI_REQ_IRQ_INDEX, 0, {&raw, 1}) == 0) removal_fd_ = std::move(fd);
  }

  const std::string address_;
  Descriptors fds_;
  std::shared_ptr<VfioContainer> container_;
  std::shared_ptr<DmaDomain> domain_;
  bool added_ = false;
  volatile uint32_t* registers_ = nullptr;
  size_t register_bytes_ = 0;
  std::vector<UniqueFd> vector_fds_;
  UniqueFd removal_fd_;
};

}  // namespace

std::vector<std::string> VfioBus::list() const {
  std::vector<std::string> addresses;
  std::error_code error;
  for (const fs::directory_entry& device : fs::directory_iterator(kDevices, error))
    if (link_name(device.path() / "driver") == kDriver && read_hex_file(device.path() / "class") == kNvmeClass)
      addresses.push_back(device.path().filename().string());
  std::ranges::sort(addresses);
  return addresses;
}

Result<std::shared_ptr<PciDevice>> VfioBus::open(const std::string& address) {
  TRY_ASSIGN(const Group group, group_of(address, allow_no_iommu_));
  const std::lock_guard lock(mutex_);
  std::weak_ptr<VfioContainer>& known = containers_[group.without_iommu ? 1 : 0];
  std::shared_ptr<VfioContainer> container = known.lock();
  if (container == nullptr || !container->usable()) {
    TRY_ASSIGN(container, VfioContainer::open(group.without_iommu));
    known = container;
  }
  if (group.without_iommu)
    LOG_WARN("fabric", "{}: there is no IOMMU: the disk can reach all memory of this machine", address);
  auto device = std::make_shared<VfioDevice>(address);
  Result<void> opened = device->open(group.name, std::move(container));
  if (!opened) return opened.error().with_context(address);
  return std::shared_ptr<PciDevice>(std::move(device));
}

}  // namespace diskengine::fabric::pcie
