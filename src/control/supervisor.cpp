#include "control/supervisor.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "control/baremetal/raid_watcher.h"
#include "control/lease_keeper.h"
#include "control/node_loop.h"

namespace diskengine::control {
namespace {

struct Worker {
  std::string rpc_socket;
  std::atomic<bool> stopping{false};
  std::thread thread;
  std::thread watcher;  // of a compute node's RAID events

  void join() {
    thread.join();
    if (watcher.joinable()) watcher.join();
  }
};

}  // namespace

struct Supervisor::State {
  Store& store;
  Environment& environment;
  Options options;

  std::mutex mutex;
  std::condition_variable wake;
  uint64_t pokes = 0;  // under mutex
  bool stopping = false;
  std::thread manager;
  std::map<int64_t, std::unique_ptr<Worker>> workers;  // the manager's alone
  LeaseKeeper leases;

  State(Store& s, Environment& e, Options o) : store(s), environment(e), options(std::move(o)), leases(s, e) {}

  bool serves(const Node& node) const;
  void poke();
  bool wait(uint64_t* seen_pokes, const std::atomic<bool>* also_stopping);
  void manage();
  void take_up_nodes();
  void take_up_leases(const Graph& graph);
  bool may_serve(const Node& node, std::string* told);
  void run_worker(const Node& node, Worker* worker);
};

bool Supervisor::State::serves(const Node& node) const {
  const auto contains = [](const std::vector<std::string>& list, const std::string& item) {
    return std::find(list.begin(), list.end(), item) != list.end();
  };
  return contains(options.roles, node.role) && (options.nodes.empty() || contains(options.nodes, node.name));
}

void Supervisor::State::poke() {
  {
    const std::lock_guard lock(mutex);
    ++pokes;
  }
  wake.notify_all();
}

// Until the next tick or a poke that the caller has not seen. False: end.
bool Supervisor::State::wait(uint64_t* seen_pokes, const std::atomic<bool>* also_stopping) {
  std::unique_lock lock(mutex);
  const auto is_ending = [&] { return stopping || (also_stopping != nullptr && *also_stopping); };
  const int64_t wait_ms = std::min(options.limits.tick_ms, LeaseKeeper::kRenewMs);
  wake.wait_for(lock, std::chrono::milliseconds(wait_ms), [&] { return is_ending() || pokes != *seen_pokes; });
  *seen_pokes = pokes;
  return !is_ending();
}

void Supervisor::State::run_worker(const Node& node, Worker* worker) {
  NodeLoop loop(store, environment, node, options.limits);
  loop.set_may_go_on([this, &node] { return leases.holds(node.id); });
  std::string told_owner;
  uint64_t seen_pokes = 0;
  bool was_told = false;  // that the database is away; it says itself when it is back
  do {
    if (!may_serve(node, &told_owner)) continue;
    const Result<int> steps = loop.run();
    const bool is_away = !steps && steps.error().code() == Errc::unreachable;
    if (!steps && !(is_away && was_told))
      LOG_ERROR("control", "the loops of node {} wait: {}", node.name, steps.error().message());
    was_told = is_away;
    if (steps && *steps > 0) poke();  // other nodes may have waited for what was done here
  } while (wait(&seen_pokes, &worker->stopping));
}

// False: another process serves the node, or this one could not renew its lease in time.
bool Supervisor::State::may_serve(const Node& node, std::string* told_owner) {
  if (leases.holds(node.id)) {
    told_owner->clear();
    return true;
  }
  const std::string owner = leases.other_owner(node.id);
  if (!owner.empty() && owner != *told_owner)
    LOG_WARN("control", "node {} is served by {}: standing by, and taking over {} s after that has ended", node.name,
             owner, LeaseKeeper::kTakeOverMs / 1000);
  *told_owner = owner;
  return false;
}

void Supervisor::State::take_up_leases(const Graph& graph) {
  std::vector<int64_t> wanted;
  for (const Node& node : graph.nodes)
    if (serves(node)) wanted.push_back(node.id);
  const Result<bool> taken = leases.tick(wanted);
  if (taken && *taken) poke();
  if (!taken && taken.error().code() != Errc::unreachable && taken.error().code() != Errc::would_block)
    LOG_ERROR("control", "renewing the leases of nodes: {}", taken.error().message());
}

void Supervisor::State::take_up_nodes() {
  const Result<Graph> graph = store.load_graph();
  if (!graph) {
    if (graph.error().code() != Errc::unreachable)
      LOG_ERROR("control", "reading the nodes: {}", graph.error().message());
    return;
  }
  take_up_leases(*graph);
  for (const Node& node : graph->nodes) {
    if (!serves(node)) continue;
    std::unique_ptr<Worker>& worker = workers[node.id];
    if (worker != nullptr && worker->rpc_socket == node.rpc_socket) continue;
    if (worker != nullptr) {
      worker->stopping = true;
      wake.notify_all();
      worker->join();
    }
    worker = std::make_unique<Worker>();
    worker->rpc_socket = node.rpc_socket;
    worker->thread = std::thread([this, node, raw = worker.get()] { run_worker(node, raw); });
    if (node.role != kRoleCompute) continue;
    worker->watcher = std::thread([this, node, raw = worker.get()] {
      RaidWatcher(store, environment, node.rpc_socket, [this] { poke(); }).run(raw->stopping);
    });
  }
}

void Supervisor::State::manage() {
  uint64_t seen_pokes = 0;
  do take_up_nodes();
  while (wait(&seen_pokes, nullptr));
  for (auto& [id, worker] : workers) worker->stopping = true;
  for (auto& [id, worker] : workers) worker->join();
  workers.clear();
  leases.give_back();
}

Supervisor::Supervisor(Store& store, Environment& environment, Options options)
    : state_(std::make_unique<State>(store, environment, std::move(options))) {}

Supervisor::~Supervisor() { stop(); }

void Supervisor::start() {
  state_->manager = std::thread([this] { state_->manage(); });
}

void Supervisor::poke() { state_->poke(); }

void Supervisor::stop() {
  if (!state_->manager.joinable()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  state_->manager.join();
}

}  // namespace diskengine::control
