// The checker of the fault tests finds each kind of wrong read, and takes each right one.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "../fault/record.h"

namespace diskengine::fault {
namespace {

class FaultRecord : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlock = 3;
  static constexpr uint64_t kPosition = 40;

  void SetUp() override {
    record_.emplace(Record::open(path_, 8).value());
    record_->enter(1);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  uint64_t write(uint64_t epoch = 1) {
    const uint64_t sequence = record_->begin_write(kBlock, epoch);
    record_->acknowledged(kBlock, sequence, epoch);
    return sequence;
  }
  static std::vector<uint8_t> content(uint64_t sequence, uint64_t epoch = 1, uint64_t position = kPosition) {
    std::vector<uint8_t> data(kBlockBytes);
    for (uint32_t i = 0; i < kSectorsPerBlock; ++i)
      fill_sector(data.data() + size_t{i} * kSectorBytes, {.magic = 0,
                                                           .writer = 1,
                                                           .epoch = epoch,
                                                           .sequence = sequence,
                                                           .sector = position * kSectorsPerBlock + i,
                                                           .crc = 0,
                                                           .reserved = 0});
    return data;
  }
  std::string read(const std::vector<uint8_t>& data) { return record_->check_read(kBlock, kPosition, data.data()); }
  std::string read_zeroes() { return read(std::vector<uint8_t>(kBlockBytes)); }

  std::string path_ = (std::filesystem::temp_directory_path() / ("record-" + std::to_string(::getpid()))).string();
  std::optional<Record> record_;
};

TEST_F(FaultRecord, what_was_acknowledged_last_is_right_and_anything_older_is_not) {
  const uint64_t older = write();
  const uint64_t newer = write();
  EXPECT_EQ(read(content(newer)), "");
  EXPECT_NE(read(content(older)), "");
}

TEST_F(FaultRecord, a_write_that_was_not_acknowledged_may_be_there_but_not_go_again) {
  const uint64_t acknowledged = write();
  const uint64_t begun = record_->begin_write(kBlock, 1);
  EXPECT_EQ(read(content(acknowledged)), "");
  EXPECT_EQ(read(content(begun)), "");
  EXPECT_NE(read(content(acknowledged)), "");
}

TEST_F(FaultRecord, damaged_misplaced_and_never_written_sectors_are_wrong) {
  const uint64_t sequence = write();
  std::vector<uint8_t> damaged = content(sequence);
  damaged[kBlockBytes - 1] ^= 1;
  EXPECT_NE(read(damaged), "");
  EXPECT_NE(read(content(sequence, 1, kPosition + 1)), "");
  EXPECT_NE(read(content(sequence + 1)), "");
}

TEST_F(FaultRecord, zeroes_are_right_before_the_first_write_and_after_a_zeroing_only) {
  EXPECT_EQ(read_zeroes(), "");
  const uint64_t first = write();
  EXPECT_NE(read_zeroes(), "");
  const uint64_t zeroing = record_->begin_zeroing(kBlock, 1);
  EXPECT_EQ(read(content(first)), "") << "the zeroing is under way";
  record_->acknowledged(kBlock, zeroing, 1);
  EXPECT_NE(read(content(first)), "");
  EXPECT_EQ(read_zeroes(), "");
  EXPECT_EQ(read(content(write())), "");
  EXPECT_NE(read_zeroes(), "");
}

TEST_F(FaultRecord, what_a_writer_begins_after_its_epoch_must_not_be_read) {
  record_->enter(2);
  write(2);
  EXPECT_NE(read(content(record_->begin_write(kBlock, 1), 1)), "");
  record_->begin_zeroing(kBlock, 1);
  EXPECT_NE(read_zeroes(), "");
}

}  // namespace
}  // namespace diskengine::fault
