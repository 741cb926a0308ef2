// One leg of a volume as the volume's slow processes read and write it, in blocks of the volume: pieces that the leg
// takes, one after the other, until they are done or the leg left.
//
// Threads: the main reactor. The caller keeps volume and payload alive.
#pragma once

#include <cstdint>
#include <span>

#include "raid/control_io.h"
#include "raid/volume.h"

namespace diskengine::raid {

// A slot, and which of the legs that it had.
class LegRef {
 public:
  static constexpr size_t kPieceBytes = 256 * 1024;

  explicit LegRef(Volume::Slot& slot) noexcept : slot_(&slot), attachment_(slot.attachments) {}
  Volume::Slot& slot() const noexcept { return *slot_; }
  bool there() const noexcept {
    return slot_->attachments == attachment_ && slot_->present() && slot_->control != nullptr && !slot_->excluding;
  }
  // There, and holds what the volume holds.
  bool synced() const noexcept { return there() && slot_->role == SlotRole::in_sync && !slot_->unsynced; }

 private:
  Volume::Slot* slot_;
  uint64_t attachment_;
};

// `op` is read or write. IoCode::canceled: the leg left.
Task<IoStatus> leg_io(LegRef leg, Op op, uint64_t lba, std::span<uint8_t> data);

}  // namespace diskengine::raid
