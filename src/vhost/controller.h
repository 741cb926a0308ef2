// A vhost-user-blk controller (SPDK: vhost blk controller): a listening unix socket, the device behind it, and the one
// front end that is connected. A second front end is refused while the first one lives; one that comes while the last
// one's I/O still drains waits for that.
//
// Main reactor. Created and deleted by VhostManager. Input object: a connection. Output object: Session.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "runtime/gate.h"
#include "vhost/blk_device.h"
#include "vhost/session.h"

namespace diskengine::vhost {

class Controller final : private SessionHost, private DeviceWatcher {
 public:
  struct Options {
    std::string name;
    std::string socket_path;
    std::shared_ptr<Device> device;
    bool read_only = false;
    std::vector<Reactor*> reactors;  // the queues' reactors in turn; not empty
    size_t first_reactor = 0;        // where in them this controller's queues begin
    std::string cpumask;             // of the reactors, for display: "0x3"
    bool placed = false;             // the reactors were asked for, and not just all there are
  };

  // Claims the device (unless read only) and listens.
  static Result<std::unique_ptr<Controller>> create(Options options, Reactor& main, std::shared_ptr<Unmapper> unmapper);
  ~Controller();

  // Stops listening, disconnects the front end, drains, lets the device go. Then the controller may be destroyed.
  Task<void> close();

  // The process ends: see BlkQueue::leave_failures(). Say it again for front ends that came since.
  void leave_failures() noexcept;

  const std::string& name() const override { return options_.name; }
  const std::string& socket_path() const noexcept { return options_.socket_path; }
  const std::string& cpumask() const noexcept { return options_.cpumask; }
  bool placed() const noexcept { return options_.placed; }
  bool read_only() const noexcept { return options_.read_only; }
  // nullptr once it was removed.
  const Device* device() const noexcept { return options_.device.get(); }
  // nullptr while no front end is connected.
  const Session* session() const noexcept { return session_.get(); }
  // See Session::refresh_progress().
  void refresh_progress();
  const Coalescing& coalescing() const noexcept { return coalescing_; }
  void set_coalescing(const Coalescing& coalescing);

 private:
  class Listener;

  Controller(Options options, Reactor& main, std::shared_ptr<Unmapper> unmapper);

  uint64_t features() const override { return blk_features(info_, options_.read_only); }
  spec::VirtioBlkConfig config() const override;
  void describe_device(unsigned queue, uint64_t features, BlkQueue::Options& options) override;
  const std::shared_ptr<Unmapper>& unmapper() const override { return unmapper_; }

  void on_removed(Device& device) override;
  void on_resized(Device& device) override;

  void on_connection(UniqueFd socket);
  void begin_session(UniqueFd socket);
  void end_session();
  void let_device_go();

  Options options_;
  Reactor& main_;
  std::shared_ptr<Unmapper> unmapper_;
  DeviceInfo info_;  // outlives the device
  std::unique_ptr<Listener> listener_;
  std::vector<std::unique_ptr<DeviceHandle>> handles_;  // one for each of options_.reactors
  std::unique_ptr<Session> session_;
  UniqueFd waiting_;  // the next front end, while the last one drains
  unsigned sessions_ = 0;
  size_t handles_closing_ = 0;
  Coalescing coalescing_;
  Gate gate_;  // inside: the session, the release of the device
};

}  // namespace diskengine::vhost
