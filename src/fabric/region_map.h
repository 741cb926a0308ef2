// Which of the listed memory (runtime/dma_regions.h) a device reaches where it is, for one reactor; and the thread that
// registers it, since to lock the memory of a large guest takes longer than a reactor may wait.
//
// A region that is new is copied until its registration is done. One that left the list is never used again from the
// moment it left: each look-up compares the list's version first.
//
// Threads: a RegionMap is looked up on its reactor; the Registrar's functions are for any thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/result.h"
#include "runtime/dma_regions.h"
#include "runtime/reactor.h"

namespace diskengine::fabric {

class RegionMap;

// What maps, devices and the thread share: what else is to be done off the reactors, in order. Held by all of them.
class RegistrarWork {
 public:
  void run(std::function<void()> job);
  // Destroys it there: taking a registration back takes as long as making it.
  void dispose(std::shared_ptr<void> object);

 private:
  friend class Registrar;
  std::mutex mutex_;
  std::condition_variable more_;
  bool changed_ = false;
  bool stopping_ = false;
  std::vector<std::weak_ptr<RegionMap>> maps_;
  std::deque<std::function<void()>> jobs_;
};

class RegionMap : public std::enable_shared_from_this<RegionMap> {
 public:
  // Makes a region reachable, on the registrar's thread; it is reachable until what is returned is destroyed.
  // Errc::already_exists: what was at its addresses before is not disposed of yet.
  using Register = std::function<Result<std::shared_ptr<void>>(const DmaRegions::Region&)>;
  struct Entry {
    DmaRegions::Region region;
    std::shared_ptr<void> registration;
  };

  RegionMap(Reactor& reactor, DmaRegions& regions, std::shared_ptr<RegistrarWork> work, Register make)
      : reactor_(reactor), regions_(regions), work_(std::move(work)), make_(std::move(make)) {}

  RegistrarWork& work() const noexcept { return *work_; }
  // The entry whose region holds all of [at, at + bytes), or nullptr. Valid until the region leaves the list.
  const Entry* find(const void* at, size_t bytes) noexcept;
  size_t registered() const noexcept { return entries_.size(); }

 private:
  friend class Registrar;

  void refresh() noexcept;
  void install(const DmaRegions::Region& region, std::shared_ptr<void> registration);

  Reactor& reactor_;
  DmaRegions& regions_;
  const std::shared_ptr<RegistrarWork> work_;
  const Register make_;
  uint64_t version_ = 0;  // of the list that entries_ was last compared with
  std::vector<Entry> entries_;
  std::set<uint64_t> seen_;  // by the Registrar's thread only: registered or tried
};

// Registers what is listed for every map that is alive.
class Registrar final : private DmaRegions::Watcher {
 public:
  explicit Registrar(DmaRegions& regions);
  // Waits for all that was handed over.
  ~Registrar();
  Registrar(const Registrar&) = delete;
  Registrar& operator=(const Registrar&) = delete;

  // A map of everything that is listed and will be.
  std::shared_ptr<RegionMap> make_map(Reactor& reactor, RegionMap::Register make);
  const std::shared_ptr<RegistrarWork>& work() const noexcept { return work_; }

 private:
  void on_regions_changed() noexcept override;
  void run();
  void serve(const std::shared_ptr<RegionMap>& map);

  DmaRegions& regions_;
  const std::shared_ptr<RegistrarWork> work_ = std::make_shared<RegistrarWork>();
  std::thread thread_;
};

}  // namespace diskengine::fabric
