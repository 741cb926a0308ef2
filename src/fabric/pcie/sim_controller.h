// An NVMe controller in memory, as its registers, queues and interrupts show it to a driver: for tests and fuzzing. It
// does what it was told of by doorbells in step(), which is called by hand, or by itself, and misbehaves on request.
//
// It checks its driver: memory that was not mapped for it is never touched, and counted in dma_faults.
//
// Threads: one, except open() and the domain's functions, which are for any.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/checked.h"
#include "base/unique_fd.h"
#include "fabric/pcie/pci_device.h"
#include "format/nvme_identify.h"
#include "format/nvme_pcie.h"
#include "runtime/alloc_count.h"

namespace diskengine::fabric::pcie {

// What devices were let reach; the addresses are those of this process, or, with an offset, others.
class SimDomain final : public DmaDomain {
 public:
  Result<DmaAddresses> map(uint8_t* at, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (refuse) return Error(Errc::no_memory, "no more memory is to be mapped");
    DmaAddresses addresses;
    if (scattered) addresses.run_shift = std::countr_zero(kRunBytes);
    const size_t run = scattered ? kRunBytes : bytes;
    for (size_t done = 0; done < bytes; done += run) {
      // Neighbours get addresses far apart, in no order.
      const uint64_t apart = scattered ? ((done / run * 37 + 11) % 64) << 48 : 0;
      addresses.runs.push_back((reinterpret_cast<uint64_t>(at + done) + kOffset) ^ apart);
      mapped_[addresses.runs.back()] = {at + done, std::min(run, bytes - done)};
    }
    return addresses;
  }
  void unmap(const DmaAddresses& addresses, size_t) noexcept override {
    const std::lock_guard lock(mutex_);
    for (const uint64_t run : addresses.runs) mapped_.erase(run);
  }
  bool maps_any_memory() const noexcept override { return !scattered; }
  // The memory at [iova, iova + bytes), or nullptr if it is not all mapped.
  uint8_t* reach(uint64_t iova, size_t bytes) {
    const std::lock_guard lock(mutex_);
    auto after = mapped_.upper_bound(iova);
    if (after == mapped_.begin()) return nullptr;
    --after;
    const auto& [base, size] = after->second;
    if (!in_range(iova - after->first, bytes, size)) return nullptr;
    return base + (iova - after->first);
  }
  size_t mappings() {
    const std::lock_guard lock(mutex_);
    return mapped_.size();
  }
  bool refuse = false;
  bool scattered = false;  // as without an IOMMU: in runs of kRunBytes, and only what was allocated for it

 private:
  static constexpr size_t kRunBytes = 128 * 1024;
  static constexpr uint64_t kOffset = uint64_t{1} << 56;
  std::mutex mutex_;
  std::map<uint64_t, std::pair<uint8_t*, size_t>> mapped_;
};

class SimController final : public PciBus {
 public:
  struct Namespace {
    uint32_t block_size = 512;
    std::vector<uint8_t> bytes = std::vector<uint8_t>(1024 * 1024);
  };
  enum class Verdict { serve, swallow };

  // How it is, and how it behaves; change at any time.
  std::map<uint32_t, Namespace> namespaces{{1, {}}};
  uint64_t cap = spec::make_cap(64, 1000).value;
  unsigned vectors = 9;
  std::vector<std::string> addresses{"0000:00:04.0"};  // that are listed; all are this one
  uint16_t granted_queues = 16;
  uint8_t mdts = 5;  // 128 KiB
  uint32_t sgls = 0;
  uint16_t oacs = 0;
  bool cache_on = true;
  bool automatic = true;  // steps by itself when a doorbell is rung
  bool looks_at_shadow = false;
  bool gone = false;       // unplugged: registers read all ones
  bool half_gone = false;  // only the second half of a register does
  bool never_ready = false;
  bool never_idle = false;  // until its function is reset
  bool fatal = false;       // reports a fatal status, and does nothing more
  bool delete_works = true;
  bool refuse_vectors = false;
  // Asked about every command of an I/O queue.
  std::function<Verdict(const spec::Sqe&)> verdict = [](const spec::Sqe&) { return Verdict::serve; };
  std::function<spec::Status(const spec::Sqe&)> status = [](const spec::Sqe&) { return spec::Status::success; };
  // May change a completion before it is posted.
  std::function<void(uint16_t queue_id, spec::Cqe&)> mangle = [](uint16_t, spec::Cqe&) {};
  spec::SmartLog health;

