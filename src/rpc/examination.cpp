#include "rpc/examination.h"

#include <algorithm>

namespace diskengine::rpc {

Task<void> Examination::wait(uint64_t limit_ns) {
  const uint64_t began_ns = main_.now_ns();
  const auto busy = [](const std::function<uint64_t()>& under_way) { return under_way() != 0; };
  while (std::any_of(layers_.begin(), layers_.end(), busy) && main_.now_ns() - began_ns < limit_ns)
    co_await sleep_for(main_, kPollNs);
}

}  // namespace diskengine::rpc
