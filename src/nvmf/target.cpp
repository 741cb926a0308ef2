#include "nvmf/target.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace diskengine::nvmf {

using fabric::Address;
using fabric::TargetCommand;

Result<void> check_nqn(const std::string& nqn) {
  auto wrong = [&nqn](const char* what) {
    return Error(Errc::invalid_argument, fmt::format("'{}' is not an NVMe qualified name: {}", nqn, what));
  };
  if (nqn == spec::kDiscoveryNqn) return {};
  if (nqn.size() < 11 || nqn.size() > spec::kNqnBytesMax) return wrong("it must have 11 to 223 bytes");
  for (const char c : nqn)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return wrong("it has control characters");
  // nqn.yyyy-mm.reverse.domain[:name]
  auto digits = [&nqn](size_t from, size_t count) {
    return std::all_of(nqn.begin() + static_cast<ptrdiff_t>(from), nqn.begin() + static_cast<ptrdiff_t>(from + count),
                       [](char c) { return c >= '0' && c <= '9'; });
  };
  if (nqn.compare(0, 4, "nqn.") != 0) return wrong("it must start with 'nqn.'");
  if (nqn.size() < 13 || !digits(4, 4) || nqn[8] != '-' || !digits(9, 2) || nqn[11] != '.')
    return wrong("a year and month and a domain must follow, as in nqn.2016-06.io.example:disk");
  return {};
}

// A listening address and how many subsystems use it.
struct Target::ListenerUse {
  Address address;
  std::unique_ptr<fabric::TargetListener> listener;
  size_t users = 0;
};

Target::Target(std::vector<Reactor*> reactors, DeviceRegistry& devices, const Uuid& instance, DmaRegions* dma_regions)
    : reactors_(std::move(reactors)), devices_(devices), dma_regions_(dma_regions), instance_(instance) {
  DE_ASSERT(!reactors_.empty());
  for (Reactor* reactor : reactors_) groups_.push_back(std::make_unique<PollGroup>(*this, *reactor));
  SubsystemOptions discovery;
  discovery.nqn = spec::kDiscoveryNqn;
  discovery.discovery = true;
  discovery.allow_any_host = true;
  discovery.max_namespaces = 1;
  subsystems_.push_back(std::make_unique<Subsystem>(*this, std::move(discovery)));
}

Target::~Target() { DE_ASSERT(queues_.empty() && listeners_.empty()); }

Result<void> Target::add_transport(std::unique_ptr<fabric::TargetTransport> transport) {
  if (find_transport(transport->type()) != nullptr)
    return Error(Errc::already_exists, fmt::format("Transport type '{}' already exists", transport->type()));
  transports_.push_back(std::move(transport));
  return {};
}

fabric::TargetTransport* Target::find_transport(const std::string& type) const noexcept {
  for (const auto& transport : transports_)
    if (transport->type() == type) return transport.get();
  return nullptr;
}

Result<Subsystem*> Target::create_subsystem(SubsystemOptions options) {
  TRY(check_nqn(options.nqn));
  if (stopping_) return Error(Errc::canceled, "the target is stopping");
  if (find_subsystem(options.nqn) != nullptr)
    return Error(Errc::already_exists, fmt::format("subsystem {} exists already", options.nqn));
  if (subsystems_.size() > subsystems_max_)
    return Error(Errc::out_of_range, fmt::format("there are {} subsystems already, the limit", subsystems_max_));
  if (options.max_namespaces == 0) options.max_namespaces = SubsystemOptions{}.max_namespaces;
  if (options.max_namespaces > Subsystem::kNamespacesMax)
    return Error(Errc::out_of_range, fmt::format("{} namespaces are more than the limit of {}", options.max_namespaces,
                                                 Subsystem::kNamespacesMax));
  if (options.min_cntlid == 0 || options.min_cntlid > options.max_cntlid || options.max_cntlid > 0xffef)
    return Error(Errc::invalid_argument,
                 fmt::format("Invalid cntlid range [{}-{}]", options.min_cntlid, options.max_cntlid));
  subsystems_.push_back(std::make_unique<Subsystem>(*this, std::move(options)));
  discovery_changed();
  return subsystems_.back().get();
}