  // What it saw.
  unsigned opens = 0;
  unsigned resets = 0;
  unsigned enables = 0;
  unsigned dma_faults = 0;
  unsigned doorbells = 0;
  unsigned interrupts_switched = 0;
  unsigned aborts = 0;
  unsigned sgl_commands = 0;
  std::vector<spec::Sqe> io_commands;

  Result<std::shared_ptr<PciDevice>> open(const std::string& address) override {
    ++opens;
    if (gone) return Error(Errc::not_found, "there is no PCI device at " + address);
    return std::shared_ptr<PciDevice>(std::make_shared<Device>(*this));
  }

  std::vector<std::string> list() const override { return gone ? std::vector<std::string>() : addresses; }

  SimDomain& domain() noexcept { return *domain_; }
  bool interrupts_on(unsigned vector) const { return vector_fds_.at(vector) >= 0; }
  bool enabled() const noexcept { return (config_ & spec::kCcEnable) != 0; }
  size_t queues() const noexcept { return submission_.size(); }
  void ask_for_removal() { signal(removal_fd_.get()); }

  // Does all that was told of; returns how many commands it took.
  unsigned step() {
    unsigned taken = 0;
    if (!running()) return 0;
    for (bool more = true; more;) {
      more = false;
      for (auto& [id, queue] : std::map<uint16_t, Ring>(submission_)) {
        if (!submission_.contains(id) || !running() || head_of(id) == tail_of(id)) continue;
        ++taken;
        more = true;
        serve(id);
      }
    }
    return taken;
  }
  // A completion that nothing asked for, or an asynchronous event.
  void post(uint16_t queue_id, spec::Cqe cqe) { write_completion(queue_id, cqe); }
  void announce(uint32_t cdw0) {
    if (event_cids_.empty()) return;
    const uint16_t cid = event_cids_.back();
    event_cids_.pop_back();
    complete(0, cid, spec::Status::success, cdw0);
  }

 private:
  struct Ring {
    uint64_t iova = 0;
    uint32_t entries = 0;
    uint32_t head = 0;
    uint32_t tail = 0;
    uint16_t phase = 1;  // completion queues
    uint16_t cq_id = 0;  // submission queues
    uint16_t vector = 0;
  };

  class Device final : public PciDevice {
   public:
    explicit Device(SimController& controller) : controller_(controller), domain_(controller.domain_) {
      controller_.removal_fd_ = UniqueFd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
      for (unsigned i = 0; i < controller_.vectors; ++i) fds_.emplace_back(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
      controller_.vector_fds_.clear();
      for (const UniqueFd& fd : fds_) controller_.vector_fds_.push_back(fd.get());
    }
    ~Device() override { controller_.vector_fds_.clear(); }
    size_t register_bytes() const noexcept override { return 8192; }
    uint32_t read32(uint32_t offset) noexcept override {
      const AllocPause pause;
      return controller_.read_register(offset);
    }
    void write32(uint32_t offset, uint32_t value) noexcept override {
      const AllocPause pause;
      controller_.write_register(offset, value);
    }
    const std::shared_ptr<DmaDomain>& domain() const noexcept override { return domain_; }
    unsigned vectors() const noexcept override { return static_cast<unsigned>(fds_.size()); }
    int vector_fd(unsigned vector) const noexcept override { return fds_[vector].get(); }
    bool enable_vector(unsigned vector, bool on) noexcept override {
      ++controller_.interrupts_switched;
      if (controller_.refuse_vectors) return false;
      controller_.vector_fds_[vector] = on ? fds_[vector].get() : -1;
      return true;
    }
    int removal_fd() const noexcept override { return controller_.removal_fd_.get(); }
    Result<void> reset() override {
      ++controller_.resets;
      controller_.stuck_ = false;
      controller_.forget();
      return {};
    }

   private:
    SimController& controller_;
    std::shared_ptr<DmaDomain> domain_;
    std::vector<UniqueFd> fds_;
  };

