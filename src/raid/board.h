// Where a volume publishes its views and its channels report failing legs: the one meeting point of the main reactor
// and the reactors that do I/O. Its mutex guards the list of channels; the I/O path never takes it.
//
// Threads: join, leave and report on any reactor; the rest on the main one. Held by shared_ptr: the volume, its device
// and every message under way have one.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "raid/marks.h"
#include "raid/view.h"
#include "raid/write_order.h"

namespace diskengine::raid {

// A channel as the board sees it. Both calls come on the channel's own reactor and may end with the channel destroyed.
class BoardMember {
 public:
  virtual Reactor& member_reactor() const noexcept = 0;
  virtual void adopt(const std::shared_ptr<const View>& view) noexcept = 0;
  virtual void release(const std::shared_ptr<const View>& view) noexcept = 0;
  // Gives up marks that it no longer needs (raid/marks.h), and adds those it keeps.
  virtual void sweep(RegionBits& kept) noexcept = 0;
  // What other channels' writes held up may go on.
  virtual void go_on() noexcept = 0;
  // Requests taken so far. Any thread.
  virtual uint64_t requests_taken() const noexcept = 0;

 protected:
  ~BoardMember() = default;

 private:
  friend class Board;
  uint64_t adopted_ = 0;   // generation
  uint64_t released_ = 0;  // generation
  uint32_t number_ = 0;    // while it is on the board: no other member has it
};

// Writes that had to wait because a leg failed. Any thread.
struct HeldWrites {
  std::atomic<uint64_t> now{0};      // waiting for an exclusion to count
  std::atomic<uint64_t> total{0};    // those that have waited, and are over
  std::atomic<uint64_t> last_ns{0};  // from a held write's arrival to its end, so with the time it took to detect
  std::atomic<uint64_t> max_ns{0};

  void ended(uint64_t took_ns) noexcept {
    now.fetch_sub(1, std::memory_order_relaxed);
    total.fetch_add(1, std::memory_order_relaxed);
    last_ns.store(took_ns, std::memory_order_relaxed);
    uint64_t most = max_ns.load(std::memory_order_relaxed);
    while (took_ns > most && !max_ns.compare_exchange_weak(most, took_ns, std::memory_order_relaxed)) {
    }
  }
};

struct LegFailure {
  unsigned tag = 0;
  const Leg* leg = nullptr;  // to tell it from a later leg with the same tag; never dereferenced
  Op op = Op::write;
  IoStatus status;
  uint64_t lba = 0;  // of the volume; of reads and compares
  uint64_t blocks = 0;
  // Requests wait because no leg can be reached: they go on with the next view, which the volume publishes when it
  // has looked. Says nothing of one leg.
  bool kept = false;
};

class Board : public std::enable_shared_from_this<Board> {
 public:
  explicit Board(Reactor& main);

  Reactor& main_reactor() const noexcept { return main_; }

  // Adds a channel and hands it the two views it starts with.
  void join(BoardMember& member, std::shared_ptr<const View>* current, std::shared_ptr<const View>* released);
  void leave(BoardMember& member);
  // Of a member, on its reactor.
  static uint32_t number_of(const BoardMember& member) noexcept { return member.number_; }

  // Any thread.
  WriteOrder order;
  // Tells every member to go on: a place in the order came free that somebody waits for.
  void let_go_on();

  // A leg failed a request: the volume's on_failure runs on the main reactor.
  void report(LegFailure failure);
  // Set by the volume, and cleared when it goes.
  std::function<void(const LegFailure&)> on_failure;

  // A channel asks for marks: on the main reactor. Set and cleared likewise; while it is not set all are refused.
  std::function<void(std::shared_ptr<MarkExchange>)> on_marks;
  // Lets every channel add what it keeps to `kept`, one after the other; then `done` runs on the main reactor.
  void sweep(std::shared_ptr<RegionBits> kept, std::function<void()> done);

  // Makes every channel adopt `view`; `adopted` runs on the main reactor afterwards. One at a time.
  void publish(std::shared_ptr<const View> view, std::function<void()> adopted);
  // Tells every channel that all have adopted `view`.
  void release(std::shared_ptr<const View> view);

  HeldWrites held;

  size_t channels() const;
  // Requests taken by all open channels.
  uint64_t requests_taken() const;

 private:
  std::vector<Reactor*> reactors() const;
  std::vector<BoardMember*> members_on(const Reactor& reactor) const;
  uint32_t free_number() const noexcept;
  void sweep_next(std::vector<Reactor*> rest, std::shared_ptr<RegionBits> kept, std::function<void()> done);
  BoardMember* next_to_adopt(const Reactor& reactor, uint64_t generation);
  BoardMember* next_to_release(const Reactor& reactor, uint64_t generation);

  Reactor& main_;
  mutable std::mutex mutex_;
  std::vector<BoardMember*> members_;
  std::shared_ptr<const View> current_;
  std::shared_ptr<const View> released_;
};

}  // namespace diskengine::raid
