// The right to change one lvol as a whole, held while it lives: one operation at a time. Main reactor.
#pragma once

#include "lvol/blob.h"

namespace diskengine::lvol {

class Operation {
 public:
  enum class Paused { refused, allowed };

  // Errc::busy, Errc::io_error (it is damaged).
  static Result<Operation> begin(std::shared_ptr<Blob> blob, const char* what, Paused paused = Paused::refused) {
    if (blob->damaged()) return Error(Errc::io_error, "lvol '" + blob->name + "' is damaged: " + blob->damage);
    if (blob->operation != nullptr)
      return Error(Errc::busy, "lvol '" + blob->name + "': " + blob->operation + " is under way");
    if (blob->paused != 0 && paused == Paused::refused)
      return Error(Errc::busy, "lvol '" + blob->name + "': writes to it wait for free space in its store");
    blob->operation = what;
    return Operation(std::move(blob));
  }
  Operation(Operation&& other) noexcept : blob_(std::move(other.blob_)) {}
  Operation& operator=(Operation&& other) noexcept {
    std::swap(blob_, other.blob_);
    return *this;
  }
  ~Operation() {
    if (blob_ != nullptr) blob_->operation = nullptr;
  }

 private:
  explicit Operation(std::shared_ptr<Blob> blob) : blob_(std::move(blob)) {}
  std::shared_ptr<Blob> blob_;
};

}  // namespace diskengine::lvol
