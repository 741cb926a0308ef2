#include "history/archive.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"

namespace diskengine::history {
namespace {

using spec::HistoryRecord;

constexpr std::array<const char*, kSeries> kFiles = {"seconds", "minutes", "events"};
// Records are in the order of their times but for clocks that were set back, and for events that tell when they ended.
constexpr uint64_t kSlackMs = 120'000;

// Makes the directory, for us alone. One that is there may lie where everybody can make one, and is only used if nobody
// else can put anything into it.
Result<void> make_private(const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return Error::from_errno(errno, "making the directory " + directory);
  struct stat found = {};
  if (lstat(directory.c_str(), &found) != 0) return Error::from_errno(errno, "looking at " + directory);
  if (!S_ISDIR(found.st_mode))
    return Error(Errc::invalid_argument, directory + " is no directory (a symbolic link is not followed)");
  if (found.st_uid != geteuid() || (found.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return Error(Errc::permission_denied, directory +
                                              " belongs to somebody else, or others may write to it: name "
                                              "another with --state-dir");
  return {};
}

}  // namespace

Result<std::unique_ptr<Archive>> Archive::open(const std::string& directory,
                                               const std::array<uint64_t, kSeries>& capacity) {
  TRY(make_private(directory));
  std::vector<Ring> rings;
  for (size_t i = 0; i < kSeries; ++i) {
    const std::string path = directory + "/history-" + kFiles[i];
    TRY_ASSIGN(Ring ring, Ring::open(path, capacity[i]));
    if (ring.damaged() > 0) LOG_WARN("history", "{}: {} records are damaged and left out", path, ring.damaged());
    rings.push_back(std::move(ring));
  }
  return std::unique_ptr<Archive>(new Archive(directory, std::move(rings)));
}

Archive::Archive(std::string directory, std::vector<Ring> rings)
    : directory_(std::move(directory)), rings_(std::move(rings)), thread_([this] { run(); }) {
  pthread_setname_np(thread_.native_handle(), "history");
}

Archive::~Archive() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Archive::add(Series series, HistoryRecord record) {
  {
    std::lock_guard lock(mutex_);
    if (waiting_count_ >= kWaitingMax) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    waiting_[static_cast<size_t>(series)].push_back(std::move(record));
    ++waiting_count_;
  }
  wake_.notify_one();
}

Result<void> Archive::read(Query query, std::function<void(Result<Found>)> done) {
  {
    std::lock_guard lock(mutex_);
    if (ending_) return Error(Errc::canceled, "the process is stopping");
    if (reads_.size() >= kReadsMax) return Error(Errc::busy, "too many read the history at once: try again");
    reads_.push_back({std::move(query), std::move(done)});
  }
  wake_.notify_one();
  return {};
}

bool Archive::do_beside(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    if (ending_ || job_) return false;
    job_ = std::move(job);
  }
  wake_.notify_one();
  return true;
}

void Archive::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ending_ || waiting_count_ > 0 || !reads_.empty() || job_; });
    std::array<std::vector<HistoryRecord>, kSeries> records;
    std::swap(records, waiting_);
    waiting_count_ = 0;
    std::deque<Read> reads;
    std::swap(reads, reads_);
    const std::function<void()> job = std::exchange(job_, nullptr);
    const bool ending = ending_;
    lock.unlock();
    if (job) job();
    write(records);
    for (const Read& read : reads) read.done(find(read.query));
    lock.lock();
    if (ending && waiting_count_ == 0 && reads_.empty() && !job_) return;
  }
}

void Archive::write(std::array<std::vector<HistoryRecord>, kSeries>& records) {
  for (size_t i = 0; i < kSeries; ++i) {
    const Result<void> written = rings_[i].append(records[i]);
    if (written) continue;
    dropped_.fetch_add(records[i].size(), std::memory_order_relaxed);
    // Once: a full disk would fill the log as well.
    if (!std::exchange(write_failed_, true))
      LOG_WARN("history", "{}: {}; what cannot be written is lost", directory_, written.error().message());
  }
}

Result<Found> Archive::find(const Query& query) const {
  Found found;
  const auto look = [&](const HistoryRecord& record) {
    if (record.end_ms + kSlackMs < query.since_ms) return false;
    if (record.end_ms < query.since_ms || record.end_ms > query.until_ms) return true;
    if (!query.name.empty() && record.name != query.name) return true;
    if (query.kind && record.kind != *query.kind) return true;
    if (found.records.size() >= query.limit) {
      found.cut = true;
      return false;
    }
    found.records.push_back(record);
    return true;
  };
  const Result<void> read = rings_[static_cast<size_t>(query.series)].for_each_back(look);
  if (!read) return read.error();
  std::reverse(found.records.begin(), found.records.end());
  return found;
}

}  // namespace diskengine::history
