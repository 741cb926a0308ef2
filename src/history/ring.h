// One history file: a ring of records (format/history.h) that grows to its capacity and then loses its oldest. What is
// on the disk is believed record by record; a file that is none of ours, or of another capacity, is begun anew.
//
// Threads: one at a time. Blocking; nothing is ever synced: what a power cut takes are the last seconds.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "format/history.h"

namespace diskengine::history {

class Ring {
 public:
  // Reads the whole file to find its end. Errors: those of the file system, Errc::busy if another process has it.
  static Result<Ring> open(const std::string& path, uint64_t capacity);

  // Gives the records their sequence numbers. Errc::io_error, no_space: the ones that were not written are lost.
  Result<void> append(std::span<spec::HistoryRecord> records);
  // From the newest back to the oldest, as long as `visit` says true; records that are damaged are left out.
  Result<void> for_each_back(const std::function<bool(const spec::HistoryRecord&)>& visit) const;

  uint64_t next_sequence() const noexcept { return next_; }
  uint64_t damaged() const noexcept { return damaged_; }  // found by open()

 private:
  static constexpr size_t kChunkRecords = 1024;

  Ring(UniqueFd file, uint64_t capacity) : file_(std::move(file)), capacity_(capacity) {}
  Result<bool> has_header(const std::string& path) const;
  Result<void> begin_anew(const std::string& path);
  Result<void> find_end();
  // How many of `count` records from place `first` on are in the file, read into `bytes`.
  Result<size_t> read_places(uint64_t first, size_t count, std::span<uint8_t> bytes) const;
  // The record in a place, if it belongs there.
  Result<spec::HistoryRecord> record_at(uint64_t place, const uint8_t* bytes) const;

  UniqueFd file_;
  uint64_t capacity_;
  uint64_t next_ = 0;
  uint64_t damaged_ = 0;
};

}  // namespace diskengine::history
