// The channels of one lvol on all reactors, for stopping its I/O while its map is exchanged. Its mutex guards the list;
// the I/O path never takes it.
//
// Threads: join and leave on any reactor; the rest on the main one. Lives as long as its lvol, which every channel
// holds.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "runtime/task.h"

namespace diskengine::lvol {

// Counts what is still in flight. `left` runs on the main reactor when nothing is.
class DrainTicket {
 public:
  DrainTicket(Reactor& main, std::function<void()> left) : main_(main), left_(std::move(left)) {}
  void add() noexcept { pending_.fetch_add(1, std::memory_order_relaxed); }
  void drop() noexcept {
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) main_.post(std::move(left_));
  }

 private:
  Reactor& main_;
  std::function<void()> left_;
  std::atomic<uint32_t> pending_{1};  // the asker's own
};

// A channel as the board sees it; both on the channel's own reactor.
class BoardMember {
 public:
  virtual Reactor& member_reactor() const noexcept = 0;
  // Begin nothing more; drop `ticket` once what is under way has ended (add to it first).
  virtual void freeze(const std::shared_ptr<DrainTicket>& ticket) = 0;
  // Go on, by what the lvol now says. May end with the channel destroyed.
  virtual void unfreeze() = 0;

 protected:
  ~BoardMember() = default;
};

class ChannelBoard {
 public:
  // Whether the channel begins frozen.
  bool join(BoardMember& member);
  void leave(BoardMember& member);
  size_t channels() const;

  // Returns when nothing is under way on any channel, and nothing begins until thaw(). `holder` keeps this board.
  Task<void> freeze(std::shared_ptr<const void> holder, Reactor& main);
  void thaw(std::shared_ptr<const void> holder);

 private:
  std::vector<Reactor*> reactors() const;
  std::vector<BoardMember*> members_on(const Reactor& reactor) const;
  bool is_member(const BoardMember* member) const;

  mutable std::mutex mutex_;
  std::vector<BoardMember*> members_;
  bool frozen_ = false;
};

}  // namespace diskengine::lvol