  static void signal(int fd) {
    const uint64_t one = 1;
    static_cast<void>(!write(fd, &one, sizeof one));
  }
  bool running() const noexcept { return enabled() && !gone && !fatal && !never_ready; }
  void forget() {
    config_ = 0;
    submission_.clear();
    completion_.clear();
    event_cids_.clear();
    swallowed_.clear();
    shadow_ = events_ = 0;
  }

  // --- Registers ----------------------------------------------------------------------------------------------------

  uint32_t read_register(uint32_t offset) const {
    if (gone) return spec::kRegisterGone;
    switch (offset) {
      case spec::Property::cap:
        return static_cast<uint32_t>(cap);
      case spec::Property::cap + 4:
        return half_gone ? spec::kRegisterGone : static_cast<uint32_t>(cap >> 32);
      case spec::Property::vs:
        return spec::nvme_version(1, 4);
      case spec::Property::cc:
        return config_;
      case spec::Property::csts: {
        uint32_t value = (enabled() || stuck_) && !never_ready ? spec::kCstsReady : 0;
        if (fatal) value |= spec::kCstsFatal;
        if ((config_ & spec::kCcShutdownMask) != 0) value |= spec::kCstsShutdownDone;
        return value;
      }
      default:
        return 0;
    }
  }

  void write_register(uint32_t offset, uint32_t value) {
    if (gone) return;
    if (offset >= spec::Register::doorbells) return ring(offset, value);
    const auto half = [](uint64_t& whole, bool high, uint32_t part) {
      whole = high ? (whole & 0xffffffff) | uint64_t{part} << 32 : (whole & ~uint64_t{0xffffffff}) | part;
    };
    if (offset == spec::Register::aqa) admin_sizes_ = value;
    if (offset == spec::Register::asq || offset == spec::Register::asq + 4)
      half(admin_sq_, offset != spec::Register::asq, value);
    if (offset == spec::Register::acq || offset == spec::Register::acq + 4)
      half(admin_cq_, offset != spec::Register::acq, value);
    if (offset == spec::Property::cc) configure(value);
  }

  void configure(uint32_t value) {
    const bool was = enabled();
    if (was && (value & spec::kCcEnable) == 0) {
      forget();
      stuck_ = never_idle;
    }
    config_ = value;
    if (was || !enabled()) return;
    ++enables;
    submission_[0] = Ring{.iova = admin_sq_, .entries = (admin_sizes_ & 0xfff) + 1};
    completion_[0] = Ring{.iova = admin_cq_, .entries = (admin_sizes_ >> 16 & 0xfff) + 1};
  }

  void ring(uint32_t offset, uint32_t value) {
    ++doorbells;
    const uint32_t number = (offset - spec::Register::doorbells) / 4;
    const auto id = static_cast<uint16_t>(number / 2);
    auto& rings = number % 2 == 0 ? submission_ : completion_;
    if (auto at = rings.find(id); at != rings.end() && value < at->second.entries)
      (number % 2 == 0 ? at->second.tail : at->second.head) = value;
    if (automatic) step();
  }

  uint32_t head_of(uint16_t id) { return submission_[id].head; }
  uint32_t tail_of(uint16_t id) {
    if (looks_at_shadow && shadow_ != 0 && id != 0) {
      const size_t at = spec::sq_doorbell(id, 4) - spec::Register::doorbells;
      if (const uint8_t* word = reach(shadow_ + at, 4)) submission_[id].tail = load_le<uint32_t>(word);
      // The next ring is wanted only after what was seen.
      if (uint8_t* word = reach(events_ + at, 4)) store_le(word, submission_[id].tail);
    }
    return submission_[id].tail;
  }

  // --- Memory -------------------------------------------------------------------------------------------------------

  uint8_t* reach(uint64_t iova, size_t bytes) {
    uint8_t* const at = domain_->reach(iova, bytes);
    if (at == nullptr) ++dma_faults;
    return at;
  }

