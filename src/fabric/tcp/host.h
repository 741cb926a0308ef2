// NVMe/TCP for the host: one connection per queue. NVM Express TCP transport specification 1.0c.
//
//   Input object: HostCommand. Output: capsules and data PDUs on a Stream. Completion: HostCommand::done, out of the
//   receive path.
//
// A command's small parts are written into the stream's output area and its payload goes by reference from the caller's
// memory; everything a turn produced leaves in one sendmsg. Received data is moved once, from staging into its final
// buffer, and large data straight there. What the controller sends is hostile: every field is checked, and whatever
// does not fit ends the connection.
//
// Threads: the transport from any; a queue on its reactor.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "fabric/command_slots.h"
#include "fabric/host.h"
#include "fabric/tcp/pdu_reader.h"
#include "fabric/tcp/stream.h"
#include "format/nvme_tcp.h"

namespace diskengine::fabric::tcp {

class HostTransport final : public fabric::HostTransport {
 public:
  Result<std::unique_ptr<HostQueue>> connect(Reactor& reactor, const HostAddress& address,
                                             const HostQueueOptions& options, HostQueueEvents& events) override;

 private:
  std::shared_ptr<Staging> staging_of(Reactor& reactor);

  std::mutex mutex_;  // connects only
  std::map<Reactor*, std::weak_ptr<Staging>> stagings_;
};

class TcpHostQueue final : public HostQueue, private Stream::Handler, private PduReader::Sink, private Deferred {
 public:
  // R2Ts that a controller may have outstanding for one command.
  static constexpr uint32_t kR2tMax = 4;
  // How long the exchange of ICReq and ICResp may take after the connection is up, and the connecting itself.
  static constexpr uint64_t kSetupLimitNs = 10'000'000'000;
  // How long a termination request may take to leave.
  static constexpr uint64_t kTermLimitNs = 100'000'000;

  TcpHostQueue(Reactor& reactor, std::shared_ptr<Staging> staging, UniqueFd socket, std::string peer,
               const HostQueueOptions& options, HostQueueEvents& events);
  ~TcpHostQueue() override;

  void submit(HostCommand& command) noexcept override;
  uint32_t outstanding() const noexcept override { return slots_.in_flight(); }
  void disconnect() noexcept override;
  HostQueueStats stats() const noexcept override;

 private:
  enum class State : uint8_t { connecting, initializing, ready, ending, closed };

  // What an R2T asked for and has not been put on the stream yet.
  struct Grant {
    uint16_t ttag;
    uint32_t offset;
    uint32_t bytes;
  };

  struct Slot final : CommandSlot, SendHook {
    void on_released() noexcept override { --unsent; }
    bool capsule_sent = false;   // put on the stream
    bool digest_failed = false;  // a data digest of received data was wrong
    uint8_t grants = 0;
    uint32_t unsent = 0;    // payloads that the stream still refers to
    uint32_t received = 0;  // bytes of data from the controller, in order
    uint32_t granted = 0;   // bytes that R2Ts asked for so far, in order
    std::array<Grant, kR2tMax> grant;
  };

  // Stream::Handler
  void on_connected() noexcept override;
  size_t on_bytes(std::span<uint8_t> bytes) noexcept override;
  size_t direct_target(std::span<iovec, Stream::kDirectPiecesMax> out) noexcept override {
    return reader_.direct_target(out);
  }
  void on_direct(size_t bytes) noexcept override { reader_.on_direct(bytes); }
  void on_output_room() noexcept override;
  void on_closed(int positive_errno) noexcept override;
  // PduReader::Sink
  bool on_header(const uint8_t* pdu, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept override;
  bool on_data(bool digest_ok) noexcept override;
  void on_fatal(spec::TcpFatal status, uint32_t info, std::span<const uint8_t> header) noexcept override;
  // Deferred: the end of a disconnect().
  void run() noexcept override;

  bool on_ic_resp(const spec::TcpIcResp& response) noexcept;
  bool on_response(const spec::TcpCapsuleResp& response) noexcept;
  bool on_c2h_data(const uint8_t* pdu, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept;
  bool on_r2t(const uint8_t* pdu, const spec::TcpShape& shape) noexcept;

  // Puts what the slot has to send on the stream as far as there is room; false if it has to wait.
  bool send_slot(Slot& slot) noexcept;
  bool send_capsule(Slot& slot) noexcept;
  bool send_grant(Slot& slot, Grant& grant) noexcept;
  bool has_room(size_t pdu_bytes, const HostCommand& command, uint32_t data_bytes) noexcept;
  void append_data(Slot& slot, uint32_t offset, uint32_t bytes) noexcept;
  void wait_for_room(Slot& slot) noexcept;

  void complete(Slot& slot, HostOutcome outcome) noexcept;
  bool protocol_error(spec::TcpFatal status, uint32_t info, std::span<const uint8_t> header, std::string what) noexcept;
  void end(Error reason) noexcept;

  Reactor& reactor_;
  std::shared_ptr<Staging> staging_;
  HostQueueEvents& events_;
  const HostQueueOptions options_;
  const std::string peer_;
  State state_ = State::connecting;
  Error reason_;  // why the queue ends
  bool header_digest_ = false;
  bool data_digest_ = false;
  uint8_t cpda_ = 0;
  uint32_t max_h2c_data_ = 0;
  CommandSlots<Slot> slots_;
  List<Slot> waiting_;
  Slot* receiving_ = nullptr;    // whose data is on its way in
  bool complete_after_ = false;  // receiving_: the data PDU said SUCCESS
  HostQueueStats stats_;
  Timer setup_timer_;
  PduReader reader_;
  Stream stream_;
};

}  // namespace diskengine::fabric::tcp
