// A controller in memory behind the transport seam, for tests: it answers what a fabrics controller answers, keeps one
// namespace's blocks, and misbehaves on request.
//
// Threads: the reactor under test; everything on one reactor.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/endian.h"
#include "fabric/host.h"
#include "format/nvme_fabrics.h"
#include "format/nvme_identify.h"

namespace diskengine::nvme {

class FakeController final : public fabric::HostTransport {
 public:
  struct Namespace {
    uint32_t block_size = 512;
    uint8_t uuid = 1;  // every byte of it
    std::vector<uint8_t> bytes = std::vector<uint8_t>(1024 * 1024);
    Uuid cache{};  // nil: it says nothing of it
  };

  // How it behaves; change at any time.
  std::map<uint32_t, Namespace> namespaces{{1, {}}};
  bool refuse_connections = false;  // nobody listens
  uint16_t granted_queues = 8;
  uint8_t mdts = 5;  // 128 KiB
  spec::Status connect_status = spec::Status::success;
  bool abort_works = true;
  Uuid instance;  // nil: it says nothing of that kind
  // Asked about every I/O command: what becomes of it.
  enum class Verdict { serve, swallow, drop_connection };
  std::function<Verdict(const spec::Sqe&)> verdict = [](const spec::Sqe&) { return Verdict::serve; };
  // The status of an I/O command instead of serving it; success: serve.
  std::function<spec::Status(const spec::Sqe&)> status = [](const spec::Sqe&) { return spec::Status::success; };
  bool swallow_keep_alive = false;

  // What it saw.
  unsigned admin_connects = 0;
  unsigned io_connects = 0;
  unsigned aborts = 0;
  std::vector<spec::Sqe> io_commands;

  Result<std::unique_ptr<fabric::HostQueue>> connect(Reactor& reactor, const fabric::HostAddress&,
                                                     const fabric::HostQueueOptions& options,
                                                     fabric::HostQueueEvents& events) override {
    auto queue = std::make_unique<Queue>(*this, reactor, options, events);
    return std::unique_ptr<fabric::HostQueue>(std::move(queue));
  }

  // Tells the host that its namespaces changed.
  void announce_namespaces() {
    for (Queue* queue : queues_) queue->answer_event();
  }
  void drop_all_connections() {
    const std::vector<Queue*> all = queues_;
    for (Queue* queue : all) queue->disconnect();
  }
  size_t connections() const { return queues_.size(); }

 private:
  class Queue final : public fabric::HostQueue {
   public:
    Queue(FakeController& controller, Reactor& reactor, const fabric::HostQueueOptions& options,
          fabric::HostQueueEvents& events)
        : controller_(controller), reactor_(reactor), options_(options), events_(events) {
      controller_.queues_.push_back(this);
      later([this] {
        if (controller_.refuse_connections) {
          end(Error(Errc::unreachable, "nobody listens"));
        } else {
          events_.on_connected();
        }
      });
    }
    ~Queue() override {
      DE_ASSERT(commands_.empty());
      std::erase(controller_.queues_, this);
    }

    void submit(fabric::HostCommand& command) noexcept override {
      DE_ASSERT(commands_.size() < options_.depth);
      command.sqe.cid = next_cid_++;
      commands_.push_back(&command);
      later([this, cid = command.sqe.cid] { serve(cid); });
    }
    uint32_t outstanding() const noexcept override { return static_cast<uint32_t>(commands_.size()); }
    void disconnect() noexcept override {
      later([this] { end(Error(Errc::canceled, "disconnected")); });
    }
    fabric::HostQueueStats stats() const noexcept override { return {}; }

    void answer_event() {
      if (fabric::HostCommand* request = event_request_) {
        event_request_ = nullptr;
        answer(*request, spec::Status::success,
               spec::async_event(spec::AsyncEventType::notice, spec::AsyncNotice::namespace_attribute,
                                 spec::LogPage::changed_namespaces));
      }
    }

   private:
    void later(std::function<void()> work) {
      reactor_.post([alive = std::weak_ptr<int>(alive_), work = std::move(work)] {
        if (!alive.expired()) work();
      });
    }

    void end(Error reason) {
      if (std::exchange(ended_, true)) return;
      event_request_ = nullptr;
      for (fabric::HostCommand* command : std::exchange(commands_, {})) {
        command->outcome = fabric::HostOutcome::lost;
        command->done(*command);
      }
      events_.on_disconnected(reason);
    }

