// A target-side transport without a network, for tests and fuzzing of what stands on fabric/target.h: a test puts
// commands in and looks at the answers.
//
// Threads: the reactor the queue was made for. Owned by the test; stays after release(), so that it can be looked at.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "fabric/target.h"

namespace diskengine::fabric {

class SimTargetQueue final : public TargetQueue, private Deferred {
 public:
  struct Answer {
    spec::Cqe cqe;
    std::vector<uint8_t> data;
    spec::Status status() const noexcept { return spec::status_of(cqe.status); }
  };

  SimTargetQueue(Reactor& reactor, TargetAcceptor& acceptor, Address listen_address)
      : reactor_(reactor), listen_address_(std::move(listen_address)), peer_{"TCP", "IPv4", "192.0.2.1", "50000"} {
    handler_ = acceptor.on_connected(*this);
  }
  ~SimTargetQueue() override { DE_ASSERT(handler_ == nullptr || released_); }

  // Hands a command to the handler; a copy of `data` is its data, to or from the controller.
  void submit(const spec::Sqe& sqe, std::vector<uint8_t> data = {},
              spec::Status transport_status = spec::Status::success) {
    if (told_ || linked()) return;
    auto lent = std::make_unique<Lent>();
    lent->bytes = std::move(data);
    // Pieces of at most 64 KiB, as a transport's buffers come.
    for (size_t at = 0; at < lent->bytes.size(); at += kPieceBytes)
      lent->pieces.push_back({lent->bytes.data() + at, std::min(kPieceBytes, lent->bytes.size() - at)});
    TargetCommand& command = lent->command;
    command.queue = this;
    command.sqe = sqe;
    command.transport_status = transport_status;
    command.may_lend = may_lend_;
    command.data = lent->pieces;
    command.data_bytes = static_cast<uint32_t>(lent->bytes.size());
    lent_.emplace(&command, std::move(lent));
    handler_->on_command(command);
  }

  // Whether commands from now on let a device lend its memory.
  void set_may_lend(bool may) noexcept { may_lend_ = may; }
  // Answers in the order they came, by command identifier.
  std::multimap<uint16_t, Answer>& answers() noexcept { return answers_; }
  bool disconnected() const noexcept { return told_; }
  bool released() const noexcept { return released_; }
  size_t lent() const noexcept { return lent_.size(); }
  uint32_t depth() const noexcept { return depth_; }

  Reactor& reactor() const noexcept override { return reactor_; }
  const Address& listen_address() const noexcept override { return listen_address_; }
  const Address& local_address() const noexcept override { return listen_address_; }
  const Address& peer_address() const noexcept override { return peer_; }
  const TargetOptions& options() const noexcept override { return options_; }
  void set_depth(uint32_t entries, bool) override { depth_ = entries; }
  void complete(TargetCommand& command) noexcept override {
    const auto at = lent_.find(&command);
    DE_ASSERT(at != lent_.end());
    if (command.loan != nullptr) {
      const auto* from = static_cast<const uint8_t*>(command.data.front().iov_base);
      DE_ASSERT(command.may_lend && command.data.size() == 1 && command.data.front().iov_len == command.data_bytes);
      std::copy(from, from + command.data_bytes, at->second->bytes.begin());
    }
    if (!told_) answers_.emplace(command.cqe.cid, Answer{command.cqe, std::move(at->second->bytes)});
    lent_.erase(at);
  }
  void disconnect(const char*) noexcept override {
    if (!told_ && !linked()) reactor_.defer(*this);
  }
  void release() noexcept override {
    DE_ASSERT(told_ && !released_ && lent_.empty());
    released_ = true;
  }

 private:
  static constexpr size_t kPieceBytes = 64 * 1024;
  struct Lent {
    TargetCommand command;
    std::vector<uint8_t> bytes;
    std::vector<iovec> pieces;
  };

  void run() noexcept override {
    told_ = true;
    handler_->on_disconnected();
  }

  Reactor& reactor_;
  const Address listen_address_;
  const Address peer_;
  const TargetOptions options_;
  TargetQueueHandler* handler_ = nullptr;
  std::map<TargetCommand*, std::unique_ptr<Lent>> lent_;
  std::multimap<uint16_t, Answer> answers_;
  bool told_ = false;
  bool released_ = false;
  uint32_t depth_ = 0;
  bool may_lend_ = false;
};

}  // namespace diskengine::fabric
