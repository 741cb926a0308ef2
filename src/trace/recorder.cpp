#include "trace/recorder.h"

#include <algorithm>

#include "base/assert.h"

namespace diskengine::trace {

std::string_view name_of(Layer layer) noexcept {
  constexpr std::array<std::string_view, kLayers> kNames{"other", "vhost", "raid", "nvme", "nvmf", "lvol", "disk"};
  return kNames[static_cast<size_t>(layer)];
}

// --- Visits

Visit* Visit::enter(std::string_view device, Layer in, uint8_t operation, uint64_t first, uint64_t count) noexcept {
  Trace& whole = *trace;
  if (whole.count == Trace::kVisitsMax) {
    whole.cut = true;
    return nullptr;
  }
  Visit& below = whole.visits[whole.count];
  below = {};
  below.trace = trace;
  below.layer = in;
  below.op = operation;
  below.parent = static_cast<uint8_t>(this - whole.visits.data());
  below.lba = first;
  below.blocks = count;
  copy_text(below.name, device);
  ++whole.count;
  ++whole.open;
  below.entered = ticks();
  return &below;
}

void Visit::leave(bool ok) noexcept {
  left = ticks();
  if (!ok) note(Note::failed);
  DE_ASSERT(trace->open > 0);
  if (--trace->open == 0) trace->recorder->end(*trace);
}

// --- Roots

Root::Root(std::string n, Layer l) : name(std::move(n)), layer(l) {}

Root* Recorder::open_root(std::string_view name, Layer layer) {
  const auto same = [&](const auto& root) { return root->name == name && root->layer == layer; };
  const auto found = std::find_if(roots_.begin(), roots_.end(), same);
  if (found != roots_.end()) {
    ++(*found)->users;
    return found->get();
  }
  if (roots_.size() >= kRootsMax) return nullptr;
  roots_.push_back(std::make_unique<Root>(std::string(name), layer));
  roots_.back()->users = 1;
  return roots_.back().get();
}

void Recorder::close_root(Root* root) {
  if (root == nullptr || --root->users > 0) return;
  for (Trace& trace : traces_)
    if (trace.root == root) trace.root = nullptr;
  for (Trace& trace : slow_memory_)
    if (trace.root == root) trace.root = nullptr;
  std::erase_if(roots_, [root](const auto& one) { return one.get() == root; });
}

// --- Which I/Os

Recorder::Recorder(Reactor& reactor, const Options& options)
    : reactor_(reactor), traces_(kTraces), slow_memory_(kSlowKept) {
  for (Trace& trace : traces_) {
    trace.recorder = this;
    free_.push_back(trace);
  }
  set_options(options);
}

Recorder::~Recorder() {
  while (!free_.empty()) free_.pop_front();
}

void Recorder::set_options(const Options& options) noexcept {
  options_ = options;
  options_.sample_every = std::max<uint32_t>(options_.sample_every, 1);
  countdown_ = options_.enabled ? 1 : UINT64_MAX;
}

uint64_t Recorder::next_countdown() noexcept {
  if (!options_.enabled) return UINT64_MAX;
  const uint64_t now = reactor_.batch_ticks();
  if (now >= refill_at_) {
    refill_at_ = now + ticks_per_second() / kRefillsPerSecond;
    tokens_ = options_.budget_per_s / kRefillsPerSecond;
  }
  if (tokens_ > 0) return 1;
  if (boost_left_ == 0) return options_.sample_every;
  --boost_left_;
  return std::min(options_.sample_every, kBoostEvery);
}

Visit* Recorder::sample(Root* root, uint8_t op, uint64_t lba, uint64_t blocks) noexcept {
  countdown_ = next_countdown();
  if (tokens_ > 0) --tokens_;
  if (root == nullptr || !options_.enabled) return nullptr;
  if (free_.empty()) {
    ++not_recorded_;
    return nullptr;
  }
  Trace& trace = free_.pop_front();
  trace.root = root;
  trace.count = trace.open = 1;
  trace.cut = false;
  trace.peer[0] = 0;
  Visit& top = trace.visits[0];
  top = {};
  top.trace = &trace;
  top.layer = root->layer;
  top.op = op;
  top.lba = lba;
  top.blocks = blocks;
  copy_text(top.name, root->name);
  top.entered = ticks();
  return &top;
}

void Recorder::missed(Root& root) noexcept {
  ++root.slow_untraced;
  const uint64_t now = reactor_.batch_ticks();
  if (now < boost_again_at_) return;
  boost_again_at_ = now + ticks_per_second();
  boost_left_ = kBoostTraces;
  if (options_.enabled) countdown_ = std::min<uint64_t>(countdown_, kBoostEvery);
}

// --- What they did

void Recorder::end(Trace& trace) noexcept {
  free_.push_back(trace);
  Root* root = trace.root;
  if (root == nullptr) return;
  const StageTicks parts = stages_of(trace);
  for (size_t i = 0; i < kStages; ++i)
    if (parts[i] != 0) root->stages[i].record(parts[i]);
  const uint64_t took = trace.ticks();
  root->total.record(took);
  ++root->traced;
  if (took > root->slow_ticks) {
    ++root->slow;
    Trace& kept = slow_memory_[slow_next_ % kSlowKept];
    kept.root = root;
    kept.count = trace.count;
    kept.cut = trace.cut;
    kept.peer = trace.peer;
    std::copy_n(trace.visits.begin(), trace.count, kept.visits.begin());
    ++slow_next_;
  }
  learn(*root, took);
}

// The threshold follows what the volume usually does: an I/O is slow that takes some times as long as nearly all of the
// last ones.
void Recorder::learn(Root& root, uint64_t took) noexcept {
  root.lately.record(took);
  if (++root.lately_count < kThresholdTraces) return;
  root.slow_ticks = kSlowFactor * root.lately.quantile(0.99);
  root.lately.reset();
  root.lately_count = 0;
}

// --- Asked

void Recorder::for_each_root(const std::function<void(const Root&)>& visit) const {
  for (const auto& root : roots_) visit(*root);
}

void Recorder::for_each_slow(const std::function<void(const Trace&)>& visit) const {
  const size_t first = slow_next_ > kSlowKept ? slow_next_ - kSlowKept : 0;
  for (size_t i = first; i < slow_next_; ++i) visit(slow_memory_[i % kSlowKept]);
}

void Recorder::for_each_recent(const std::function<void(const Trace&)>& visit) {
  free_.for_each([&](Trace& trace) {
    if (trace.count > 0) visit(trace);
  });
}

void Recorder::reset() {
  for (const auto& root : roots_) {
    for (Histogram& stage : root->stages) stage.reset();
    root->total.reset();
    root->traced = root->slow = root->slow_untraced = 0;
  }
  slow_next_ = 0;
}

}  // namespace diskengine::trace
