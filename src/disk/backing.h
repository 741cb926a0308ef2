// The opened file or block device under a disk: what it is, how it may be reached, and our exclusive hold on it, which
// lasts as long as this object and is given up by the kernel when the process ends.
//
// Threads: made on the main reactor; afterwards only read. Owner: the disk.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/uuid.h"

namespace diskengine {

class Backing {
 public:
  struct Options {
    std::string path;
    uint32_t block_size = 0;  // 512 or 4096; 0: the device's own, 512 for files
    bool read_only = false;
  };

  // Errors: not_found (missing), busy (held by another process, which is named), would_block (locked, and no process of
  // this machine is seen to hold it: the kernel lets go of a killed one's disks only once their last I/O ended),
  // invalid_argument (a directory, too
  // small, not a multiple of the block size, a block size the device cannot do), access_denied and others from open(2).
  static Result<Backing> open(const Options& options);

  Backing(Backing&& other) noexcept;
  Backing& operator=(Backing&& other) noexcept;
  ~Backing();

  int fd() const noexcept { return fd_; }
  bool is_block_device() const noexcept { return block_device_; }
  bool read_only() const noexcept { return read_only_; }
  uint32_t block_size() const noexcept { return block_size_; }
  uint64_t size_bytes() const noexcept { return size_bytes_; }
  // Reads the size anew: a file may have grown.
  Result<uint64_t> current_size_bytes() const;

  // O_DIRECT is on: buffers need memory_align() for their address and length_align() for their length.
  bool direct() const noexcept { return direct_; }
  // Why it is not.
  const std::string& buffered_because() const noexcept { return buffered_because_; }
  uint32_t memory_align() const noexcept { return memory_align_; }
  uint32_t length_align() const noexcept { return length_align_; }

  // A completed write may be lost in a power cut until a flush. A file always counts as such: its file system's own
  // records of where the data went need the flush too.
  bool volatile_cache() const noexcept { return volatile_cache_; }
  bool can_unmap() const noexcept { return can_unmap_; }
  // Device::cache_instance(): a completed write is with the kernel or the drive, so it outlives this process, but not
  // the machine's run, nor a drive that is taken out. Another file or drive in its place has another one.
  const Uuid& cache_instance() const noexcept { return cache_instance_; }

 private:
  Backing() = default;
  Result<void> hold(const std::string& path);
  Result<void> measure(const Options& options);
  void choose_direct();
  bool probe_direct();
  void find_abilities();
  void name_cache();

  int fd_ = -1;
  bool block_device_ = false;
  bool read_only_ = false;
  bool direct_ = false;
  bool volatile_cache_ = true;
  bool can_unmap_ = false;
  uint32_t block_size_ = 512;
  uint32_t logical_block_size_ = 512;  // of the block device
  uint32_t memory_align_ = 1;
  uint32_t length_align_ = 1;
  uint64_t size_bytes_ = 0;
  std::string buffered_because_;
  Uuid cache_instance_;
};

}  // namespace diskengine
