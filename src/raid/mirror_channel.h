// RAID1 on the I/O path: one volume's channel on one reactor.
//
//   Input object: Request. Output object: a Child request per leg, from this channel's pool; a write that goes to
//   several legs brings them one copy of its payload (raid/payload_pool.h), everything else the parent's iovecs.
//   Completion callback: on_child, which ends in Channel::finish for the parent.
//
// A write goes through these states, each a list or a counter here:
//
//   waiting     no child requests left, or others wait before it
//   held        overlaps a locked range, or a write that is under way, here or on another channel (raid/write_order.h):
//               legs must apply the two in one order; or waits
//               until its regions are marked in the dirty-region log (raid/marks.h)
//   sent        every leg that is to have it got its child
//   answered    all legs answered: `settle` decides. It is the one place where a write becomes acknowledged. If a leg
//   of
//               the released view lacks the write, it is
//   parked      until that leg's exclusion is decided (raid/volume.h: exclude) and every channel has adopted the view
//               without it
//   kept        no leg can be reached (mirror_channel_wait.cpp): it goes back to waiting or held, to be sent again
//
// A read goes to one leg and, if that fails, to the next, until one serves it.
//
// Threads: its own reactor. Owner: whoever opened it.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "block/device.h"
#include "raid/board.h"
#include "raid/payload_pool.h"
#include "raid/write_tracker.h"
#include "runtime/dma_buffer.h"

namespace diskengine::raid {

// Zeroes for legs that cannot write zeroes by themselves; one per process part that has mirrors, shared by all
// channels.
inline constexpr size_t kZeroBytes = 128 * 1024;

// The others go to all legs.
constexpr bool goes_to_one_leg(Op op) noexcept { return op == Op::read || op == Op::compare; }

class MirrorChannel final : public Channel, private BoardMember, private MarkTaker {
 public:
  // Child requests of one channel: half as many mirrored writes over two legs are under way at a time, the others wait.
  static constexpr unsigned kChildrenMax = 1024;
  // Requests that wait for a child; one more is refused with io_error and EAGAIN.
  static constexpr unsigned kWaitingMax = 16384;
  // How much longer than the shortest queue may be the leg that last read just before a sequential read.
  static constexpr unsigned kSequentialSlack = 8;
  // A child that fails in a way that may pass is sent again, at most so often and so long after its first failure, each
  // wait four times the one before: 5, 20 and 80 ms. Then its leg is to blame.
  static constexpr unsigned kRetriesMax = 3;
  static constexpr uint64_t kRetryTimeNs = 500'000'000;
  static constexpr uint64_t kRetryFirstWaitNs = 5'000'000;
  // A write whose regions the log could not mark is tried again when a leg can be reached, so often; then it fails.
  static constexpr uint8_t kRefusalsMax = 3;

  MirrorChannel(std::shared_ptr<Device> device, Reactor& reactor, std::shared_ptr<Board> board,
                std::shared_ptr<DmaBuffer> zeroes);
  ~MirrorChannel() override;

  unsigned free_children() const noexcept { return free_count_; }

 private:
  // What a parent request carries while it is here.
  struct Io {
    LegMask sent = 0;     // legs that got it
    LegMask ok = 0;       // legs that have it
    LegMask failed = 0;   // legs that answered with an error
    LegMask cut_off = 0;  // of these, not reached at all
    uint8_t pending = 0;
    bool tracked = false;
    bool held_for_write = false;  // held by an earlier write, not by a range lock
    bool parked = false;          // is, or was, parked
    bool asked = false;           // held until its regions are marked
    uint8_t refusals = 0;         // of the log, to mark them
    uint32_t ordered = 0;         // slots of the order that it has taken
    Payload* payload = nullptr;   // what the legs get, instead of the guest's own memory
    IoStatus error;               // the first one
  };
  struct Child : Request {
    Request* parent = nullptr;
    Child* next_free = nullptr;
    unsigned tag = 0;
    uint64_t zero_blocks_left = 0;  // of zeroes written piece by piece: what comes after the piece under way
    iovec zero_piece{};
    unsigned retries = 0;
    uint64_t failed_first_ns = 0;
    uint64_t retry_at_ns = 0;
  };
  // This channel's handle on one leg.
  struct Port {
    std::shared_ptr<Leg> leg;
    std::unique_ptr<Channel> channel;  // null if it could not be opened: the leg then fails every request
    uint32_t outstanding = 0;
    uint64_t read_end = 0;  // where its last read ended
    bool leaving = false;   // closed as soon as nothing is outstanding and no write that it got waits for others
  };
  // Starts what waited, later in the turn: no completion ever starts other requests from within itself.
  struct Resumer final : Deferred {
    explicit Resumer(MirrorChannel& c) : channel(c) {}
    void run() noexcept override { channel.resume(); }
    MirrorChannel& channel;
  };

