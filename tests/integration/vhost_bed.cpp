#include "vhost_bed.h"

#include <cstring>

#include "runtime/random.h"

namespace diskengine::vhost {

class HoldDisk::HoldChannel final : public Channel, private Deferred {
 public:
  HoldChannel(std::shared_ptr<HoldDisk> disk, Reactor& reactor)
      : Channel(disk, reactor), disk_(*disk), again_([this] { release(); }) {}

 private:
  void run() noexcept override {}
  void start(Request& request) noexcept override {
    uint64_t most = disk_.most_blocks;
    if (request.blocks > most) disk_.most_blocks = request.blocks;
    if (disk_.hold) {
      waiting_.push_back(request);
      ++disk_.held;
      if (!again_.armed()) again_.arm(reactor(), 1'000'000);
      return;
    }
    execute(request);
  }
  void release() {
    while (!disk_.hold && !waiting_.empty()) {
      --disk_.held;
      execute(waiting_.pop_front());
    }
    if (!waiting_.empty()) again_.arm(reactor(), 1'000'000);
  }
  void execute(Request& request) noexcept {
    if (disk_.fail) return finish(request, IoStatus::error(IoCode::fenced));
    apply(request);
    finish(request, IoStatus::success());
  }
  void apply(const Request& request) noexcept {
    const std::lock_guard lock(disk_.copying);
    uint8_t* at = disk_.bytes.data() + request.lba * disk_.info().block_size;
    if (request.op == Op::write && request.fua) ++disk_.fua_writes;
    if (request.op == Op::unmap || request.op == Op::write_zeroes)
      std::memset(at, 0, request.blocks * disk_.info().block_size);
    for (const iovec& piece : request.iov) {
      if (request.op == Op::write) std::memcpy(at, piece.iov_base, piece.iov_len);
      if (request.op == Op::read) std::memcpy(piece.iov_base, at, piece.iov_len);
      at += piece.iov_len;
    }
  }
  HoldDisk& disk_;
  List<Request> waiting_;
  Timer again_;
};

Result<std::unique_ptr<Channel>> HoldDisk::open_channel(Reactor& reactor) {
  return std::unique_ptr<Channel>(
      std::make_unique<HoldChannel>(std::static_pointer_cast<HoldDisk>(shared_from_this()), reactor));
}

Bed::Bed(unsigned reactors) {
  char name[] = "/tmp/vhost-test-XXXXXX";
  DE_ASSERT(mkdtemp(name) != nullptr);
  directory_ = name;
  for (unsigned i = 0; i < reactors; ++i) {
    Reactor::Options options;
    options.name = "reactor_" + std::to_string(i);
    options.id = i;
    reactors_.push_back(std::make_unique<Reactor>(options));
  }
  for (auto& reactor : reactors_) threads_.emplace_back([r = reactor.get()] { r->run(); });
  on_main<bool>([this] {
    registry_ = std::make_unique<DeviceRegistry>(main());
    VhostManager::Options options;
    options.main = &main();
    for (auto& reactor : reactors_) options.reactors.push_back(reactor.get());
    options.registry = registry_.get();
    options.socket_dir = directory_;
    manager_ = std::make_unique<VhostManager>(std::move(options));
    return true;
  });
}

namespace {

Task<Result<void>> shut_down(VhostManager* manager, DeviceRegistry* registry) {
  co_await manager->close();
  std::vector<std::string> names;
  for (const auto& device : registry->all()) names.push_back(device->name());
  for (const std::string& name : names) {
    Result<void> removed = co_await registry->remove(name);
    CO_TRY(removed);
  }
  co_return Result<void>();
}

}  // namespace

Bed::~Bed() {
  const Result<void> ended = run([this] { return shut_down(manager_.get(), registry_.get()); });
  EXPECT_TRUE(ended) << ended.error().message();
  on_main<bool>([this] {
    manager_.reset();
    registry_.reset();
    return true;
  });
  for (auto& reactor : reactors_) reactor->stop();
  for (std::thread& thread : threads_) thread.join();
  std::filesystem::remove_all(directory_);
}

Result<void> Bed::run(std::function<Task<Result<void>>()> task) {
  std::promise<Result<void>> result;
  main().post([&] { spawn<Result<void>>(task(), [&](Result<void> done) { result.set_value(std::move(done)); }); });
  return result.get_future().get();
}

void Bed::order() {
  for (const auto& reactor : reactors_) {
    std::promise<void> passed;
    reactor->post([&] { passed.set_value(); });
    passed.get_future().get();
  }
}

std::shared_ptr<HoldDisk> Bed::add_disk(DeviceInfo info) {
  return on_main<std::shared_ptr<HoldDisk>>([this, &info] {
    auto disk = std::make_shared<HoldDisk>(std::move(info));
    const Result<void> added = registry_->add(disk);
    DE_ASSERT(added.has_value());
    return disk;
  });
}

Result<void> Bed::create(const std::string& name, const std::string& device, bool read_only) {
  return on_main<Result<void>>([&] {
    VhostManager::BlkOptions options;
    options.name = name;
    options.device = device;
    options.read_only = read_only;
    return manager_->create_blk_controller(options);
  });
}

Result<void> Bed::remove_controller(const std::string& name) {
  return run([this, name] { return manager_->delete_controller(name); });
}

Result<void> Bed::remove_disk(const std::string& name) {
  return run([this, name] { return registry_->remove(name); });
}

std::vector<Session::QueueState> Bed::queues(const std::string& name) {
  return on_main<std::vector<Session::QueueState>>([&] {
    const Session* session = (*manager_->find(name))->session();
    return session != nullptr ? session->queues() : std::vector<Session::QueueState>();
  });
}

bool Bed::connected(const std::string& name) {
  return on_main<bool>([&] { return (*manager_->find(name))->session() != nullptr; });
}

DeviceInfo disk_info(const std::string& name, uint32_t block_size, uint64_t blocks) {
  DeviceInfo info;
  info.name = name;
  info.uuid = Random::from_system().uuid();
  info.block_size = block_size;
  info.size_blocks = blocks;
  info.can_unmap = info.can_write_zeroes = true;
  return info;
}

testing::AssertionResult eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 4000; ++i) {
    if (condition()) return testing::AssertionSuccess();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return testing::AssertionFailure() << "not within 20 s";
}

size_t open_descriptors() {
  const std::filesystem::directory_iterator descriptors("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(descriptors), end(descriptors)));
}

}  // namespace diskengine::vhost
