// Files of the past: what was written is found again, after a restart too, and damage costs no more than what it hit.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "history/archive.h"
#include "history/ring.h"

namespace diskengine::history {
namespace {

using spec::HistoryKind;
using spec::HistoryRecord;

class HistoryFiles : public testing::Test {
 protected:
  HistoryFiles() {
    std::string name = testing::TempDir() + "/history_XXXXXX";
    directory = mkdtemp(name.data());
    path = directory + "/ring";
  }
  ~HistoryFiles() override { std::filesystem::remove_all(directory); }

  static HistoryRecord record(uint64_t end_ms, const std::string& name = "raid_1") {
    HistoryRecord made;
    made.kind = HistoryKind::device;
    made.end_ms = end_ms;
    made.name = name;
    return made;
  }
  static void append(Ring& ring, uint64_t first_ms, size_t count) {
    std::vector<HistoryRecord> records;
    for (size_t i = 0; i < count; ++i) records.push_back(record(first_ms + i));
    ASSERT_TRUE(ring.append(records));
  }
  // The times of the records, the newest first.
  static std::vector<uint64_t> times(const Ring& ring) {
    std::vector<uint64_t> all;
    EXPECT_TRUE(ring.for_each_back([&](const HistoryRecord& one) {
      all.push_back(one.end_ms);
      return true;
    }));
    return all;
  }
  void overwrite(uint64_t offset, const std::string& bytes) const {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file << bytes;
  }

  std::string directory;
  std::string path;
};

TEST_F(HistoryFiles, ARingKeepsTheNewestAcrossRestarts) {
  for (int round = 0; round < 2; ++round) {
    Result<Ring> ring = Ring::open(path, 8);
    ASSERT_TRUE(ring);
    append(*ring, 100 + static_cast<uint64_t>(round) * 10, 6);
  }
  const Ring again = std::move(Ring::open(path, 8)).value();
  EXPECT_EQ(again.next_sequence(), 12U);
  EXPECT_EQ(times(again), (std::vector<uint64_t>{115, 114, 113, 112, 111, 110, 105, 104}));
  EXPECT_EQ(std::filesystem::file_size(path), 9 * spec::kHistoryRecordBytes);
}

TEST_F(HistoryFiles, ATornRecordCostsOnlyItself) {
  {
    Ring ring = std::move(Ring::open(path, 8)).value();
    append(ring, 100, 5);
  }
  overwrite(spec::kHistoryRecordBytes * 3 + 128, "torn");  // record 2
  const Ring ring = std::move(Ring::open(path, 8)).value();
  EXPECT_EQ(ring.damaged(), 1U);
  EXPECT_EQ(times(ring), (std::vector<uint64_t>{104, 103, 101, 100}));
}

TEST_F(HistoryFiles, AFileThatIsNoneOfOursIsBegunAnew) {
  std::ofstream(path) << std::string(100'000, 'x');
  {
    Ring ring = std::move(Ring::open(path, 8)).value();
    EXPECT_TRUE(times(ring).empty());
    append(ring, 100, 3);
  }
  EXPECT_TRUE(times(std::move(Ring::open(path, 16)).value()).empty());  // of another capacity
}

TEST_F(HistoryFiles, AFileThatEndsEarlyIsReadAsFarAsItGoes) {
  {
    Ring ring = std::move(Ring::open(path, 8)).value();
    append(ring, 100, 5);
  }
  std::filesystem::resize_file(path, spec::kHistoryRecordBytes * 4 + 17);
  EXPECT_EQ(times(std::move(Ring::open(path, 8)).value()), (std::vector<uint64_t>{102, 101, 100}));
}

TEST_F(HistoryFiles, AWindowOfOneObjectIsFound) {
  const auto archive = std::move(Archive::open(directory + "/state")).value();
  for (uint64_t ms = 1'000; ms <= 10'000; ms += 1'000) {
    archive->add(Series::seconds, record(ms));
    archive->add(Series::seconds, record(ms, "other"));
  }
  const auto read = [&](Query query) {
    std::promise<Found> found;
    EXPECT_TRUE(archive->read(query, [&](Result<Found> got) { found.set_value(std::move(got).value()); }));
    return found.get_future().get();
  };
  Query query{.since_ms = 3'000, .until_ms = 8'000, .name = "raid_1", .limit = 100};
  Found found = read(query);
  ASSERT_EQ(found.records.size(), 6U);
  EXPECT_EQ(found.records.front().end_ms, 3'000U);
  EXPECT_FALSE(found.cut);
  query.limit = 2;
  found = read(query);
  ASSERT_EQ(found.records.size(), 2U);
  EXPECT_EQ(found.records.back().end_ms, 8'000U);
  EXPECT_TRUE(found.cut);
  query.kind = HistoryKind::reactor;
  EXPECT_TRUE(read(query).records.empty());
  query.kind = HistoryKind::device;
  EXPECT_EQ(read(query).records.size(), 2U);
  query.series = Series::events;
  EXPECT_TRUE(read(query).records.empty());
}

TEST_F(HistoryFiles, WhatWasAddedBeforeTheEndIsWritten) {
  { std::move(Archive::open(directory)).value()->add(Series::events, record(5)); }
  Ring ring = std::move(Ring::open(directory + "/history-events", Archive::kCapacity[2])).value();
  EXPECT_EQ(times(ring), std::vector<uint64_t>{5});
}

TEST_F(HistoryFiles, OneJobAtATimeIsDoneBesideWritingAndWhatItAddsIsKept) {
  std::promise<void> begun, go;
  {
    const auto archive = std::move(Archive::open(directory)).value();
    EXPECT_TRUE(archive->do_beside([&] {
      begun.set_value();
      go.get_future().wait();
      archive->add(Series::events, record(7));
    }));
    begun.get_future().wait();
    EXPECT_TRUE(archive->do_beside([&] { archive->add(Series::events, record(8)); }));  // waits for the first
    EXPECT_FALSE(archive->do_beside([] { FAIL(); }));
    go.set_value();
  }
  Ring ring = std::move(Ring::open(directory + "/history-events", Archive::kCapacity[2])).value();
  EXPECT_EQ(times(ring), (std::vector<uint64_t>{8, 7}));
}

TEST_F(HistoryFiles, ADirectoryThatOthersCanReachIntoIsRefused) {
  namespace fs = std::filesystem;
  const std::string open_to_all = directory + "/open";
  fs::create_directory(open_to_all);
  fs::permissions(open_to_all, fs::perms::all);
  const auto refused = Archive::open(open_to_all);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::permission_denied);
  EXPECT_NE(refused.error().message().find("--state-dir"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(open_to_all));
  fs::permissions(open_to_all, fs::perms::owner_all);
  EXPECT_TRUE(Archive::open(open_to_all));
  fs::create_directory_symlink(open_to_all, directory + "/link");
  EXPECT_FALSE(Archive::open(directory + "/link"));
}

TEST_F(HistoryFiles, ADirectoryThatCannotBeMadeIsAnError) {
  std::ofstream(path) << "a file";
  EXPECT_FALSE(Archive::open(path + "/state"));
}

}  // namespace
}  // namespace diskengine::history
