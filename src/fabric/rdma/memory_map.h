// Which of the listed memory (runtime/dma_regions.h) a device reaches where it is, for one reactor; and the thread that
// registers it, since to lock the memory of a large guest takes longer than a reactor may wait.
//
// A region that is new is copied until its registration is done. One that left the list is never used again from the
// moment it left: each look-up compares the list's version first.
//
// Threads: a MemoryMap is looked up on its reactor; the Registrar's functions are for any thread.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "fabric/rdma/verbs.h"
#include "runtime/dma_regions.h"
#include "runtime/reactor.h"

namespace diskengine::fabric::rdma {

class MemoryMap;

// What maps and the thread share, and what the thread is to destroy: taking a registration back takes as long as making
// it. Held by all of them.
struct RegistrarWork {
  std::mutex mutex;
  std::condition_variable more;
  bool changed = false;
  bool stopping = false;
  std::vector<std::weak_ptr<MemoryMap>> maps;
  std::vector<std::shared_ptr<void>> trash;

  void dispose(std::shared_ptr<void> object) {
    {
      const std::lock_guard lock(mutex);
      trash.push_back(std::move(object));
    }
    more.notify_one();
  }
};

// A protection domain and its registrations.
class MemoryMap : public std::enable_shared_from_this<MemoryMap> {
 public:
  MemoryMap(std::shared_ptr<Verbs> verbs, Reactor& reactor, OwnedPd pd, DmaRegions& regions,
            std::shared_ptr<RegistrarWork> work)
      : verbs_(std::move(verbs)), reactor_(reactor), pd_(std::move(pd)), regions_(regions), work_(std::move(work)) {}

  ibv_pd* pd() const noexcept { return pd_.get(); }
  RegistrarWork& work() const noexcept { return *work_; }
  // The registration that covers all of [at, at + bytes), or nullptr. Valid until the region leaves the list.
  const ibv_mr* find(const void* at, size_t bytes) noexcept;
  size_t registered() const noexcept { return entries_.size(); }

 private:
  friend class Registrar;
  struct Entry {
    DmaRegions::Region region;
    std::shared_ptr<OwnedMr> mr;
  };

  void refresh() noexcept;
  void install(const DmaRegions::Region& region, std::shared_ptr<OwnedMr> mr);

  const std::shared_ptr<Verbs> verbs_;
  Reactor& reactor_;
  const OwnedPd pd_;
  DmaRegions& regions_;
  const std::shared_ptr<RegistrarWork> work_;
  uint64_t version_ = 0;  // of the list that entries_ was last compared with
  std::vector<Entry> entries_;
  std::set<uint64_t> seen_;  // by the Registrar's thread only: registered or tried
};

// Registers what is listed for every map that is alive.
class Registrar final : private DmaRegions::Watcher {
 public:
  explicit Registrar(DmaRegions& regions);
  // Waits for a registration under way.
  ~Registrar();
  Registrar(const Registrar&) = delete;
  Registrar& operator=(const Registrar&) = delete;

  // A map of everything that is listed and will be.
  std::shared_ptr<MemoryMap> make_map(std::shared_ptr<Verbs> verbs, Reactor& reactor, OwnedPd pd);

 private:
  void on_regions_changed() noexcept override;
  void run();
  void serve(const std::shared_ptr<MemoryMap>& map);

  DmaRegions& regions_;
  const std::shared_ptr<RegistrarWork> work_ = std::make_shared<RegistrarWork>();
  std::thread thread_;
};

}  // namespace diskengine::fabric::rdma
