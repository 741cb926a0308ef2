// The bytes of a disk whose changes can be taken back, and a device over them: what a test of crash safety runs its
// workload on, and where it then loads one disk after another that a power cut could have left (crash_replay.h).
//
// Threads: one. Owner of the image: the test; of the disk: the registry and its users, as for every device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "block/device.h"
#include "runtime/random.h"

namespace diskengine {

class CrashImage {
 public:
  static constexpr uint64_t kPageBytes = 4096;  // what is saved at once before its first change in a trial

  explicit CrashImage(std::vector<uint8_t> bytes);

  std::span<const uint8_t> bytes() const noexcept { return bytes_; }
  uint64_t size() const noexcept { return bytes_.size(); }
  // [offset, offset + length) lies within the image.
  void write(uint64_t offset, const uint8_t* from, uint64_t length);
  void zero(uint64_t offset, uint64_t length);

  // What changes between these two calls is undone by the second. Trials do not nest.
  void begin_trial();
  void end_trial();

 private:
  void before_change(uint64_t offset, uint64_t length);

  std::vector<uint8_t> bytes_;
  bool in_trial_ = false;
  uint64_t trial_ = 0;
  std::vector<uint64_t> saved_in_;     // by page: the trial in which it was last saved
  std::vector<uint64_t> saved_pages_;  // in this trial
  std::vector<uint8_t> saved_bytes_;
};

// A disk over an image. It has a volatile cache or not, as the test wants; either way a write reaches the image when it
// completes, in an order of the seed's choosing: some stay in flight while later ones complete, over turns.
//
//   Input object: Request. Output object: none. Completion callback: Channel::finish().
class CrashImageDisk final : public Device {
 public:
  struct Options {
    std::string name;
    uint32_t block_size = 512;
    uint64_t size_blocks = 0;  // 0: the whole image
    bool write_cache = true;
    bool can_unmap = true;
    bool can_write_zeroes = true;
    uint64_t seed = 0;  // 0: requests complete at once, in order
  };

  static std::shared_ptr<CrashImageDisk> make(std::shared_ptr<CrashImage> image, Options options);
  explicit CrashImageDisk(DeviceInfo info, std::shared_ptr<CrashImage> image, uint64_t seed);
  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;

  // As if a larger or smaller medium had been put in; within the image.
  void resize(uint64_t size_blocks);
  CrashImage& image() noexcept { return *image_; }

 private:
  class ImageChannel;
  IoStatus apply(const Request& request);

  std::shared_ptr<CrashImage> image_;
  const bool shuffled_;
  Random random_;
};

}  // namespace diskengine