  struct Piece {
    uint64_t iova;
    size_t bytes;
  };
  std::vector<Piece> pieces_of(const spec::Sqe& sqe, size_t bytes) {
    return (sqe.flags & spec::kSqePsdtMask) != 0 ? sgl_pieces(sqe, bytes) : prp_pieces(spec::prps_of(sqe), bytes);
  }
  std::vector<Piece> prp_pieces(const spec::PrpPair& pair, size_t bytes) {
    constexpr size_t kPage = spec::kPrpPageBytes;
    std::vector<Piece> pieces{{pair.first, std::min(bytes, kPage - pair.first % kPage)}};
    size_t left = bytes - pieces[0].bytes;
    const uint64_t* list = nullptr;
    if (left > kPage) {
      const size_t entries = (left + kPage - 1) / kPage;
      list = reinterpret_cast<const uint64_t*>(reach(pair.second, entries * sizeof(uint64_t)));
      if (list == nullptr) return pieces;
    }
    for (size_t i = 0; left > 0; ++i) {
      const uint64_t page = list != nullptr ? list[i] : pair.second;
      if (page % kPage != 0) ++dma_faults;
      pieces.push_back({page, std::min(left, kPage)});
      left -= pieces.back().bytes;
    }
    return pieces;
  }
  std::vector<Piece> sgl_pieces(const spec::Sqe& sqe, size_t bytes) {
    ++sgl_commands;
    if (sqe.data.type == spec::SglType::data_block_address) return {{sqe.data.address, bytes}};
    std::vector<Piece> pieces;
    const auto* list = reinterpret_cast<const spec::SglDescriptor*>(reach(sqe.data.address, sqe.data.length));
    for (size_t i = 0; list != nullptr && i < sqe.data.length / sizeof *list; ++i)
      pieces.push_back({list[i].address, list[i].length});
    return pieces;
  }

  bool move(const spec::Sqe& sqe, uint8_t* memory, size_t bytes, bool to_host) {
    size_t moved = 0;
    for (const Piece& piece : pieces_of(sqe, bytes)) {
      uint8_t* const at = reach(piece.iova, piece.bytes);
      if (at == nullptr || piece.bytes > bytes - moved) return false;
      std::memcpy(to_host ? at : memory + moved, to_host ? memory + moved : at, piece.bytes);
      moved += piece.bytes;
    }
    return moved == bytes;
  }

  // --- Commands -----------------------------------------------------------------------------------------------------

  void serve(uint16_t id) {
    Ring& queue = submission_[id];
    const uint8_t* const at = reach(queue.iova + queue.head * sizeof(spec::Sqe), sizeof(spec::Sqe));
    queue.head = (queue.head + 1) % queue.entries;
    if (at == nullptr) return;
    const auto sqe = load_le<spec::Sqe>(at);
    if (id == 0) return serve_admin(sqe);
    io_commands.push_back(sqe);
    if (verdict(sqe) == Verdict::swallow) {
      swallowed_.push_back({id, sqe.cid});
      return;
    }
    const spec::Status forced = status(sqe);
    complete(id, sqe.cid, forced != spec::Status::success ? forced : serve_io(sqe));
  }

  void complete(uint16_t id, uint16_t cid, spec::Status outcome, uint32_t cdw0 = 0) {
    spec::Cqe cqe;
    cqe.cid = cid;
    cqe.cdw0 = cdw0;
    cqe.sq_id = id;
    cqe.sq_head = static_cast<uint16_t>(submission_[id].head);
    cqe.status = spec::status_field(outcome);
    mangle(id, cqe);
    write_completion(id, cqe);
  }

  void write_completion(uint16_t sq_id, spec::Cqe cqe) {
    if (gone) return;  // what is unplugged reaches nothing
    auto at = completion_.find(sq_id == 0 ? 0 : submission_[sq_id].cq_id);
    if (at == completion_.end()) return;
    Ring& queue = at->second;
    cqe.status = static_cast<uint16_t>(cqe.status ^ queue.phase);
    uint8_t* const entry = reach(queue.iova + queue.tail * sizeof cqe, sizeof cqe);
    if (entry == nullptr) return;
    std::memcpy(entry, &cqe, sizeof cqe - sizeof cqe.status);
    __atomic_store_n(reinterpret_cast<uint16_t*>(entry + offsetof(spec::Cqe, status)), cqe.status, __ATOMIC_RELEASE);
    if (++queue.tail == queue.entries) {
      queue.tail = 0;
      queue.phase ^= 1;
    }
    if (queue.vector < vector_fds_.size() && vector_fds_[queue.vector] >= 0) signal(vector_fds_[queue.vector]);
  }

