#include "vhost/controller.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "vhost/blk_device.h"

namespace diskengine::vhost {
namespace {

constexpr int kBacklog = 16;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Error(Errc::invalid_argument,
                 fmt::format("the socket path '{}' is longer than {} characters", path, sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<UniqueFd> unix_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Error::from_errno(errno, "create a unix socket");
  return fd;
}

// A socket that a dead process left behind is removed; anything else in the way stays.
Result<void> clear_path(const std::string& path, const sockaddr_un& address) {
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) {
    if (errno == ENOENT) return {};
    return Error::from_errno(errno, fmt::format("look at '{}'", path));
  }
  if (!S_ISSOCK(file.st_mode)) return Error(Errc::already_exists, fmt::format("'{}' exists and is not a socket", path));
  TRY_ASSIGN(UniqueFd probe, unix_socket());
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN)
    return Error(Errc::busy, fmt::format("another process listens on '{}'", path));
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return Error::from_errno(errno, fmt::format("remove the stale socket '{}'", path));
  return {};
}

Result<UniqueFd> listen_on(const std::string& path) {
  TRY_ASSIGN(const sockaddr_un address, address_of(path));
  TRY(clear_path(path, address));
  TRY_ASSIGN(UniqueFd fd, unix_socket());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return Error::from_errno(errno, fmt::format("bind '{}'", path));
  if (::listen(fd.get(), kBacklog) != 0) return Error::from_errno(errno, fmt::format("listen on '{}'", path));
  return fd;
}

}  // namespace

class Controller::Listener final : public Source {
 public:
  Listener(Controller& controller, UniqueFd fd)
      : Source("vhost_listener", fd.get()), controller_(controller), fd_(std::move(fd)) {}

 private:
  int poll() noexcept override {
    UniqueFd socket(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return 0;
    controller_.on_connection(std::move(socket));
    return 1;
  }
  Controller& controller_;
  UniqueFd fd_;
};

Controller::Controller(Options options, Reactor& main, std::shared_ptr<Unmapper> unmapper)
    : options_(std::move(options)), main_(main), unmapper_(std::move(unmapper)), info_(options_.device->info()) {
  for (Reactor* reactor : options_.reactors)
    handles_.push_back(std::make_unique<DeviceHandle>(*reactor, options_.device));
}

Controller::~Controller() { DE_ASSERT(session_ == nullptr && options_.device == nullptr && gate_.inside() == 0); }

Result<std::unique_ptr<Controller>> Controller::create(Options options, Reactor& main,
                                                       std::shared_ptr<Unmapper> unmapper) {
  TRY_ASSIGN(UniqueFd fd, listen_on(options.socket_path));
  const bool claims = !options.read_only;
  if (claims) {
    if (Result<void> claimed = options.device->claim("vhost " + options.name); !claimed) {
      ::unlink(options.socket_path.c_str());
      return claimed.error();
    }
  }
  std::unique_ptr<Controller> controller(new Controller(std::move(options), main, std::move(unmapper)));
  controller->options_.device->watch(*controller);
  controller->listener_ = std::make_unique<Listener>(*controller, std::move(fd));
  main.add(*controller->listener_);
  return controller;
}

Task<void> Controller::close() {
  main_.remove(*listener_);
  listener_.reset();
  ::unlink(options_.socket_path.c_str());
  waiting_.reset();
  if (session_ != nullptr) session_->shut_down();
  OneShot<bool> empty(main_);
  // Not inside the gate's last leave(): that is within what is to be destroyed.
  gate_.close([this, &empty] { main_.post([&empty] { empty.set(true); }); });
  co_await empty;
  if (options_.device == nullptr) co_return;
  options_.device->unwatch(*this);
  if (!options_.read_only) options_.device->release();
  options_.device.reset();
}

spec::VirtioBlkConfig Controller::config() const {
  const uint64_t blocks = options_.device != nullptr ? options_.device->size_blocks() : 0;
  return blk_config(info_, blocks, options_.read_only, spec::kVhostUserQueuesMax);
}

void Controller::describe_device(unsigned queue, uint64_t features, BlkQueue::Options& options) {
  options.device = handles_[(options_.first_reactor + queue) % handles_.size()].get();
  options.serial = info_.name;
  options.block_size = info_.block_size;
  options.max_transfer_blocks = info_.max_transfer_blocks;
  options.read_only = options_.read_only;
  options.write_through = info_.write_cache && (features & (uint64_t{1} << spec::kVirtioBlkFFlush)) == 0;
  options.coalescing = coalescing_;
}

void Controller::leave_failures() noexcept {
  if (session_ != nullptr) session_->leave_failures();
}

void Controller::refresh_progress() {
  if (session_ != nullptr) session_->refresh_progress();
}

void Controller::set_coalescing(const Coalescing& coalescing) {
  coalescing_ = coalescing;
  if (session_ != nullptr) session_->set_coalescing(coalescing);
}

void Controller::on_connection(UniqueFd socket) {
  if (session_ == nullptr) return begin_session(std::move(socket));
  if (!waiting_ && session_->peer_closed()) {
    waiting_ = std::move(socket);
    return;
  }
  LOG_WARN("vhost", "{}: a second front end was refused: front end {} is connected", name(), session_->id());
}

void Controller::begin_session(UniqueFd socket) {
  const bool entered = gate_.enter();
  DE_ASSERT(entered);
  session_ = std::make_unique<Session>(static_cast<SessionHost&>(*this), main_, std::move(socket), sessions_++);
  LOG_INFO("vhost", "{}: front end {} connected", name(), session_->id());
  spawn(session_->serve(), [this] { main_.post([this] { end_session(); }); });
}

void Controller::end_session() {
  session_.reset();
  if (waiting_ && !gate_.closed()) begin_session(std::move(waiting_));
  gate_.leave();
}

// Requests fail from now on; the front end stays connected to a disk that answers with errors.
void Controller::on_removed(Device&) {
  LOG_WARN("vhost", "{}: its device '{}' is removed; requests fail from now on", name(), info_.name);
  const bool entered = gate_.enter();
  if (!entered) return;  // close() lets it go
  handles_closing_ = handles_.size();
  for (auto& handle : handles_) {
    handle->reactor().post([this, handle = handle.get()] {
      handle->remove([this] {
        main_.post([this] {
          if (--handles_closing_ == 0) let_device_go();
        });
      });
    });
  }
}

void Controller::let_device_go() {
  options_.device->unwatch(*this);
  options_.device.reset();
  if (session_ != nullptr) session_->config_changed();
  gate_.leave();
}

void Controller::on_resized(Device&) {
  if (session_ != nullptr) session_->config_changed();
}

}  // namespace diskengine::vhost
