#include "history/ring.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace diskengine::history {
namespace {

using spec::HistoryRecord;
using spec::HistorySpan;
using spec::HistoryView;
using spec::kHistoryRecordBytes;

HistoryView view_of(const uint8_t* bytes) { return HistoryView(bytes, kHistoryRecordBytes); }

off_t offset_of(uint64_t place) { return static_cast<off_t>((place + 1) * kHistoryRecordBytes); }

// Bytes read: fewer at the end of the file.
Result<size_t> read_all(int file, off_t offset, std::span<uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = pread(file, bytes.data() + done, bytes.size() - done, offset + static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error::from_errno(errno, "reading the history");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

Result<void> write_all(int file, off_t offset, std::span<const uint8_t> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t put = pwrite(file, bytes.data() + done, bytes.size() - done, offset + static_cast<off_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return Error::from_errno(errno, "writing the history");
    done += static_cast<size_t>(put);
  }
  return {};
}

}  // namespace

Result<Ring> Ring::open(const std::string& path, uint64_t capacity) {
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (!file) return Error::from_errno(errno, "opening " + path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0)
    return errno == EWOULDBLOCK ? Error(Errc::busy, path + " belongs to another process")
                                : Error::from_errno(errno, "locking " + path);
  Ring ring(std::move(file), capacity);
  TRY_ASSIGN(const bool known, ring.has_header(path));
  if (known) {
    TRY(ring.find_end());
  } else {
    TRY(ring.begin_anew(path));
  }
  return ring;
}

Result<bool> Ring::has_header(const std::string& path) const {
  std::vector<uint8_t> bytes(kHistoryRecordBytes);
  const Result<size_t> got = read_all(file_.get(), 0, bytes);
  if (!got) return got.error().with_context(path);
  const Result<uint64_t> capacity = spec::decode_history_header(view_of(bytes.data()));
  return capacity && *capacity == capacity_;
}

Result<void> Ring::begin_anew(const std::string& path) {
  if (ftruncate(file_.get(), 0) != 0) return Error::from_errno(errno, "emptying " + path);
  std::vector<uint8_t> bytes(kHistoryRecordBytes);
  spec::encode_history_header(capacity_, HistorySpan(bytes.data(), bytes.size()));
  return write_all(file_.get(), 0, bytes);
}

Result<size_t> Ring::read_places(uint64_t first, size_t count, std::span<uint8_t> bytes) const {
  TRY_ASSIGN(const size_t got, read_all(file_.get(), offset_of(first), bytes.first(count * kHistoryRecordBytes)));
  return got / kHistoryRecordBytes;
}

Result<HistoryRecord> Ring::record_at(uint64_t place, const uint8_t* bytes) const {
  Result<HistoryRecord> record = spec::decode_history_record(view_of(bytes));
  if (record && record->sequence % capacity_ != place) return Error(Errc::corrupt, "history: a record out of place");
  return record;
}

Result<void> Ring::find_end() {
  std::vector<uint8_t> bytes(kChunkRecords * kHistoryRecordBytes);
  for (uint64_t place = 0; place < capacity_;) {
    const auto count = static_cast<size_t>(std::min<uint64_t>(kChunkRecords, capacity_ - place));
    TRY_ASSIGN(const size_t got, read_places(place, count, bytes));
    for (size_t i = 0; i < got; ++i) {
      const Result<HistoryRecord> record = record_at(place + i, bytes.data() + i * kHistoryRecordBytes);
      if (!record)
        ++damaged_;
      else
        next_ = std::max(next_, record->sequence + 1);
    }
    if (got < count) break;
    place += count;
  }
  return {};
}

Result<void> Ring::append(std::span<HistoryRecord> records) {
  std::vector<uint8_t> bytes;
  while (!records.empty()) {
    const uint64_t place = next_ % capacity_;
    const auto count =
        static_cast<size_t>(std::min<uint64_t>({records.size(), capacity_ - place, uint64_t{kChunkRecords}}));
    bytes.resize(count * kHistoryRecordBytes);
    for (size_t i = 0; i < count; ++i) {
      records[i].sequence = next_ + i;
      encode(records[i], HistorySpan(bytes.data() + i * kHistoryRecordBytes, kHistoryRecordBytes));
    }
    // A failed write may have left some of them: the next ones do not take their numbers.
    next_ += count;
    TRY(write_all(file_.get(), offset_of(place), bytes));
    records = records.subspan(count);
  }
  return {};
}

Result<void> Ring::for_each_back(const std::function<bool(const HistoryRecord&)>& visit) const {
  std::vector<uint8_t> bytes(kChunkRecords * kHistoryRecordBytes);
  const uint64_t oldest = next_ > capacity_ ? next_ - capacity_ : 0;
  for (uint64_t end = next_; end > oldest;) {
    // A piece that ends with record end - 1 and lies in one stretch of the file.
    const uint64_t last_place = (end - 1) % capacity_;
    const auto count =
        static_cast<size_t>(std::min<uint64_t>({kChunkRecords, last_place + 1, end - oldest}));
    TRY_ASSIGN(const size_t got, read_places(last_place + 1 - count, count, bytes));
    for (size_t i = got; i > 0; --i) {
      const Result<HistoryRecord> record =
          record_at(last_place + i - count, bytes.data() + (i - 1) * kHistoryRecordBytes);
      // One of an earlier round lies where a write failed or was torn.
      if (!record || record->sequence != end - count + i - 1) continue;
      if (!visit(*record)) return {};
    }
    end -= count;
  }
  return {};
}

}  // namespace diskengine::history