  template <typename T>
  void answer_data(const spec::Sqe& sqe, const T& data, size_t bytes = sizeof(T)) {
    std::vector<uint8_t> copy(std::max(bytes, sizeof data));
    std::memcpy(copy.data(), &data, sizeof data);
    complete(0, sqe.cid,
             move(sqe, copy.data(), bytes, true) ? spec::Status::success : spec::Status::data_transfer_error);
  }

  void serve_admin(const spec::Sqe& sqe) {
    switch (sqe.opcode) {
      case spec::AdminOp::identify:
        return identify(sqe);
      case spec::AdminOp::set_features:
        return complete(0, sqe.cid, spec::Status::success,
                        (sqe.cdw10 & 0xff) == spec::Feature::number_of_queues ? spec::queue_count(granted_queues) : 0);
      case spec::AdminOp::get_features:
        return complete(0, sqe.cid, spec::Status::success, cache_on ? 1 : 0);
      case spec::AdminOp::async_event:
        return event_cids_.push_back(sqe.cid);
      case spec::AdminOp::create_cq:
        completion_[static_cast<uint16_t>(sqe.cdw10)] = Ring{.iova = spec::prps_of(sqe).first,
                                                             .entries = (sqe.cdw10 >> 16) + 1,
                                                             .vector = static_cast<uint16_t>(sqe.cdw11 >> 16)};
        return complete(0, sqe.cid, spec::Status::success);
      case spec::AdminOp::create_sq:
        submission_[static_cast<uint16_t>(sqe.cdw10)] = Ring{.iova = spec::prps_of(sqe).first,
                                                             .entries = (sqe.cdw10 >> 16) + 1,
                                                             .cq_id = static_cast<uint16_t>(sqe.cdw11 >> 16)};
        return complete(0, sqe.cid, spec::Status::success);
      case spec::AdminOp::delete_sq:
      case spec::AdminOp::delete_cq:
        return delete_queue(sqe);
      case spec::AdminOp::abort:
        return abort(sqe);
      case spec::AdminOp::doorbell_buffer_config:
        shadow_ = spec::prps_of(sqe).first;
        events_ = spec::prps_of(sqe).second;
        return complete(0, sqe.cid, spec::Status::success);
      case spec::AdminOp::get_log_page:
        return read_log(sqe);
      default:
        return complete(0, sqe.cid, spec::Status::invalid_opcode);
    }
  }

  void read_log(const spec::Sqe& sqe) {
    const size_t bytes = spec::log_page_bytes(sqe);
    if ((sqe.cdw10 & 0xff) == spec::LogPage::smart) return answer_data(sqe, health, bytes);
    spec::ErrorLogEntry entry;
    entry.count = 7;
    entry.lba = 42;
    entry.nsid = 1;
    entry.status = spec::status_field(spec::Status::unrecovered_read_error);
    answer_data(sqe, entry, bytes);
  }

  void delete_queue(const spec::Sqe& sqe) {
    if (!delete_works) return;
    const auto id = static_cast<uint16_t>(sqe.cdw10);
    auto& rings = sqe.opcode == spec::AdminOp::delete_sq ? submission_ : completion_;
    const bool known = rings.erase(id) > 0;
    std::erase_if(swallowed_, [id](const auto& command) { return command.first == id; });
    complete(0, sqe.cid, known ? spec::Status::success : spec::Status::invalid_queue_id);
  }

  void abort(const spec::Sqe& sqe) {
    ++aborts;
    const std::pair<uint16_t, uint16_t> target{static_cast<uint16_t>(sqe.cdw10),
                                               static_cast<uint16_t>(sqe.cdw10 >> 16)};
    const bool found = std::erase(swallowed_, target) > 0;
    if (found) complete(target.first, target.second, spec::Status::aborted_by_request);
    complete(0, sqe.cid, spec::Status::success, found ? 0 : 1);
  }

