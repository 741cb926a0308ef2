// How a channel gets regions marked as dirty before it writes to them for the first time: it asks the volume's log
// (raid/dirty_log.h), which marks them durably on every leg and answers. What was granted the channel keeps and tests
// without a lock, until a sweep takes from it what it no longer writes to.
//
//   Input object: RegionRange. Output object: this exchange, handed to Board::on_marks. Completion callback:
//   MarkTaker::marks_answered.
//
// Threads: add, send and detach on the channel's reactor; ranges and answer on the main one while the question is under
// way. It carries its own messages, so asking allocates nothing. Held by shared_ptr: a question under way holds one.
#pragma once

#include <array>
#include <memory>
#include <span>

#include "raid/region_bits.h"
#include "runtime/reactor.h"

namespace diskengine::raid {

class Board;

class MarkTaker {
 public:
  // All of `ranges` are marked on every leg, or (`granted` is false) cannot be.
  virtual void marks_answered(std::span<const RegionRange> ranges, bool granted) noexcept = 0;

 protected:
  ~MarkTaker() = default;
};

class MarkExchange final : public std::enable_shared_from_this<MarkExchange> {
 public:
  static constexpr unsigned kRangesMax = 128;  // in one question; what comes then waits for the next

  MarkExchange(Reactor& home, std::shared_ptr<Board> board, MarkTaker& taker)
      : home_(home), board_(std::move(board)), taker_(&taker) {}

  // False: there is no room until the question under way is answered.
  bool add(RegionRange range) noexcept {
    if (count_ == kRangesMax) return false;
    next_[count_++] = range;
    return true;
  }
  // Asks for what was added, unless a question is under way.
  void send() noexcept;
  // The taker goes; an answer that is still under way reaches nobody.
  void detach() noexcept { taker_ = nullptr; }

  std::span<const RegionRange> ranges() const noexcept { return {asked_.data(), asked_count_}; }
  // Once for each question.
  void answer(bool granted) noexcept;

 private:
  struct Ask final : Message {
    explicit Ask(MarkExchange& e) : exchange(e) {}
    void deliver() noexcept override { exchange.on_main(); }
    MarkExchange& exchange;
  };
  struct Answer final : Message {
    explicit Answer(MarkExchange& e) : exchange(e) {}
    void deliver() noexcept override { exchange.on_home(); }
    MarkExchange& exchange;
  };
  void on_main() noexcept;
  void on_home() noexcept;

  Reactor& home_;
  std::shared_ptr<Board> board_;
  MarkTaker* taker_;
  std::array<RegionRange, kRangesMax> next_{};
  unsigned count_ = 0;
  std::array<RegionRange, kRangesMax> asked_{};
  unsigned asked_count_ = 0;
  bool granted_ = false;
  std::shared_ptr<MarkExchange> under_way_;  // itself
  Ask ask_{*this};
  Answer answer_{*this};
};

}  // namespace diskengine::raid
