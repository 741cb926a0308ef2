// History files made of arbitrary bytes, as given and with valid checksums: they are opened, read and written on without
// harm, and a record that is accepted is written back and read as the same.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/endian.h"
#include "format/history.h"
#include "history/ring.h"

namespace {

using namespace diskengine;
using spec::kHistoryRecordBytes;

constexpr uint64_t kCapacity = 16;

void seal(uint8_t* page, size_t crc_at) {
  store_le<uint32_t>(page + crc_at, 0);
  store_le(page + crc_at, crc32c(page, kHistoryRecordBytes));
}

void check_record(const uint8_t* page) {
  const auto record = spec::decode_history_record(spec::HistoryView(page, kHistoryRecordBytes));
  if (!record) return;
  std::vector<uint8_t> again(kHistoryRecordBytes);
  spec::encode(*record, spec::HistorySpan(again.data(), again.size()));
  const auto read = spec::decode_history_record(spec::HistoryView(again.data(), again.size()));
  DE_ASSERT(read && *read == *record);
}

void check_file(const std::vector<uint8_t>& bytes) {
  const std::string path = "/dev/shm/diskengine_history_fuzz_" + std::to_string(getpid());
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  DE_ASSERT(file >= 0 && write(file, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  close(file);
  auto ring = history::Ring::open(path, kCapacity);
  DE_ASSERT(ring);
  size_t before = 0;
  DE_ASSERT(ring->for_each_back([&](const spec::HistoryRecord&) { return ++before <= kCapacity; }));
  DE_ASSERT(before <= kCapacity);
  std::vector<spec::HistoryRecord> more(3);
  DE_ASSERT(ring->append(more));
  uint64_t newest = 0;
  DE_ASSERT(ring->for_each_back([&](const spec::HistoryRecord& record) {
    newest = record.sequence;
    return false;
  }));
  DE_ASSERT(newest + 1 == ring->next_sequence());
  unlink(path.c_str());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(std::min<size_t>(size, (kCapacity + 4) * kHistoryRecordBytes));
  std::copy(data, data + bytes.size(), bytes.begin());
  check_file(bytes);
  bytes.resize((bytes.size() + kHistoryRecordBytes - 1) / kHistoryRecordBytes * kHistoryRecordBytes);
  for (size_t at = 0; at < bytes.size(); at += kHistoryRecordBytes) {
    uint8_t* page = bytes.data() + at;
    check_record(page);
    if (at == 0) {
      spec::encode_history_header(kCapacity, spec::HistorySpan(page, kHistoryRecordBytes));
      continue;
    }
    store_le(page, spec::kHistoryRecordSignature);
    store_le(page + offsetof(spec::HistoryRecordPage, kind), static_cast<uint16_t>(1 + page[28] % 4));
    seal(page, offsetof(spec::HistoryRecordPage, crc));
    check_record(page);
  }
  check_file(bytes);
  return 0;
}