    fabric::HostCommand* find(uint16_t cid) {
      for (fabric::HostCommand* command : commands_)
        if (command->sqe.cid == cid) return command;
      return nullptr;
    }

    void answer(fabric::HostCommand& command, spec::Status status, uint64_t result = 0) {
      std::erase(commands_, &command);
      command.cqe = {};
      command.cqe.cid = command.sqe.cid;
      command.cqe.status = spec::status_field(status);
      command.cqe.set_result(result);
      command.outcome = fabric::HostOutcome::answered;
      command.done(command);
    }

    void copy(fabric::HostCommand& command, uint8_t* bytes, bool out) {
      size_t skip = command.iov_offset;
      size_t left = command.data_bytes;
      for (const iovec& piece : command.iov) {
        if (skip >= piece.iov_len) {
          skip -= piece.iov_len;
          continue;
        }
        const size_t length = std::min(left, piece.iov_len - skip);
        uint8_t* at = static_cast<uint8_t*>(piece.iov_base) + skip;
        std::memcpy(out ? at : bytes, out ? bytes : at, length);
        bytes += length;
        left -= length;
        skip = 0;
      }
      DE_ASSERT(left == 0);
    }

    template <typename T>
    void answer_data(fabric::HostCommand& command, const T& data) {
      std::vector<uint8_t> bytes(std::max<size_t>(sizeof data, command.data_bytes));
      std::memcpy(bytes.data(), &data, sizeof data);
      copy(command, bytes.data(), true);
      answer(command, spec::Status::success);
    }

    void serve(uint16_t cid) {
      fabric::HostCommand* command = find(cid);
      if (command == nullptr || ended_) return;
      if (command->sqe.opcode == spec::AdminOp::fabrics) {
        serve_fabrics(*command);
      } else if (options_.queue_id == 0) {
        serve_admin(*command);
      } else {
        serve_io(*command);
      }
    }

    void serve_fabrics(fabric::HostCommand& command) {
      const auto property = load_le<spec::FabricsProperty>(&command.sqe);
      if (property.type == spec::FabricsType::connect) {
        ++(options_.queue_id == 0 ? controller_.admin_connects : controller_.io_connects);
        answer(command, controller_.connect_status, 5);
      } else if (property.type == spec::FabricsType::property_set) {
        config_ = static_cast<uint32_t>(property.value);
        answer(command, spec::Status::success);
      } else {
        answer(command, spec::Status::success, read_property(property.offset));
      }
    }

    uint64_t read_property(uint32_t offset) const {
      if (offset == spec::Property::cap) return spec::make_cap(128, 1000).value;
      if (offset == spec::Property::vs) return spec::nvme_version(1, 4);
      if (offset == spec::Property::cc) return config_;
      if ((config_ & spec::kCcShutdownMask) != 0) return spec::kCstsShutdownDone;
      return (config_ & spec::kCcEnable) != 0 ? spec::kCstsReady : 0;
    }

    void serve_admin(fabric::HostCommand& command) {
      switch (command.sqe.opcode) {
        case spec::AdminOp::identify:
          return serve_identify(command);
        case spec::AdminOp::set_features:
          return answer(command, spec::Status::success, spec::queue_count(controller_.granted_queues));
        case spec::AdminOp::async_event:
          event_request_ = &command;
          return;
        case spec::AdminOp::keep_alive:
          if (!controller_.swallow_keep_alive) answer(command, spec::Status::success);
          return;
        case spec::AdminOp::abort:
          return serve_abort(command);
        case spec::AdminOp::get_log_page: {
          spec::SmartLog log;
          log.set_temperature_k(300);
          return answer_data(command, log);
        }
        default:
          return answer(command, spec::Status::invalid_opcode);
      }
    }

