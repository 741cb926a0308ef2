// What a fault test knows of a volume: for every sector the oldest content that a read may still return. It lies in a
// file that all writers of the volume share, so it outlives them and each goes on where the last one ended.
//
// The rule: a read returns nothing older than what was acknowledged to a writer, or returned by a read, before it
// began; nothing that was never written; and nothing of an epoch that was over when what it replaces was acknowledged.
// One operation per block is under way at a time. A zeroing is a write whose content names nobody: zeroes that are read
// count as the last one that began.
//
// One thread of one process at a time for a block; counters shared by writers are atomic.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace diskengine::fault {

inline constexpr uint32_t kSectorBytes = 512;
inline constexpr uint32_t kBlockBytes = 4096;
inline constexpr uint32_t kSectorsPerBlock = kBlockBytes / kSectorBytes;
inline constexpr uint32_t kEpochsMax = 4096;

// The first bytes of every sector that was written; the rest of it repeats `sequence`.
struct SectorMark {
  uint64_t magic;
  uint64_t writer;
  uint64_t epoch;
  uint64_t sequence;  // rises with every write to the volume, over all writers
  uint64_t sector;
  uint32_t crc;  // CRC32C of the whole sector with this field zero
  uint32_t reserved;
};
static_assert(sizeof(SectorMark) == 48);
static_assert(offsetof(SectorMark, crc) == 40);

void fill_sector(uint8_t* sector, SectorMark mark) noexcept;
// Zero: never written. Errc::protocol: damaged, or another sector's.
Result<SectorMark> read_sector(const uint8_t* sector, uint64_t index);

class Record {
 public:
  // Opens or creates the file for a volume of so many blocks.
  static Result<Record> open(const std::string& path, uint64_t blocks);
  Record(Record&& other) noexcept;
  Record& operator=(Record&&) = delete;
  ~Record();

  uint64_t blocks() const noexcept { return blocks_; }
  // `epoch` begins, unless a later one has: then what this writer reads proves nothing.
  void enter(uint64_t epoch) noexcept;
  bool is_over(uint64_t epoch) const noexcept { return header_->epoch > epoch; }

  // The sequence of a write, or of a zeroing, that begins now. One of an epoch that is over must not reach the volume,
  // so nothing is noted of it.
  uint64_t begin_write(uint64_t block, uint64_t epoch) noexcept;
  uint64_t begin_zeroing(uint64_t block, uint64_t epoch) noexcept;
  void acknowledged(uint64_t block, uint64_t sequence, uint64_t epoch) noexcept;
  // Holds what a read returned against the rule, and raises what the next one may return. `position` is where the block
  // lies on the disk, in blocks. Empty, or what is wrong.
  std::string check_read(uint64_t block, uint64_t position, const uint8_t* data);
  // One line of JSON: each epoch with the monotonic times of its first and last acknowledgement.
  std::string epochs_json() const;

 private:
  struct Epoch {
    uint64_t first_ack_ns;
    uint64_t last_ack_ns;
  };
  struct Header {
    std::atomic<uint64_t> epoch;
    std::atomic<uint64_t> sequence;
    Epoch epochs[kEpochsMax];
  };
  struct Floor {
    uint64_t sequence;  // nothing older
    uint64_t epoch;     // of the write with it
  };
  struct Block {
    uint64_t begun;  // the newest write that began
    Floor zeroed;    // the newest zeroing that began
    Floor floor[kSectorsPerBlock];
  };

  Record(void* memory, size_t bytes, uint64_t blocks);

  void* memory_;
  size_t bytes_;
  uint64_t blocks_;
  Header* header_;
  Block* table_;
};

}  // namespace diskengine::fault