  void identify(const spec::Sqe& sqe) {
    const auto cns = static_cast<uint8_t>(sqe.cdw10);
    if (cns == spec::Cns::controller) {
      spec::IdentifyController id;
      std::memcpy(id.model_number, "simulated", 9);
      std::memcpy(id.serial_number, "SIM1", 4);
      id.mdts = mdts;
      id.cntlid = 3;
      id.oacs = oacs;
      id.sgls = sgls;
      id.vwc = spec::kVwcPresent;
      id.elpe = 3;
      id.oncs = spec::kOncsCompare | spec::kOncsDatasetManagement | spec::kOncsWriteZeroes;
      return answer_data(sqe, id);
    }
    if (cns == spec::Cns::active_namespaces) {
      std::array<uint32_t, spec::kNamespaceListEntries> list{};
      size_t count = 0;
      for (const auto& [nsid, data] : namespaces)
        if (nsid > sqe.nsid) list[count++] = nsid;
      return answer_data(sqe, list);
    }
    auto at = namespaces.find(sqe.nsid);
    if (at == namespaces.end()) return complete(0, sqe.cid, spec::Status::invalid_namespace);
    if (cns != spec::Cns::ns) return answer_data(sqe, std::array<uint8_t, spec::kIdentifyBytes>{});
    spec::IdentifyNamespace id;
    id.size_blocks = at->second.bytes.size() / at->second.block_size;
    id.lba_format_table[0].data_size_log2 = at->second.block_size == 512 ? 9 : 12;
    answer_data(sqe, id);
  }

  spec::Status serve_io(const spec::Sqe& sqe) {
    auto at = namespaces.find(sqe.nsid);
    if (at == namespaces.end()) return spec::Status::invalid_namespace;
    Namespace& ns = at->second;
    if (sqe.opcode == spec::IoOp::flush) return spec::Status::success;
    if (sqe.opcode == spec::IoOp::dataset_management) return deallocate(sqe, ns);
    const uint64_t bytes = uint64_t{(sqe.cdw12 & spec::kRwBlocksMask) + 1} * ns.block_size;
    const uint64_t offset = sqe.slba() * ns.block_size;
    if (!in_range(offset, bytes, ns.bytes.size())) return spec::Status::lba_out_of_range;
    const auto moved = [&](uint8_t* memory, bool to_host) {
      return move(sqe, memory, bytes, to_host) ? spec::Status::success : spec::Status::data_transfer_error;
    };
    switch (sqe.opcode) {
      case spec::IoOp::read:
        return moved(&ns.bytes[offset], true);
      case spec::IoOp::write:
        return moved(&ns.bytes[offset], false);
      case spec::IoOp::write_zeroes:
        std::memset(&ns.bytes[offset], 0, bytes);
        return spec::Status::success;
      case spec::IoOp::compare: {
        std::vector<uint8_t> wanted(bytes);
        const spec::Status got = moved(wanted.data(), false);
        if (got != spec::Status::success) return got;
        return std::memcmp(wanted.data(), &ns.bytes[offset], bytes) == 0 ? got : spec::Status::compare_failure;
      }
      default:
        return spec::Status::invalid_opcode;
    }
  }

  spec::Status deallocate(const spec::Sqe& sqe, Namespace& ns) {
    spec::DsmRange range;
    if (!move(sqe, reinterpret_cast<uint8_t*>(&range), sizeof range, false)) return spec::Status::data_transfer_error;
    const uint64_t bytes = uint64_t{range.blocks} * ns.block_size;
    if (!in_range(range.slba * ns.block_size, bytes, ns.bytes.size())) return spec::Status::lba_out_of_range;
    std::memset(&ns.bytes[range.slba * ns.block_size], 0, bytes);
    return spec::Status::success;
  }

  std::shared_ptr<SimDomain> domain_ = std::make_shared<SimDomain>();
  uint32_t config_ = 0;
  bool stuck_ = false;
  uint32_t admin_sizes_ = 0;
  uint64_t admin_sq_ = 0;
  uint64_t admin_cq_ = 0;
  std::map<uint16_t, Ring> submission_;
  std::map<uint16_t, Ring> completion_;
  std::vector<std::pair<uint16_t, uint16_t>> swallowed_;  // queue and command
  std::vector<uint16_t> event_cids_;
  std::vector<int> vector_fds_;
  UniqueFd removal_fd_;
  uint64_t shadow_ = 0;
  uint64_t events_ = 0;
};

}  // namespace diskengine::fabric::pcie
