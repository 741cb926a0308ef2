#include "disk/nvme_passthrough.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>

#include "base/unique_fd.h"

namespace diskengine {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kLimitMs = 10'000;

// "nvme0" of "nvme0" and no other name ("nvme0n1", "nvme-subsys0").
bool is_controller(const std::string& name) {
  constexpr std::string_view kPrefix = "nvme";
  return name.size() > kPrefix.size() && name.starts_with(kPrefix) &&
         std::all_of(name.begin() + kPrefix.size(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The controller behind a block device, or one of several paths to it; empty if it is no NVMe disk.
std::string controller_of(dev_t device) {
  std::error_code error;
  fs::path disk = fs::canonical(fmt::format("/sys/dev/block/{}:{}", major(device), minor(device)), error);
  if (fs::exists(disk / "partition", error)) disk = disk.parent_path();
  const fs::path owner = fs::canonical(disk / "device", error);
  if (error) return {};
  if (is_controller(owner.filename())) return owner.filename();
  for (const fs::directory_entry& entry : fs::directory_iterator(owner, error))
    if (is_controller(entry.path().filename())) return entry.path().filename();
  return {};
}

struct Command {
  spec::Sqe sqe;
  void* data;
  uint32_t bytes;
};

Result<void> pass(const UniqueFd& fd, const std::string& controller, const Command& command) {
  nvme_admin_cmd request{};
  request.opcode = command.sqe.opcode;
  request.nsid = command.sqe.nsid;
  request.addr = reinterpret_cast<uint64_t>(command.data);
  request.data_len = command.bytes;
  request.cdw10 = command.sqe.cdw10;
  request.cdw11 = command.sqe.cdw11;
  request.timeout_ms = kLimitMs;
  const int outcome = ioctl(fd.get(), NVME_IOCTL_ADMIN_CMD, &request);
  const std::string what = fmt::format("admin command {:#04x} to {}", command.sqe.opcode, controller);
  if (outcome < 0) return Error::from_errno(errno, what);
  if (outcome > 0)
    return Error(Errc::io_error,
                 fmt::format("{}: {}", what, spec::name_of(spec::status_of(static_cast<uint16_t>(outcome << 1)))));
  return {};
}

}  // namespace

Result<NvmeHealth> read_nvme_health(const std::string& path) {
  struct stat file {};
  if (stat(path.c_str(), &file) != 0) return Error::from_errno(errno, fmt::format("looking at '{}'", path));
  const std::string name = S_ISBLK(file.st_mode) ? controller_of(file.st_rdev) : std::string();
  if (name.empty())
    return Error(Errc::not_supported, fmt::format("'{}' is no NVMe disk, and only those tell of their health", path));
  auto health = std::make_unique<NvmeHealth>();
  health->controller = "/dev/" + name;
  const UniqueFd fd(open(health->controller.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::from_errno(errno, "opening " + health->controller);
  spec::Sqe identify;
  identify.opcode = spec::AdminOp::identify;
  identify.cdw10 = spec::Cns::controller;
  TRY(pass(fd, health->controller, {identify, &health->identity, sizeof health->identity}));
  spec::Sqe log;
  log.opcode = spec::AdminOp::get_log_page;
  log.nsid = spec::kNsidAll;
  spec::set_log_page(log, spec::LogPage::smart, sizeof health->log, 0);
  TRY(pass(fd, health->controller, {log, &health->log, sizeof health->log}));
  return *health;
}

}  // namespace diskengine
