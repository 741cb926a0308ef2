// A data plane for tests: a JSON-RPC responder on a real unix socket with SPDK's semantics for the methods that the
// control plane uses, and faults on request. Its "fabric" is a map in memory, so a compute node's fake finds the
// subsystems of the storage nodes' fakes, their host lists included.
//
// One thread of its own serves the socket; every public function may be called from the test's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace diskengine::control {

class FakeDataPlane;

// The network: which fake listens at "address:port". Its lock covers the state of all fakes on it.
struct FakeFabric {
  std::mutex mutex;
  std::map<std::string, FakeDataPlane*> listeners;
  int64_t uuids_made = 0;
  std::vector<const FakeDataPlane*> planes;  // all of them, for who is connected where
};

class FakeDataPlane {
 public:
  FakeDataPlane(std::string socket_path, std::shared_ptr<FakeFabric> fabric);
  ~FakeDataPlane();

  // A process that starts has nothing configured; one that stops is gone from the socket and from the fabric.
  void start();
  void stop();

  // The next call of `method` is answered with this error instead of being done.
  void fail_next(const std::string& method, int code, const std::string& message);
  // Calls of `method` are answered with "Method not found" from now on.
  void lack(const std::string& method);

  // While it is stopped: its disks are swapped for empty ones, or their stores lose their lvols.
  void lose_disks();
  void lose_lvols();
  // Metadata could not be written: the stores change nothing any more, until the next start().
  void freeze_stores(const std::string& reason);
  // The file holds an lvol store that someone else made.
  void put_foreign_store(const std::string& path);

  // From now on commands of that host never come back from the disk: removing it times out. Until let_drain().
  void hold_io_of(const std::string& host);
  void let_drain();

  // What SPDK does by itself after some time: I/O to a lost target fails, so the mirror drops its leg.
  void drop_lost_legs();
  // And later: the controllers of lost targets are deleted with their bdevs; a mirror without legs is offline.
  void give_up_lost_controllers();
  // Reconnects controllers whose target is back.
  void reconnect();
  // Moves every rebuild to that percentage; at 100 it ends and the leg is whole.
  void rebuild_to(int64_t percent);

  // Calls that change something, in order: "bdev_raid_create raid_1". Observations are not in it.
  std::vector<std::string> changes() const;
  void forget_changes();
  // The result of one method, serialised.
  std::string ask(const std::string& method) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diskengine::control
