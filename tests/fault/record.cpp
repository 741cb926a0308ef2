#include "record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>
#include <ctime>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/crc32c.h"
#include "base/unique_fd.h"

namespace diskengine::fault {
namespace {

constexpr uint64_t kMagic = 0x4b52414d544c4644;  // "DFLTMARK"

uint64_t now_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

void fill_sector(uint8_t* sector, SectorMark mark) noexcept {
  mark.magic = kMagic;
  mark.crc = 0;
  mark.reserved = 0;
  for (uint32_t at = sizeof mark; at < kSectorBytes; at += sizeof mark.sequence)
    std::memcpy(sector + at, &mark.sequence, sizeof mark.sequence);
  std::memcpy(sector, &mark, sizeof mark);
  mark.crc = crc32c(sector, kSectorBytes);
  std::memcpy(sector, &mark, sizeof mark);
}

Result<SectorMark> read_sector(const uint8_t* sector, uint64_t index) {
  SectorMark mark{};
  std::memcpy(&mark, sector, sizeof mark);
  if (mark.magic == 0 && std::all_of(sector, sector + kSectorBytes, [](uint8_t byte) { return byte == 0; }))
    return SectorMark{};
  uint8_t copy[kSectorBytes];
  std::memcpy(copy, sector, kSectorBytes);
  std::memset(copy + offsetof(SectorMark, crc), 0, sizeof mark.crc);
  if (mark.magic != kMagic || crc32c(copy, kSectorBytes) != mark.crc)
    return Error(Errc::protocol, fmt::format("sector {} holds nothing that was ever written", index));
  if (mark.sector != index)
    return Error(Errc::protocol, fmt::format("sector {} holds what was written to sector {}", index, mark.sector));
  return mark;
}

Result<Record> Record::open(const std::string& path, uint64_t blocks) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (fd.get() < 0) return Error::from_errno(errno, "opening " + path);
  const size_t bytes = sizeof(Header) + blocks * sizeof(Block);
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return Error::from_errno(errno, "sizing " + path);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return Error::from_errno(errno, "mapping " + path);
  return Record(memory, bytes, blocks);
}

Record::Record(void* memory, size_t bytes, uint64_t blocks)
    : memory_(memory),
      bytes_(bytes),
      blocks_(blocks),
      header_(static_cast<Header*>(memory)),
      table_(reinterpret_cast<Block*>(static_cast<uint8_t*>(memory) + sizeof(Header))) {}

Record::Record(Record&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      bytes_(other.bytes_),
      blocks_(other.blocks_),
      header_(other.header_),
      table_(other.table_) {}

Record::~Record() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

void Record::enter(uint64_t epoch) noexcept {
  uint64_t before = header_->epoch;
  while (before < epoch && !header_->epoch.compare_exchange_weak(before, epoch)) continue;
}

uint64_t Record::begin_write(uint64_t block, uint64_t epoch) noexcept {
  const uint64_t sequence = ++header_->sequence;
  if (!is_over(epoch)) table_[block].begun = std::max(table_[block].begun, sequence);
  return sequence;
}

uint64_t Record::begin_zeroing(uint64_t block, uint64_t epoch) noexcept {
  const uint64_t sequence = begin_write(block, epoch);
  if (!is_over(epoch)) table_[block].zeroed = {.sequence = sequence, .epoch = epoch};
  return sequence;
}

void Record::acknowledged(uint64_t block, uint64_t sequence, uint64_t epoch) noexcept {
  for (Floor& floor : table_[block].floor)
    if (floor.sequence < sequence) floor = {.sequence = sequence, .epoch = epoch};
  if (epoch >= kEpochsMax) return;
  Epoch& entry = header_->epochs[epoch];
  entry.last_ack_ns = now_ns();
  if (entry.first_ack_ns == 0) entry.first_ack_ns = entry.last_ack_ns;
}

std::string Record::check_read(uint64_t block, uint64_t position, const uint8_t* data) {
  Block& known = table_[block];
  for (uint32_t i = 0; i < kSectorsPerBlock; ++i) {
    const uint64_t index = position * kSectorsPerBlock + i;
    Result<SectorMark> mark = read_sector(data + size_t{i} * kSectorBytes, index);
    if (!mark) return mark.error().message();
    if (mark->magic == 0) {
      mark->sequence = known.zeroed.sequence;
      mark->epoch = known.zeroed.epoch;
    }
    Floor& floor = known.floor[i];
    if (mark->sequence < floor.sequence)
      return fmt::format("sector {} holds write {} of epoch {}; write {} of epoch {} was acknowledged or read before",
                         index, mark->sequence, mark->epoch, floor.sequence, floor.epoch);
    if (mark->sequence > known.begun)
      return fmt::format("sector {} holds write {}, which never began", index, mark->sequence);
    if (mark->sequence > floor.sequence && mark->epoch < floor.epoch)
      return fmt::format("sector {} holds write {} of epoch {}, put there when epoch {} had begun", index,
                         mark->sequence, mark->epoch, floor.epoch);
    floor = {.sequence = mark->sequence, .epoch = mark->epoch};
  }
  return {};
}

std::string Record::epochs_json() const {
  std::string out;
  for (uint32_t epoch = 0; epoch < kEpochsMax; ++epoch) {
    const Epoch& entry = header_->epochs[epoch];
    if (entry.first_ack_ns == 0) continue;
    out += fmt::format(R"({}{{"epoch":{},"first_ack_ns":{},"last_ack_ns":{}}})", out.empty() ? "" : ",", epoch,
                       entry.first_ack_ns, entry.last_ack_ns);
  }
  return "[" + out + "]";
}

}  // namespace diskengine::fault
