#include "vhost/inflight.h"

#include <algorithm>
#include <utility>

namespace diskengine::vhost {

std::vector<uint16_t> Inflight::recover(uint16_t used_index) {
  if (__atomic_load_n(&queue_->version, __ATOMIC_RELAXED) != spec::kInflightVersion) {
    for (uint16_t i = 0; i < size_; ++i) desc_[i] = {};
    queue_->features = 0;
    queue_->desc_num = size_;
    queue_->last_batch_head = 0;
    settle(used_index);
    __atomic_store_n(&queue_->version, spec::kInflightVersion, __ATOMIC_RELEASE);
    return {};
  }
  // The used index moved and the last batch was not wholly released: release it. The links are the front end's to
  // spoil, so follow at most one per descriptor.
  const auto cut_off = static_cast<uint16_t>(used_index - __atomic_load_n(&queue_->used_idx, __ATOMIC_RELAXED));
  uint16_t head = __atomic_load_n(&queue_->last_batch_head, __ATOMIC_RELAXED);
  for (uint16_t i = 0; i < std::min(cut_off, size_) && head < size_; ++i) {
    release(head);
    head = __atomic_load_n(&desc_[head].next, __ATOMIC_RELAXED);
  }
  settle(used_index);

  std::vector<std::pair<uint64_t, uint16_t>> taken;
  for (uint16_t i = 0; i < size_; ++i) {
    if (__atomic_load_n(&desc_[i].inflight, __ATOMIC_RELAXED) != 1) continue;
    const uint64_t counter = __atomic_load_n(&desc_[i].counter, __ATOMIC_RELAXED);
    taken.emplace_back(counter, i);
    counter_ = std::max(counter_, counter);
  }
  std::sort(taken.begin(), taken.end());
  std::vector<uint16_t> heads;
  heads.reserve(taken.size());
  for (const auto& [counter, at] : taken) heads.push_back(at);
  return heads;
}

}  // namespace diskengine::vhost
