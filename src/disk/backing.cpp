#include "disk/backing.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "runtime/dma_buffer.h"
#include "runtime/machine.h"

namespace diskengine {
namespace {

Error open_error(const std::string& path, int positive_errno) {
  Error error = Error::from_errno(positive_errno, fmt::format("cannot open '{}'", path));
  if (positive_errno == ENOENT)
    return Error(Errc::not_found,
                 error.message() + "; the file must exist and have its full size (truncate -s makes one)");
  return error;
}

// "process 17 (qemu)" for the living process that locks the file, from the kernel's table of locks; empty where that
// names none.
std::string lock_holder(const struct stat& file) {
  std::ifstream locks("/proc/locks");
  const std::string inode =
      fmt::format("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), static_cast<uint64_t>(file.st_ino));
  std::string line;
  while (std::getline(locks, line)) {
    if (line.find(" " + inode + " ") == std::string::npos || line.find("->") != std::string::npos) continue;
    char kind[16], mode[16], access[16];
    int pid = 0;
    if (std::sscanf(line.c_str(), "%*d: %15s %15s %15s %d", kind, mode, access, &pid) != 4 || pid <= 0) continue;
    // The command line's first word: threads rename themselves.
    std::string name;
    std::ifstream command(fmt::format("/proc/{}/cmdline", pid));
    if (!command) continue;  // it has ended
    std::getline(command, name, '\0');
    name.erase(0, name.rfind('/') + 1);
    if (!name.empty()) return fmt::format("process {} ({})", pid, name);  // an ending one has no command line
  }
  return {};
}

// The first line of a file in the block device's folder in sysfs. A partition has some of them in that of its disk.
std::string disk_attribute(dev_t device, const char* name) {
  for (const char* folder : {"", "../"}) {
    std::ifstream file(fmt::format("/sys/dev/block/{}:{}/{}{}", major(device), minor(device), folder, name));
    std::string value;
    if (std::getline(file, value)) return value;
  }
  return {};
}

}  // namespace

Backing::Backing(Backing&& other) noexcept { *this = std::move(other); }

Backing& Backing::operator=(Backing&& other) noexcept {
  std::swap(fd_, other.fd_);
  block_device_ = other.block_device_;
  read_only_ = other.read_only_;
  direct_ = other.direct_;
  volatile_cache_ = other.volatile_cache_;
  can_unmap_ = other.can_unmap_;
  block_size_ = other.block_size_;
  logical_block_size_ = other.logical_block_size_;
  memory_align_ = other.memory_align_;
  length_align_ = other.length_align_;
  size_bytes_ = other.size_bytes_;
  std::swap(buffered_because_, other.buffered_because_);
  cache_instance_ = other.cache_instance_;
  return *this;
}

Backing::~Backing() {
  if (fd_ >= 0) close(fd_);
}

Result<Backing> Backing::open(const Options& options) {
  const std::string& path = options.path;
  if (options.block_size != 0 && options.block_size != 512 && options.block_size != 4096)
    return Error(Errc::invalid_argument,
                 fmt::format("'{}': block size {} is not 512 or 4096", path, options.block_size));
  // Looked at before it is opened: opening some special files has effects.
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) return open_error(path, errno);
  if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode))
    return Error(Errc::invalid_argument, fmt::format("'{}' is {}, and not a file or a block device", path,
                                                     S_ISDIR(file.st_mode) ? "a directory" : "a special file"));
  Backing backing;
  backing.read_only_ = options.read_only;
  backing.block_device_ = S_ISBLK(file.st_mode);
  const int flags =
      (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | (backing.block_device_ ? O_EXCL : 0);
  backing.fd_ = ::open(path.c_str(), flags);
  if (backing.fd_ < 0) {
    if (errno == EBUSY)
      return Error(Errc::busy, fmt::format("'{}' is in use: mounted, or held by another process or driver", path));
    return open_error(path, errno);
  }
  TRY(backing.hold(path));
  TRY(backing.measure(options));
  backing.choose_direct();
  backing.find_abilities();
  backing.name_cache();
  return backing;
}

