// The per-reactor handle of an NVMe namespace: turns block requests into NVMe commands on its own queue.
//
//   Input object: Request. Output object: fabric::HostCommand. Completion: Channel::finish once all commands of the
//   request are answered.
//
// Requests longer than the controller takes at once are split. While there is no connection requests are held; commands
// whose connection was lost are sent again on the next one, as often as HostOptions::retries says, or fail when the
// controller says that there is nothing to wait for. A command whose answer is overdue is aborted; if that does not
// help the connection is closed, and only then is the command over.
//
// Threads: its reactor.
#pragma once

#include <memory>
#include <vector>

#include "block/device.h"
#include "format/nvme.h"
#include "nvme/io_queue.h"
#include "nvme/link.h"

namespace diskengine::nvme {

class Controller;

class NvmeChannel final : public Channel, private LinkedChannel, private IoQueue::Owner {
 public:
  // Requests held while there is no connection; more fail as disconnected.
  static constexpr uint64_t kHeldRequestsMax = 65536;

  NvmeChannel(std::shared_ptr<Device> device, Reactor& reactor, std::shared_ptr<Controller> controller, uint32_t nsid);
  ~NvmeChannel() override;

 private:
  enum class Mode : uint8_t { holding, ready, failing };

  // In Request's context: how far it has been cut into commands.
  struct Progress {
    uint64_t lba = 0;     // of the next piece
    uint64_t blocks = 0;  // still to be cut
    uint32_t in_flight = 0;
    uint16_t retries = 0;
    bool queued = false;  // on pending_
    bool cut = false;     // completely
    IoStatus status;
  };

  // One NVMe command for a piece of a request.
  struct Command final : fabric::HostCommand {
    Request* request = nullptr;
    uint64_t sent_ns = 0;  // 0: not in flight
    bool abort_sent = false;
    spec::DsmRange range;
    iovec range_iov{};
  };

  // Channel
  void start(Request& request) noexcept override;
  // LinkedChannel
  void connect(const QueueParams& params) override;
  void disconnect(std::function<void()> closed) override;
  void set_failing(bool failing) override;
  void fail_overdue(uint64_t limit_ns) override;
  fabric::HostQueueStats queue_stats() const override;
  // IoQueue::Owner
  void on_queue_ready() noexcept override;
  void on_queue_lost() noexcept override;
  void on_queue_closed(const Error& reason) noexcept override;

  void allocate_commands(uint32_t depth);
  void pump() noexcept;
  bool cut(Request& request) noexcept;
  bool build(Command& command, Request& request, Progress& progress) noexcept;
  bool take_payload(Command& command, const Request& request, uint64_t first_block, uint64_t* blocks) noexcept;
  void send(Command& command) noexcept;
  static void on_done(fabric::HostCommand& command) noexcept;
  void answered(Command& command) noexcept;
  bool retry(Command& command, int32_t limit) noexcept;
  void piece_done(Request& request, IoStatus status) noexcept;
  void fail_held() noexcept;
  void check_timeouts();

  std::shared_ptr<Controller> controller_;
  std::shared_ptr<QueueLink> link_;
  const uint32_t nsid_;
  const uint32_t block_size_;
  Mode mode_ = Mode::holding;
  IoQueue* queue_ = nullptr;
  std::vector<std::function<void()>> closed_;  // waiting for queue_ to be gone
  // Of the current or last association.
  ControllerLimits limits_;
  HostOptions host_;
  uint64_t epoch_ = 0;
  uint32_t transfer_blocks_max_ = 0;
  uint64_t timeout_ns_ = 0;

  std::unique_ptr<Command[]> commands_;  // depth_ of them, made at the first connect
  uint32_t depth_ = 0;
  std::vector<Command*> free_;
  List<fabric::HostCommand> resend_;  // cut, but without an answer: first to be sent when there is a connection
  List<Request> pending_;             // not completely cut
  uint64_t held_ = 0;                 // on pending_
  Timer timeout_timer_;
};

}  // namespace diskengine::nvme
