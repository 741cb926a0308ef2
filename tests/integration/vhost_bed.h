// A vhost back end in this process with a front end of our own: what the vhost tests share. The reactors run on threads
// of their own; the test's thread is the front end's.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/list.h"
#include "block/registry.h"
#include "client/vhost_frontend.h"
#include "disk/ram.h"
#include "vhost/manager.h"

namespace diskengine::vhost {

// A disk in memory that can hold its requests back, limits its transfers, and can be resized.
class HoldDisk final : public Device {
 public:
  explicit HoldDisk(DeviceInfo info) : Device(std::move(info)), bytes(this->info().size_bytes()) {}
  Result<std::unique_ptr<Channel>> open_channel(Reactor& reactor) override;
  void resize(uint64_t blocks) { set_size_blocks(blocks); }

  std::vector<uint8_t> bytes;
  std::mutex copying;             // by several reactors
  std::atomic<bool> hold{false};  // new requests wait
  std::atomic<int> held{0};       // how many do
  std::atomic<bool> fail{false};  // requests fail, undone
  std::atomic<int> fua_writes{0};
  std::atomic<uint64_t> most_blocks{0};  // of one request

 private:
  class HoldChannel;
};

class Bed {
 public:
  explicit Bed(unsigned reactors = 1);
  ~Bed();

  // Runs `work` on the main reactor and returns its value.
  template <typename T>
  T on_main(std::function<T()> work) {
    std::promise<T> result;
    main().post([&] { result.set_value(work()); });
    return result.get_future().get();
  }
  Result<void> run(std::function<Task<Result<void>>()> task);
  // Call between the reactors' and the test's own uses of a disk's bytes: the ring orders them, but through memory that
  // each side sees at another address, where the thread sanitizer sees no order.
  void order();

  Reactor& main() { return *reactors_[0]; }
  std::shared_ptr<HoldDisk> add_disk(DeviceInfo info);
  // A controller on it; its socket is path(name).
  Result<void> create(const std::string& name, const std::string& device, bool read_only = false);
  Result<void> remove_controller(const std::string& name);
  Result<void> remove_disk(const std::string& name);
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  // Sessions' queues of a controller; empty without a front end.
  std::vector<Session::QueueState> queues(const std::string& name);
  bool connected(const std::string& name);

  VhostManager& manager() { return *manager_; }
  DeviceRegistry& registry() { return *registry_; }

 private:
  std::string directory_;
  std::vector<std::unique_ptr<Reactor>> reactors_;
  std::vector<std::thread> threads_;
  std::unique_ptr<DeviceRegistry> registry_;
  std::unique_ptr<VhostManager> manager_;
};

DeviceInfo disk_info(const std::string& name, uint32_t block_size = 512, uint64_t blocks = 8192);
// Waits up to 20 s.
testing::AssertionResult eventually(const std::function<bool()>& condition);
// Open descriptors of this process.
size_t open_descriptors();

}  // namespace diskengine::vhost
