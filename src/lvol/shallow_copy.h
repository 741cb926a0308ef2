// Copies what a lvol has of its own to the same places of another device, in the background.
//
// Threads: the main reactor. Owner: the manager, by shared_ptr; the copy under way holds one too.
#pragma once

#include <memory>

#include "lvol/lvol_device.h"

namespace diskengine::lvol {

class ShallowCopy final : public std::enable_shared_from_this<ShallowCopy> {
 public:
  ShallowCopy(uint32_t id, std::shared_ptr<Store> store, std::shared_ptr<Blob> blob, std::shared_ptr<Device> to);

  // The destination is claimed for it and released at its end.
  void start();
  void stop() noexcept { stopping_ = true; }
  bool ended() const noexcept { return status_.ended; }
  const ShallowCopyStatus& status() const noexcept { return status_; }

 private:
  Task<Result<void>> run();

  std::shared_ptr<Store> store_;
  std::shared_ptr<Blob> blob_;
  std::shared_ptr<Device> to_;
  ShallowCopyStatus status_;
  bool stopping_ = false;
};

}  // namespace diskengine::lvol
