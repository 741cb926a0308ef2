// What a FakeDataPlane holds, shared by the files that play its layers. Everything is under the fabric's lock, except
// what serves the socket.
#pragma once

#include <atomic>
#include <boost/json.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "client/unix_socket.h"
#include "control/testing/fake_data_plane.h"

namespace diskengine::control {

struct RpcFailure {
  int code;
  std::string message;
};

struct FakeBdev {
  std::string product;
  std::string uuid;
  int64_t num_blocks = 0;
  int64_t block_size = 0;
  std::string claimed_by;
  std::string alias;  // of an lvol
};

// What lies on a disk, which outlives its data plane.
struct FakeLvolStore {
  struct Lvol {
    std::string uuid;
    int64_t num_blocks = 0;
  };
  std::string name;
  std::map<std::string, int64_t> epochs;  // by the UUID of an lvol: of its writer
  int64_t cluster_bytes = 0;
  int64_t total_clusters = 0;
  std::string frozen_reason;          // until the data plane is started anew
  std::map<std::string, Lvol> lvols;  // by name
};

struct FakeSubsystem {
  std::string bdev;  // namespace 1, or empty
  std::string ns_uuid;
  std::set<std::string> hosts;
  std::set<std::string> draining;      // off the list, with I/O under way
  int64_t epoch = 0;                   // of its lvol, which outlives the process
  std::vector<std::string> listeners;  // "address:port"
};

struct FakeController {
  std::string address;
  std::string port;
  std::string nqn;
  std::string host;
  bool connected = true;
};

struct FakeRaid {
  std::vector<std::string> legs;  // empty: a free place
  std::string process_target;
  int64_t percent = 0;
  bool online = true;
  int64_t epoch = 0;  // 0: none; otherwise legs leave only when that is confirmed
  bool fenced = false;
  std::set<std::string> wanted;  // legs whose exclusion waits to be confirmed
};

struct FakeDataPlane::State {
  std::string socket_path;
  std::shared_ptr<FakeFabric> fabric;
  FakeDataPlane* self = nullptr;

  std::map<std::string, FakeBdev> bdevs;
  std::map<std::string, std::string> disks;     // bdev -> file
  std::map<std::string, FakeLvolStore> stored;  // by file: what is on the disk
  boost::json::value reply;                     // to the change under way
  std::map<std::string, FakeSubsystem> subsystems;
  std::map<std::string, FakeController> controllers;
  std::map<std::string, FakeRaid> raids;
  std::map<std::string, std::string> vhosts;
  bool has_tcp = false;
  std::map<std::string, RpcFailure> failures;
  std::set<std::string> lacking;
  std::set<std::string> held_hosts;
  std::vector<std::string> changes;
  struct Event {
    std::string raid;
    int64_t epoch = 0;
    std::string leg;
  };
  std::vector<Event> events;  // exclusions wanted, in order; their ids are 1, 2, ...
  int64_t starts = 0;         // tells one process from the next

  std::optional<client::UnixListener> listener;
  std::thread thread;
  std::atomic<bool> stopping{false};

  void serve();
  void serve_connection(client::UnixStream stream);
  boost::json::value handle(const std::string& method, const boost::json::value& params);
  boost::json::value observe(const std::string& method) const;
  boost::json::value controllers_on(const std::string& nqn) const;
  void change(const std::string& method, const boost::json::value& params);
  void change_target(const std::string& method, const boost::json::value& params);
  void change_compute(const std::string& method, const boost::json::value& params);
  void attach(const boost::json::value& params);
  void add_bdev(const std::string& name, const std::string& product, const boost::json::value& params);
  void remove_bdev(const std::string& name);
  void create_file_bdev(const std::string& method, const boost::json::value& params);
  bool change_lvols(const std::string& method, const boost::json::value& params);
  void create_store(const boost::json::value& params);
  void create_lvol(const boost::json::value& params);
  void delete_lvol(const std::string& alias);
  // What the store keeps of that lvol's writer.
  int64_t& kept_epoch(const std::string& uuid);
  void show_lvols(const std::string& disk_bdev);
  FakeSubsystem& subsystem(const boost::json::value& params);
  FakeRaid& raid(const std::string& name);
  // The target's subsystem that `controller` may use, or nullptr.
  const FakeSubsystem* reach(const FakeController& controller) const;
  // fake_raid_test.cpp
  bool change_raids(const std::string& method, const boost::json::value& params);
  void create_raid(const std::string& name, const boost::json::value& params);
  void assemble_raid(const std::string& name, const boost::json::value& params);
  void change_epoch(const std::string& method, const boost::json::value& params);
  void leave_raid(const std::string& name, const std::string& leg);
  boost::json::value raid_json(const std::string& name, const FakeRaid& raid) const;
  boost::json::value wait_events(const boost::json::value& params);
};

}  // namespace diskengine::control