Task<Result<void>> Target::delete_subsystem(std::string nqn) {
  const auto at = std::find_if(subsystems_.begin(), subsystems_.end(), [&](const auto& s) { return s->nqn() == nqn; });
  if (at == subsystems_.end()) co_return Error(Errc::not_found, fmt::format("there is no subsystem {}", nqn));
  if ((*at)->is_discovery())
    co_return Error(Errc::permission_denied, "the discovery subsystem belongs to the target and stays");
  std::unique_ptr<Subsystem> subsystem = std::move(*at);
  subsystems_.erase(at);
  // Nobody can connect to it from here on.
  const std::vector<Address> addresses = subsystem->listeners();
  for (const Address& address : addresses) {
    const Result<void> removed = remove_listener(*subsystem, address);
    if (!removed) LOG_ERROR("nvmf", "{}", removed.error().message());
  }
  discovery_changed();
  const Gate::Pass pass(tasks_);
  Task<void> closing = subsystem->close();
  co_await closing;
  co_return Result<void>{};
}

Subsystem* Target::find_subsystem(const std::string& nqn) const noexcept {
  for (const auto& subsystem : subsystems_)
    if (subsystem->nqn() == nqn) return subsystem.get();
  return nullptr;
}

std::vector<Subsystem*> Target::subsystems() const {
  std::vector<Subsystem*> all;
  for (const auto& subsystem : subsystems_) all.push_back(subsystem.get());
  return all;
}

Result<void> Target::set_max_subsystems(uint32_t most) {
  if (most == 0 || subsystems_.size() > most)
    return Error(Errc::invalid_argument,
                 fmt::format("{} is less than the {} subsystems there are", most, subsystems_.size()));
  subsystems_max_ = most;
  return {};
}

Result<void> Target::add_listener(Subsystem& subsystem, const Address& address) {
  if (stopping_) return Error(Errc::canceled, "the target is stopping");
  if (subsystem.listens_on(address))
    return Error(Errc::already_exists,
                 fmt::format("subsystem {} listens on {} already", subsystem.nqn(), address.to_string()));
  if (subsystem.listeners().size() >= Subsystem::kListenersMax)
    return Error(Errc::out_of_range,
                 fmt::format("subsystem {} has its limit of {} listeners", subsystem.nqn(), Subsystem::kListenersMax));
  fabric::TargetTransport* transport = find_transport(address.type);
  if (transport == nullptr)
    return Error(Errc::not_found,
                 fmt::format("there is no {} transport; make it with nvmf_create_transport", address.type));
  auto at = std::find_if(listeners_.begin(), listeners_.end(), [&](const auto& l) { return l->address == address; });
  if (at == listeners_.end()) {
    TRY_ASSIGN(std::unique_ptr<fabric::TargetListener> listener, transport->listen(address));
    auto use = std::make_unique<ListenerUse>();
    use->address = address;
    use->listener = std::move(listener);
    listeners_.push_back(std::move(use));
    at = listeners_.end() - 1;
  }
  ++(*at)->users;
  subsystem.add_listener(address);
  discovery_changed();
  return {};
}

Result<void> Target::remove_listener(Subsystem& subsystem, const Address& address) {
  if (!subsystem.remove_listener(address))
    return Error(Errc::not_found,
                 fmt::format("subsystem {} does not listen on {}", subsystem.nqn(), address.to_string()));
  const auto at =
      std::find_if(listeners_.begin(), listeners_.end(), [&](const auto& l) { return l->address == address; });
  DE_ASSERT(at != listeners_.end());
  if (--(*at)->users == 0) listeners_.erase(at);
  discovery_changed();
  return {};
}

