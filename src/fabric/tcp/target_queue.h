// One NVMe/TCP connection at the target: PDUs in, commands to the handler, answers out.
//
//   Input: PDUs. Output object: TargetCommand to the handler, PDUs to the stream. Completion: complete().
//
// A command goes through: receiving in-capsule data, or waiting for buffers, or receiving what an R2T asked for; then
// lent to the handler; then, if it has data for the host, sending. Its slot is free after that.
//
// Threads: the reactor it was placed on.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fabric/target.h"
#include "fabric/tcp/pdu_reader.h"
#include "fabric/tcp/stream.h"
#include "fabric/tcp/target.h"

namespace diskengine::fabric::tcp {

Address address_of(const SocketAddress& socket);

class TcpTargetQueue final : public TargetQueue,
                             public LaneHook,
                             private Stream::Handler,
                             private PduReader::Sink,
                             private BufferPool::Waiter,
                             private Deferred {
 public:
  // Buffers from the reactor's pool that one queue may hold, in bytes: one queue cannot starve the others.
  static constexpr size_t kPoolBytesPerQueueMax = 16 * 1024 * 1024;
  // A connection that is not a connected queue after this long is closed.
  static constexpr uint64_t kHandshakeLimitNs = 30'000'000'000;
  // How long a termination request may take to get to a peer that does not close.
  static constexpr uint64_t kTerminationLimitNs = 1'000'000'000;

  // Makes the queue of an accepted socket, on the lane's reactor; closes the socket if it cannot be had.
  static void accept(const std::shared_ptr<TargetLane>& lane, UniqueFd socket, const Address& listen_address);
  ~TcpTargetQueue() override;

  Reactor& reactor() const noexcept override { return lane_->reactor; }
  const Address& listen_address() const noexcept override { return listen_address_; }
  const Address& local_address() const noexcept override { return local_address_; }
  const Address& peer_address() const noexcept override { return peer_address_; }
  const TargetOptions& options() const noexcept override { return lane_->options; }
  void set_depth(uint32_t entries, bool flow_control) override;
  void complete(TargetCommand& command) noexcept override;
  void disconnect(const char* why) noexcept override;
  void release() noexcept override;

 private:
  struct Slot;
  struct SlotBlock;

  TcpTargetQueue(std::shared_ptr<TargetLane> lane, UniqueFd socket, Address listen, Address local, Address peer);

  size_t on_bytes(std::span<uint8_t> bytes) noexcept override { return reader_.on_bytes(bytes); }
  size_t direct_target(std::span<iovec, Stream::kDirectPiecesMax> out) noexcept override {
    return reader_.direct_target(out);
  }
  void on_direct(size_t bytes) noexcept override { reader_.on_direct(bytes); }
  void on_closed(int positive_errno) noexcept override;
  bool on_header(const uint8_t* pdu, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept override;
  bool on_data(bool digest_ok) noexcept override;
  void on_fatal(spec::TcpFatal status, uint32_t info, std::span<const uint8_t> header) noexcept override;
  void on_chunks_free() noexcept override;
  void run() noexcept override;

  bool on_init(const uint8_t* pdu) noexcept;
  bool on_capsule(const uint8_t* pdu, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept;
  bool on_h2c_data(const uint8_t* pdu, const spec::TcpShape& shape, PduReader::DataTarget* target) noexcept;
  bool on_termination(const uint8_t* pdu) noexcept;
  bool fatal(spec::TcpFatal status, uint32_t info, std::span<const uint8_t> pdu) noexcept;

  void add_slots(uint32_t count);
  bool output_fits_one_more() const noexcept;
  void start(Slot& slot, uint32_t capsule_bytes, bool digest_ok) noexcept;
  void start_in_capsule(Slot& slot, uint32_t capsule_bytes) noexcept;
  void start_transfer(Slot& slot) noexcept;
  bool take_buffers(Slot& slot) noexcept;
  void buffers_taken(Slot& slot) noexcept;
  void give_back(Slot& slot) noexcept;
  void start_waiting() noexcept;
  void refuse(Slot& slot, spec::Status status) noexcept;
  void lend(Slot& slot) noexcept;
  void send_r2t(Slot& slot) noexcept;
  void send_data(Slot& slot, bool success) noexcept;
  void send_response(const spec::Cqe& cqe) noexcept;
  void free_slot(Slot& slot) noexcept;

  const std::shared_ptr<TargetLane> lane_;
  const Address listen_address_;
  const Address local_address_;
  const Address peer_address_;
  TargetQueueHandler* handler_ = nullptr;
  PduReader reader_;
  std::unique_ptr<Stream> stream_;
  Timer handshake_;

  uint8_t host_alignment_ = 0;  // HPDA
  bool header_digest_ = false;
  bool data_digest_ = false;
  bool flow_control_ = true;
  bool over_ = false;      // no more PDUs are taken or sent
  bool told_ = false;      // the handler knows
  bool released_ = false;  // by the handler
  const char* why_ = nullptr;

  std::vector<std::unique_ptr<SlotBlock>> blocks_;
  std::vector<Slot*> slots_;  // by transfer tag
  List<TargetCommand> free_;
  List<TargetCommand> waiting_;  // for buffers
  size_t slots_used_ = 0;
  size_t pool_bytes_ = 0;      // held of the pool
  Slot* receiving_ = nullptr;  // whose data the current PDU carries
  uint32_t receiving_bytes_ = 0;
};

}  // namespace diskengine::fabric::tcp
