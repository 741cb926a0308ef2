// The past of this process, in files that outlive it: an hour at one second, a week at a minute, and events. A thread
// of its own writes and reads them, so nobody on a reactor waits for a disk.
//
//   Input: add(). Output: what read() finds.
//
// Threads: add() and read() on any; read's `done` runs on the archive's thread. Owned by the app, which destroys it
// after the last reactor has stopped: what was added by then is written.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "history/ring.h"

namespace diskengine::history {

enum class Series : uint8_t { seconds, minutes, events };
inline constexpr size_t kSeries = 3;

struct Query {
  Series series = Series::seconds;
  uint64_t since_ms = 0;  // since 1970 UTC
  uint64_t until_ms = UINT64_MAX;
  std::string name;                                      // only records of this object; empty: all
  std::optional<spec::HistoryKind> kind = std::nullopt;  // only of this kind
  size_t limit = 0;                                      // records; the newest are taken
};
struct Found {
  std::vector<spec::HistoryRecord> records;  // in order
  bool cut = false;                          // there were more than the limit
};

class Archive {
 public:
  // Records of 256 bytes: 128, 96 and 16 MiB at most.
  static constexpr std::array<uint64_t, kSeries> kCapacity = {512 * 1024, 384 * 1024, 64 * 1024};
  static constexpr size_t kWaitingMax = 64 * 1024;  // records not written yet; further ones are dropped and counted
  static constexpr size_t kReadsMax = 16;           // under way

  // Makes the directory if it is not there, in one that is. Errors: those of the file system.
  static Result<std::unique_ptr<Archive>> open(const std::string& directory,
                                               const std::array<uint64_t, kSeries>& capacity = kCapacity);
  ~Archive();
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  void add(Series series, spec::HistoryRecord record);
  // Errc::busy at once if kReadsMax are under way; else by `done`.
  Result<void> read(Query query, std::function<void(Result<Found>)> done);

  // Has the archive's thread do it, before it writes and reads again: for what would keep a reactor. One at a time
  // waits; false, and it is not done, if one does already. What it is done with outlives the archive.
  bool do_beside(std::function<void()> job);

  const std::string& directory() const noexcept { return directory_; }
  uint64_t dropped() const noexcept { return dropped_.load(std::memory_order_relaxed); }

 private:
  struct Read {
    Query query;
    std::function<void(Result<Found>)> done;
  };

  Archive(std::string directory, std::vector<Ring> rings);
  void run();
  void write(std::array<std::vector<spec::HistoryRecord>, kSeries>& records);
  Result<Found> find(const Query& query) const;

  const std::string directory_;
  std::vector<Ring> rings_;  // by Series; the thread's
  bool write_failed_ = false;
  std::atomic<uint64_t> dropped_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::array<std::vector<spec::HistoryRecord>, kSeries> waiting_;
  size_t waiting_count_ = 0;
  std::deque<Read> reads_;
  std::function<void()> job_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace diskengine::history