Task<std::vector<Target::GroupStats>> Target::collect_stats() {
  const Gate::Pass pass(tasks_);
  std::vector<GroupStats> all;
  for (size_t i = 0; i < groups_.size(); ++i) {
    PollGroup* group = groups_[i].get();
    std::function<GroupStats()> read = [group, i] {
      GroupStats stats{};
      stats.name = fmt::format("nvmf_tgt_poll_group_{:03}", i);
      stats.admin_queues = group->admin_queues;
      stats.io_queues = group->io_queues;
      stats.current_admin_queues = group->current_admin_queues;
      stats.current_io_queues = group->current_io_queues;
      stats.pending_io = group->pending_io;
      stats.completed_io = group->completed_io;
      stats.failed_io = group->failed_io;
      return stats;
    };
    CallOnAwaiter<GroupStats> reading = call_on<GroupStats>(group->reactor, std::move(read));
    GroupStats stats = co_await reading;
    for (const auto& transport : transports_) stats.transports.emplace_back(transport->type(), transport->stats(i));
    all.push_back(std::move(stats));
  }
  co_return all;
}

Task<void> Target::stop() {
  stopping_ = true;
  for (const auto& subsystem : subsystems_) {
    const std::vector<Address> addresses = subsystem->listeners();
    for (const Address& address : addresses) {
      const Result<void> removed = remove_listener(*subsystem, address);
      if (!removed) LOG_ERROR("nvmf", "{}", removed.error().message());
    }
  }
  for (const auto& transport : transports_) {
    OneShot<bool> stopped(main_reactor());
    transport->stop([&stopped] { stopped.set(true); });
    co_await stopped;
  }
  if (!queues_.empty()) {
    OneShot<bool> gone(main_reactor());
    on_no_queues_ = [&gone] { gone.set(true); };
    co_await gone;
  }
  for (const auto& subsystem : subsystems_) {
    Task<void> closing = subsystem->close();
    co_await closing;
  }
  OneShot<bool> idle(main_reactor());
  tasks_.close([&idle] { idle.set(true); });
  co_await idle;
  subsystems_.clear();
  transports_.clear();
}

fabric::TargetQueueHandler* Target::on_connected(fabric::TargetQueue& transport_queue) {
  Reactor& reactor = transport_queue.reactor();
  const auto at = std::find(reactors_.begin(), reactors_.end(), &reactor);
  DE_ASSERT(at != reactors_.end());
  auto* queue = new Queue(*groups_[static_cast<size_t>(at - reactors_.begin())], transport_queue);
  QueueRecord record;
  record.queue = queue;
  record.reactor = &reactor;
  record.listen_address = transport_queue.listen_address();
  record.local_address = transport_queue.local_address();
  record.peer_address = transport_queue.peer_address();
  record.options = transport_queue.options();
  record.transport = record.listen_address.type;
  main_reactor().post([this, queue, record] { on_queue_opened(*queue, record); });
  return queue;
}

void Target::on_queue_opened(Queue& queue, QueueRecord record) {
  queues_.emplace(&queue, std::make_unique<QueueRecord>(std::move(record)));
}

void Target::on_command(Queue& queue, TargetCommand& command) {
  QueueRecord& record = *queues_.at(&queue);
  if (record.controller == nullptr) return connect(record, command);
  // The controller may go with this command's consequences.
  const std::shared_ptr<Controller> controller = record.controller;
  if (controller->execute(record, command)) answer(record, command);
}

void Target::answer(QueueRecord& record, TargetCommand& command) {
  record.reactor->post([queue = record.queue, &command] { queue->finish(command); });
}

void Target::disconnect(QueueRecord& record, const char* why) {
  if (record.closed) return;
  record.reactor->post([queue = record.queue, why] { queue->disconnect(why); });
}

void Target::on_queue_closed(Queue& queue) {
  QueueRecord& record = *queues_.at(&queue);
  record.closed = true;
  if (record.controller != nullptr) record.controller->queue_closed(record);
  record.reactor->post([&queue] { queue.let_go(); });
}

void Target::on_queue_gone(Queue* queue) {
  const auto at = queues_.find(queue);
  DE_ASSERT(at != queues_.end());
  const std::unique_ptr<QueueRecord> record = std::move(at->second);
  queues_.erase(at);
  if (const std::shared_ptr<Controller> controller = std::move(record->controller);
      controller != nullptr && controller->queue_gone(*record))
    controller->subsystem().forget(*controller);
  if (queues_.empty() && on_no_queues_) std::exchange(on_no_queues_, nullptr)();
}

}  // namespace diskengine::nvmf
