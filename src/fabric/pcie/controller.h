// One controller on the PCI bus, as its admin queue and its I/O queues see it: registers, how it is switched on and
// off, queues made and deleted.
//
//   Input: what the queues ask for. Output: registers, admin commands. Completion: the awaited Result.
//
// No command of a queue is over before the controller cannot reach its memory any more: its queue was deleted, or the
// controller was disabled, or the function was reset.
//
// Threads: the reactor of the admin queue, except what says otherwise. Held by its queues from their reactors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fabric/host.h"
#include "fabric/pcie/pci_device.h"
#include "fabric/pcie/queue_pair.h"
#include "fabric/region_map.h"
#include "runtime/task.h"
#include "runtime/task_mutex.h"

namespace diskengine::fabric::pcie {

class PcieController final : public std::enable_shared_from_this<PcieController> {
 public:
  // Admin commands of our own at once.
  static constexpr uint32_t kOwnCommandsMax = 4;
  // How long a queue may take to be made or deleted; what is slower is disabled.
  static constexpr uint64_t kQueueLimitNs = 5'000'000'000;
  static constexpr uint32_t kDisableLimitMaxMs = 30'000;

  // The admin queue, for commands of our own.
  class AdminPort {
   public:
    virtual bool usable() const noexcept = 0;
    virtual void submit_own(HostCommand& command) noexcept = 0;
    // A command of our own was not answered: end.
    virtual void give_up(Error reason) noexcept = 0;

   protected:
    ~AdminPort() = default;
  };

  struct QueueRequest {
    uint16_t id = 0;
    uint32_t entries = 0;
    uint64_t sq_iova = 0;
    uint64_t cq_iova = 0;
    bool shadow_doorbells = false;
  };

  PcieController(Reactor& reactor, std::string address, std::shared_ptr<RegistrarWork> work);
  ~PcieController();

  // Any thread.
  Reactor& reactor() const noexcept { return reactor_; }
  const std::string& address() const noexcept { return address_; }
  RegistrarWork& work() const noexcept { return *work_; }
  // Any thread, once attached; the same from then on.
  PciDevice& device() const noexcept { return *device_; }
  uint32_t stride() const noexcept { return spec::doorbell_stride(cap_); }
  // I/O queues that have a doorbell and a vector of their own.
  uint16_t io_queues_max() const noexcept;
  Error gone_error() const;

  // Takes the device over and reads what it can do; errors are controllers that this driver cannot drive.
  Result<void> attach(std::shared_ptr<PciDevice> device);
  bool attached() const noexcept { return device_ != nullptr; }
  spec::Cap cap() const noexcept { return cap_; }
  // A register; false once the device is gone.
  bool read(uint32_t offset, uint32_t* value) noexcept;
  // Writes the configuration; when it switches the controller on, its admin queues are told first.
  void configure(uint32_t value, QueuePair& admin, uint64_t sq_iova, uint64_t cq_iova) noexcept;
  void set_port(AdminPort* port) noexcept { port_ = port; }

  // Makes both queues; `shadow` is where their shadow doorbells are, if they have any.
  Task<Result<void>> create_queue(QueueRequest request, ShadowDoorbells* shadow);
  // The controller does not reach the queue's memory after this, nor that of its commands.
  Task<void> retire_queue(uint16_t id);
  // The same of all queues, for good.
  Task<void> stop();

 private:
  struct Call;

  Task<Result<spec::Cqe>> admin(std::string what, spec::Sqe sqe);
  Task<bool> delete_queue(uint8_t opcode, uint16_t id);
  Task<bool> disable();
  Task<void> reset_function();
  Task<void> offer_shadow_doorbells();
  ShadowDoorbells shadow_of(uint16_t id) const noexcept;

  Reactor& reactor_;
  const std::string address_;
  const std::shared_ptr<RegistrarWork> work_;
  std::shared_ptr<PciDevice> device_;
  spec::Cap cap_;
  AdminPort* port_ = nullptr;
  TaskMutex queues_;  // making and deleting
  bool stopping_ = false;
  bool stopped_ = false;
  std::vector<OneShot<bool>*> stop_waiters_;
  bool shadow_tried_ = false;
  bool shadow_refused_ = false;
  std::shared_ptr<DmaMemory> shadow_;  // shadow doorbells, then event indices, a page each
};

}  // namespace diskengine::fabric::pcie