    void serve_identify(fabric::HostCommand& command) {
      const auto cns = static_cast<uint8_t>(command.sqe.cdw10);
      if (cns == spec::Cns::controller) {
        spec::IdentifyController id;
        std::memcpy(id.model_number, "fake", 4);
        id.mdts = controller_.mdts;
        id.oaes = spec::kAsyncNamespaceAttribute;
        id.vwc = spec::kVwcPresent;
        id.oncs = spec::kOncsCompare | spec::kOncsDatasetManagement | spec::kOncsWriteZeroes;
        id.ioccsz = (64 + 8192) / 16;
        if (!controller_.instance.is_nil()) spec::put_instance(id, controller_.instance);
        return answer_data(command, id);
      }
      if (cns == spec::Cns::active_namespaces) {
        std::array<uint32_t, spec::kNamespaceListEntries> list{};
        size_t count = 0;
        for (const auto& [nsid, data] : controller_.namespaces)
          if (nsid > command.sqe.nsid) list[count++] = nsid;
        return answer_data(command, list);
      }
      auto at = controller_.namespaces.find(command.sqe.nsid);
      if (at == controller_.namespaces.end()) return answer(command, spec::Status::invalid_namespace);
      if (cns == spec::Cns::ns) {
        spec::IdentifyNamespace id;
        id.size_blocks = at->second.bytes.size() / at->second.block_size;
        id.lba_format_table[0].data_size_log2 = at->second.block_size == 512 ? 9 : 12;
        if (!at->second.cache.is_nil()) spec::put_instance(id, at->second.cache);
        return answer_data(command, id);
      }
      std::array<uint8_t, 20> descriptor{static_cast<uint8_t>(spec::NsDescriptorType::uuid), 16, 0, 0};
      std::fill(descriptor.begin() + 4, descriptor.end(), at->second.uuid);
      answer_data(command, descriptor);
    }

    void serve_abort(fabric::HostCommand& command) {
      ++controller_.aborts;
      const auto cid = static_cast<uint16_t>(command.sqe.cdw10 >> 16);
      const auto queue_id = static_cast<uint16_t>(command.sqe.cdw10);
      bool found = false;
      for (Queue* queue : std::vector<Queue*>(controller_.queues_)) {
        fabric::HostCommand* victim = queue->options_.queue_id == queue_id ? queue->find(cid) : nullptr;
        if (victim == nullptr || !controller_.abort_works) continue;
        found = true;
        queue->answer(*victim, spec::Status::aborted_by_request);
      }
      answer(command, spec::Status::success, found ? 0 : 1);
    }

    void serve_io(fabric::HostCommand& command) {
      controller_.io_commands.push_back(command.sqe);
      const Verdict verdict = controller_.verdict(command.sqe);
      if (verdict == Verdict::swallow) return;
      if (verdict == Verdict::drop_connection) return disconnect();
      const spec::Status forced = controller_.status(command.sqe);
      if (forced != spec::Status::success) return answer(command, forced);
      auto at = controller_.namespaces.find(command.sqe.nsid);
      if (at == controller_.namespaces.end()) return answer(command, spec::Status::invalid_namespace);
      Namespace& ns = at->second;
      const uint64_t blocks = (command.sqe.cdw12 & spec::kRwBlocksMask) + 1;
      const uint64_t offset = command.sqe.slba() * ns.block_size;
      const uint64_t length = blocks * ns.block_size;
      switch (command.sqe.opcode) {
        case spec::IoOp::read:
          copy(command, &ns.bytes[offset], true);
          break;
        case spec::IoOp::write:
          copy(command, &ns.bytes[offset], false);
          break;
        case spec::IoOp::write_zeroes:
          std::memset(&ns.bytes[offset], 0, length);
          break;
        case spec::IoOp::dataset_management: {
          spec::DsmRange range;
          copy(command, reinterpret_cast<uint8_t*>(&range), false);
          std::memset(&ns.bytes[range.slba * ns.block_size], 0, uint64_t{range.blocks} * ns.block_size);
          break;
        }
        case spec::IoOp::compare: {
          std::vector<uint8_t> wanted(length);
          copy(command, wanted.data(), false);
          if (std::memcmp(wanted.data(), &ns.bytes[offset], length) != 0)
            return answer(command, spec::Status::compare_failure);
          break;
        }
        default:
          break;
      }
      answer(command, spec::Status::success);
    }

    FakeController& controller_;
    Reactor& reactor_;
    const fabric::HostQueueOptions options_;
    fabric::HostQueueEvents& events_;
    std::shared_ptr<int> alive_ = std::make_shared<int>(0);
    std::vector<fabric::HostCommand*> commands_;
    fabric::HostCommand* event_request_ = nullptr;
    uint16_t next_cid_ = 0;
    uint32_t config_ = 0;
    bool ended_ = false;
  };

  std::vector<Queue*> queues_;
};

}  // namespace diskengine::nvme
