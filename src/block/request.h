// One block I/O on its way through one layer boundary.
//
// Owner: whoever submits it, until its completion runs; then it may be used again. It completes exactly once, on the
// reactor it was submitted on, never inside submit(). A layer that fans a request out or changes it submits requests of
// its own (from a pool made with its channel) to the layer below; the context area is for the layer that receives it.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

#include "base/list.h"
#include "block/io_status.h"
#include "trace/trace.h"

namespace diskengine {

class Channel;

enum class Op : uint8_t { read, write, flush, unmap, write_zeroes, compare };
inline constexpr size_t kOps = 6;
std::string_view name_of(Op op) noexcept;

struct Request : ListHook {
  static constexpr size_t kContextBytes = 96;
  using Completion = void (*)(Request&) noexcept;

  // Set by the submitter.
  Op op = Op::read;
  bool fua = false;            // write, write_zeroes: on stable media before it completes
  bool may_unmap = false;      // write_zeroes: the blocks may be deallocated instead
  bool may_lend = false;       // read: the device may show where it has the data instead of filling `iov`; see `loan`
  uint64_t lba = 0;            // in blocks of the device
  uint64_t blocks = 0;         // flush ignores lba and blocks: it covers everything completed before it was submitted
  std::span<const iovec> iov;  // read, write, compare: adds up to blocks * block_size; memory stays put till completion
  Completion done = nullptr;
  void* owner = nullptr;  // for `done`
  // If the I/O is traced, the visit of the layer that submits this; from submit() to the completion it is the visit of
  // the layer below, and nullptr after it.
  trace::Visit* visit = nullptr;

  // Set by completion.
  IoStatus status;
  // The data of a read that may_lend, in one piece of the device's own memory, which stays there while this is held;
  // null: it is in `iov`. What is written to the blocks meanwhile shows in it. The submitter takes it out.
  std::shared_ptr<const uint8_t> loan;

  // The contract's own.
  Channel* channel = nullptr;
  uint64_t submit_ticks = 0;
  Request* older = nullptr;  // among those outstanding on the channel, in the order they were submitted
  Request* newer = nullptr;

  // For the layer that received the request, while it has it.
  template <typename T>
  T& make_context() noexcept {
    static_assert(sizeof(T) <= kContextBytes && alignof(T) <= 16 && std::is_trivially_destructible_v<T>);
    return *new (context_) T();
  }
  template <typename T>
  T& context() noexcept {
    return *std::launder(reinterpret_cast<T*>(context_));
  }

 private:
  alignas(16) std::byte context_[kContextBytes];
};

}  // namespace diskengine
