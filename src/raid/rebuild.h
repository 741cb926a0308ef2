// Copies onto one leg what the volume's log says it may lack (DirtyLog::to_copy), or the whole volume, while the volume
// is in use.
//
// A window of the volume is locked (writes to it wait, raid/view.h), copied in pieces, and unlocked with `copied_until`
// moved past it: from then on writes below that go to the leg as well. So at no time do a copy and a write to the same
// blocks overlap, on any reactor. When everything is copied and flushed, the leg is in sync.
//
// While the volume is in use fewer pieces are copied at a time. The copy ends early if the leg goes, if the volume
// goes, or if no leg in sync can be read; the rest of the volume is not affected.
//
// Threads: the main reactor. Owner: the volume, as long as run() is under way.
#pragma once

#include <array>
#include <string>

#include "raid/progress.h"
#include "raid/volume.h"

namespace diskengine::raid {

class Rebuild {
 public:
  static constexpr size_t kPieceBytes = 256 * 1024;
  static constexpr unsigned kPiecesIdle = 8;  // copied at a time while nobody uses the volume
  static constexpr unsigned kPiecesBusy = 3;  // while somebody does
  static constexpr unsigned kRestartsMax = 3;
  static constexpr uint64_t kThrottleSliceNs = 20'000'000;
  // With a bandwidth limit a window is no more than this much of a second, so that its burst and its lock stay short.
  static constexpr uint64_t kLimitedWindowsPerSecond = 20;
  static constexpr uint64_t kLimitedWindowBytesMin = 64 * 1024;

  Rebuild(Volume& volume, Volume::Slot& target);
  ~Rebuild();

  // The volume's owner keeps both alive until this ends. Ok: the target holds everything and has flushed it.
  Task<Result<void>> run();
  void cancel(std::string why);
  // The leg that is copied from failed a write, so what was copied of it may differ: begin again.
  void restart() noexcept { restart_ = true; }
  bool restarts() const noexcept { return restart_; }
  // It was cancelled, or its leg is gone.
  bool stopped() const noexcept;

  const Volume::Slot& target() const noexcept { return target_; }
  const Progress& progress() const noexcept { return progress_; }
  uint64_t max_bandwidth_mb_sec() const noexcept { return max_bandwidth_mb_sec_; }

 private:
  struct Piece : Request {
    Rebuild* rebuild = nullptr;
    DmaBuffer buffer;
    iovec payload{};
    uint64_t at = 0;     // of the volume, blocks
    uint64_t count = 0;  // blocks
    unsigned tried = 0;  // slots that failed to serve it, bit each
    unsigned source = 0;
    bool writing = false;
  };
  struct Window {
    uint64_t begin = 0;
    uint64_t end = 0;
  };

  Task<Result<void>> copy_all();
  Task<Result<void>> copy_window(uint64_t begin, uint64_t end);
  Task<Result<void>> finish_copy();
  Task<bool> throttle(uint64_t copied_blocks, uint64_t since_ns);
  void start_pieces();
  void read_piece(Piece& piece);
  void write_piece(Piece& piece);
  void piece_done(Piece& piece);
  void piece_ended(Piece& piece);
  uint64_t window_blocks() const noexcept;
  Window next_window(uint64_t from) const noexcept;
  void window_done(Window window) noexcept;
  uint64_t blocks_to_copy() const noexcept;
  bool is_source(const Volume::Slot& slot) const noexcept;

  Volume& volume_;
  Volume::Slot& target_;
  const uint64_t attachment_;  // another one in the target's slot means that our leg is gone
  Progress progress_;
  uint64_t max_bandwidth_mb_sec_;
  std::string why_stopped_;
  bool restart_ = false;
  bool failed_ = false;
  unsigned source_turn_ = 0;

  // The window being copied.
  uint64_t next_ = 0;
  uint64_t end_ = 0;
  unsigned under_way_ = 0;
  unsigned pieces_now_ = kPiecesIdle;
  uint64_t requests_seen_ = 0;
  OneShot<bool>* window_done_ = nullptr;
  std::array<Piece, kPiecesIdle> pieces_;
};

}  // namespace diskengine::raid
