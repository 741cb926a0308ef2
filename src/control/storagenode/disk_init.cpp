#include "control/storagenode/disk_init.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "base/uuid.h"

namespace diskengine::control {
namespace {

constexpr size_t kUuidChars = 36;

// Checks that `path` is a directory we can write into.
Result<void> check_directory(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0)
    return Error(Errc::not_found,
                 fmt::format("{}: {}; create or mount it", path, Error::from_errno(errno, "stat").message()));
  if (!S_ISDIR(found.st_mode))
    return Error(Errc::invalid_argument, fmt::format("{} is not a directory; give a directory as the disk", path));
  if (::access(path.c_str(), W_OK | X_OK) != 0)
    return Error(Errc::access_denied, fmt::format("{} is not writable by this user; change its owner or mode", path));
  return {};
}

// The UUID in the marker, or nullopt when there is no marker.
Result<std::optional<std::string>> read_marker(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return std::optional<std::string>();
    return Error::from_errno(errno, "opening " + path);
  }
  char text[kUuidChars] = {};
  const ssize_t length = ::read(fd, text, sizeof(text));
  const int error = errno;
  ::close(fd);
  if (length < 0) return Error::from_errno(error, "reading " + path);
  return std::optional<std::string>(std::string(text, static_cast<size_t>(length)));
}

Result<void> sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Error::from_errno(errno, "opening " + path);
  const int synced = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  if (synced != 0) return Error::from_errno(error, "fsync of " + path);
  return {};
}

// Written beside, synced and renamed: the marker is there whole or not at all.
Result<void> write_marker(const std::string& directory, const std::string& marker, const std::string& uuid) {
  const std::string fresh = marker + ".new";
  const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Error::from_errno(errno, "creating " + fresh);
  const std::string line = uuid + "\n";
  const ssize_t written = ::write(fd, line.data(), line.size());
  const bool synced = written == static_cast<ssize_t>(line.size()) && ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  if (!synced) return Error::from_errno(error, "writing " + fresh);
  if (::rename(fresh.c_str(), marker.c_str()) != 0) return Error::from_errno(errno, "renaming " + fresh);
  return sync_directory(directory);
}

Result<int64_t> free_bytes(const std::string& path) {
  struct statvfs found {};
  if (::statvfs(path.c_str(), &found) != 0) return Error::from_errno(errno, "statvfs of " + path);
  return static_cast<int64_t>(found.f_bavail) * static_cast<int64_t>(found.f_frsize);
}

// The UUID is recorded before the marker is written, so that a marker that is found is known to be ours.
Result<int> first_initialisation(LoopContext& context, const Disk& disk, const std::optional<std::string>& found) {
  const std::string marker = fmt::format("{}/{}", disk.path, kDiskMarkerFile);
  if (found && *found != disk.uuid) {
    TRY(context.store.set_status(
        Kind::disk, disk.id,
        make_status(state::kFailed,
                    fmt::format("{} belongs to disk {} of another set-up; if its data is not needed, empty "
                                "the directory",
                                disk.path, *found))));
    return 0;
  }
  std::string uuid = disk.uuid;
  if (uuid.empty()) {
    uuid = Uuid::from_random(context.environment.random(), context.environment.random()).to_string();
    TRY(context.store.set_disk_identity(disk.id, uuid, 0));
  }
  return take_step(context, Kind::disk, disk.id, fmt::format("disk {}", disk.id), [&]() -> Result<void> {
    TRY(write_marker(disk.path, marker, uuid));
    TRY_ASSIGN(const int64_t capacity, free_bytes(disk.path));
    if (capacity == 0) return Error(Errc::no_space, disk.path + " has no free space; free some");
    TRY(context.store.set_disk_identity(disk.id, uuid, capacity));
    TRY(context.store.set_status(Kind::disk, disk.id, make_status(state::kReady)));
    return {};
  });
}

}  // namespace

Result<int> initialise_disk(LoopContext& context, const Disk& disk) {
  const Result<void> usable = check_directory(disk.path);
  if (!usable) {
    TRY(context.store.set_status(Kind::disk, disk.id, make_status(state::kFailed, usable.error().message())));
    return 0;
  }
  const Result<std::optional<std::string>> found = read_marker(fmt::format("{}/{}", disk.path, kDiskMarkerFile));
  if (!found) {
    TRY(context.store.set_status(Kind::disk, disk.id, make_status(state::kFailed, found.error().message())));
    return 0;
  }
  const bool initialised = disk.capacity_bytes > 0;
  if (!initialised) return first_initialisation(context, disk, *found);
  if (!*found || **found != disk.uuid) {
    const std::string instead = *found ? "it holds disk " + **found : "its marker file is missing";
    TRY(context.store.set_status(
        Kind::disk, disk.id,
        make_status(state::kFailed,
                    fmt::format("{} is not the disk that was initialised: {}; mount the right file system "
                                "there",
                                disk.path, instead))));
    return 0;
  }
  TRY(context.store.set_status(Kind::disk, disk.id, make_status(state::kReady)));
  return 0;
}

}  // namespace diskengine::control