Result<void> Backing::hold(const std::string& path) {
  if (flock(fd_, (read_only_ ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return {};
  if (errno != EWOULDBLOCK) return Error::from_errno(errno, fmt::format("cannot lock '{}'", path));
  struct stat file {};
  const std::string holder = fstat(fd_, &file) == 0 ? lock_holder(file) : std::string();
  if (holder.empty())
    return Error(
        Errc::would_block,
        fmt::format("'{}' is locked by a process that is not seen here: one that was just killed and whose I/O "
                    "has not ended, or one of another container; a disk belongs to one process at a time",
                    path));
  return Error(Errc::busy, fmt::format("'{}' is held by {}; a disk belongs to one process at a time", path, holder));
}

Result<void> Backing::measure(const Options& options) {
  if (block_device_) {
    int logical = 0;
    if (ioctl(fd_, BLKSSZGET, &logical) != 0)
      return Error::from_errno(errno, fmt::format("cannot ask '{}' for its block size", options.path));
    logical_block_size_ = static_cast<uint32_t>(logical);
  }
  block_size_ = options.block_size != 0 ? options.block_size : logical_block_size_;
  if (block_size_ < logical_block_size_ || (block_size_ != 512 && block_size_ != 4096))
    return Error(Errc::invalid_argument,
                 fmt::format("'{}': block size {} does not suit the device, whose logical blocks have {} bytes",
                             options.path, block_size_, logical_block_size_));
  TRY_ASSIGN(size_bytes_, current_size_bytes());
  if (size_bytes_ < block_size_)
    return Error(Errc::invalid_argument, fmt::format("'{}' has {} bytes, which is less than one block of {}",
                                                     options.path, size_bytes_, block_size_));
  if (size_bytes_ % block_size_ != 0)
    return Error(Errc::invalid_argument, fmt::format("'{}' has {} bytes, which is not a multiple of its block size {}",
                                                     options.path, size_bytes_, block_size_));
  return {};
}

Result<uint64_t> Backing::current_size_bytes() const {
  uint64_t bytes = 0;
  if (block_device_) {
    if (ioctl(fd_, BLKGETSIZE64, &bytes) != 0)
      return Error::from_errno(errno, "cannot ask the block device for its size");
    return bytes;
  }
  struct stat file {};
  if (fstat(fd_, &file) != 0) return Error::from_errno(errno, "cannot ask for the file's size");
  return static_cast<uint64_t>(file.st_size);
}

// Direct I/O unless the file system refuses it or wants larger blocks than the disk has.
void Backing::choose_direct() {
  struct statx answer {};
  const bool asked = statx(fd_, "", AT_EMPTY_PATH, STATX_DIOALIGN, &answer) == 0;
  if (asked && (answer.stx_mask & STATX_DIOALIGN) != 0) {
    memory_align_ = answer.stx_dio_mem_align;
    length_align_ = answer.stx_dio_offset_align;
    direct_ = memory_align_ != 0 && length_align_ != 0;
    if (!direct_) buffered_because_ = "its file system has no direct I/O";
  } else {
    direct_ = probe_direct();
  }
  if (direct_ && block_size_ % length_align_ != 0) {
    direct_ = false;
    buffered_because_ = fmt::format("its file system does direct I/O in units of {} bytes only", length_align_);
  }
  const int flags = fcntl(fd_, F_GETFL);
  if (fcntl(fd_, F_SETFL, (flags & ~(O_DIRECT | O_NONBLOCK)) | (direct_ ? O_DIRECT : 0)) != 0 && direct_) {
    direct_ = false;
    buffered_because_ = fmt::format("direct I/O was refused: {}", std::strerror(errno));
  }
  if (!direct_) memory_align_ = length_align_ = 1;
}

// For kernels and file systems that do not tell: whether a direct read of one block works.
bool Backing::probe_direct() {
  const int flags = fcntl(fd_, F_GETFL);
  buffered_because_ = "its file system has no direct I/O";
  struct statfs system {};
  // tmpfs takes the flag and ignores it.
  if (fstatfs(fd_, &system) == 0 && system.f_type == TMPFS_MAGIC) return false;
  if (fcntl(fd_, F_SETFL, flags | O_DIRECT) != 0) return false;
  memory_align_ = 512;
  DmaBuffer buffer(DmaBuffer::kAlignment);
  for (length_align_ = 512; length_align_ <= 4096; length_align_ *= 8) {
    if (pread(fd_, buffer.data(), length_align_, 0) < 0) continue;
    memory_align_ = length_align_;
    buffered_because_.clear();
    return true;
  }
  return false;
}

void Backing::find_abilities() {
  struct stat file {};
  if (fstat(fd_, &file) != 0 || read_only_) return;
  if (!block_device_) {
    // Past the end there is nothing to lose.
    can_unmap_ = fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(size_bytes_), 4096) == 0;
    return;
  }
  const std::string discard_max = disk_attribute(file.st_rdev, "queue/discard_max_bytes");
  can_unmap_ = !discard_max.empty() && discard_max != "0";
  volatile_cache_ = !direct_ || disk_attribute(file.st_rdev, "queue/write_cache") != "write through";
}

void Backing::name_cache() {
  const Uuid boot = machine_boot();
  struct statx file {};
  if (boot.is_nil() || statx(fd_, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &file) != 0) return;
  const dev_t device = block_device_ ? makedev(file.stx_rdev_major, file.stx_rdev_minor)
                                     : makedev(file.stx_dev_major, file.stx_dev_minor);
  // A drive that was taken out and put in again, or another one in its place, has the next `diskseq` (Linux 5.15).
  std::string name =
      fmt::format("{} {}:{} {}", boot.to_string(), major(device), minor(device), disk_attribute(device, "diskseq"));
  if (!block_device_)  // inode numbers are used again
    name += fmt::format(" {} {}.{}", file.stx_ino, file.stx_btime.tv_sec, file.stx_btime.tv_nsec);
  cache_instance_ = Uuid::from_name(name);
}

}  // namespace diskengine