  // Channel
  void start(Request& request) noexcept override;
  // BoardMember
  Reactor& member_reactor() const noexcept override { return reactor(); }
  void adopt(const std::shared_ptr<const View>& view) noexcept override;
  void release(const std::shared_ptr<const View>& view) noexcept override;
  uint64_t requests_taken() const noexcept override { return taken_.load(std::memory_order_relaxed); }

  // mirror_channel_marks.cpp
  bool may_write(Request& request, Io& io) noexcept;
  void marks_answered(std::span<const RegionRange> ranges, bool granted) noexcept override;
  void fail_unmarked() noexcept;
  void sweep(RegionBits& kept) noexcept override;

  bool begin(Request& request) noexcept;
  void conclude(Request& request, IoStatus status) noexcept;
  void report(unsigned tag, Op op, IoStatus status) noexcept;

  // mirror_channel_children.cpp
  Child& take_child(Request& parent, unsigned tag) noexcept;
  void give_back(Child& child) noexcept;
  void submit_child(Child& child) noexcept;
  void submit_zero_piece(Child& child) noexcept;
  static void on_child(Request& child) noexcept;
  void child_done(Child& child) noexcept;
  bool retry(Child& child) noexcept;
  void run_retries() noexcept;
  void arm_retries() noexcept;
  void open_port(const std::shared_ptr<Leg>& leg) noexcept;
  void close_idle_ports() noexcept;

  // mirror_channel_wait.cpp
  bool paused() const noexcept { return view_->stopped || view_->waiting || awaiting_view_; }
  bool may_keep(const Request& request) noexcept;
  void keep(Request& request) noexcept;
  void report_kept() noexcept;
  void fail_all(IoStatus status) noexcept;

  // Reads and compares.
  void send_read(Request& request) noexcept;
  LegMask readable(const Request& request, const Io& io) const noexcept;
  unsigned choose_leg(LegMask candidates, uint64_t lba) const noexcept;
  void read_answered(Child& child) noexcept;
  void read_again(Child& child) noexcept;

  // Everything that goes to all legs.
  bool must_hold(const Request& request, Io& io) noexcept;
  void send_to_all(Request& request) noexcept;
  bool take_order(const Request& request, Io& io) noexcept;
  void give_order(const Request& request, Io& io) noexcept;
  uint64_t granule_of(uint64_t lba) const noexcept { return lba >> granule_shift_; }
  void go_on() noexcept override {
    if (!held_.empty()) schedule_resume();
  }
  bool has_room(const Request& request) const noexcept;
  bool copy_payload(Request& request, Io& io) noexcept;
  void drop_payload(Io& io) noexcept;
  LegMask targets_of(const Request& request) const noexcept;
  void settle(Request& request) noexcept;
  void park(Request& request) noexcept;
  void track(Request& request) noexcept;
  void untrack(Request& request) noexcept;
  static bool overlapped_by(List<Request>& list, const Request& request) noexcept;

  void resume() noexcept;
  void resume_held() noexcept;
  void resume_waiting() noexcept;
  void schedule_resume() noexcept {
    if (!resumer_.linked()) reactor().defer(resumer_);
  }
  void adopt_locks(const View& before) noexcept;
  void check_drains() noexcept;

  std::shared_ptr<Board> board_;
  std::shared_ptr<DmaBuffer> zeroes_;
  std::shared_ptr<const View> view_;      // what to send to
  std::shared_ptr<const View> released_;  // what to acknowledge by
  std::array<Port, kTagsMax> ports_;
  LegMask leaving_ = 0;   // ports that are
  LegMask reported_ = 0;  // legs whose failure was reported since the set of legs last changed
  mutable unsigned next_leg_ = 0;
  std::atomic<uint64_t> taken_{0};
  List<Request> retrying_;  // children that wait to be sent again; they count as outstanding
  Timer retry_timer_;

  std::vector<Child> children_;
  Child* free_ = nullptr;
  unsigned free_count_ = 0;
  PayloadPool payloads_;

  std::shared_ptr<MarkExchange> marks_;
  RegionBits granted_;  // marked for this channel
  RegionBits touched_;  // of these, written to since the last sweep

  unsigned granule_shift_;  // of a block's number, to that of its granule in the order
  WriteTracker tracker_;    // of held_, sent_ and parked_, flushes aside
  List<Request> waiting_;
  unsigned waiting_count_ = 0;
  List<Request> held_;            // in order of arrival
  unsigned held_for_writes_ = 0;  // of held_
  List<Request> sent_;            // with flushes
  List<Request> parked_;
  List<Request> concluded_;                         // finished by the resumer
  std::array<RangeLock, kRangeLocksMax> draining_;  // locks that await writes of this channel
  unsigned draining_count_ = 0;
  bool awaiting_view_ = false;  // something was kept: nothing is begun before the volume has looked
  bool resuming_ = false;
  bool settling_ = false;
  Resumer resumer_;
};

}  // namespace diskengine::raid
