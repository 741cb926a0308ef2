#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "control/storagenode/lvol_provider.h"

namespace diskengine::control {
namespace {

class FileLvolProvider final : public LvolProvider {
 public:
  explicit FileLvolProvider(DataPlane& data_plane) : data_plane_(data_plane) {}

  Result<LvolPresence> observe(const Disk& disk, const Lvol& lvol, const TargetView& view) override {
    const std::string path = lvol_file_path(disk, lvol);
    struct stat found {};
    if (::stat(path.c_str(), &found) != 0) {
      if (errno == ENOENT) return LvolPresence::absent;
      return Error::from_errno(errno, "stat of " + path);
    }
    if (found.st_size < lvol.size_bytes) return LvolPresence::partial;
    return view.bdev(lvol.uuid) != nullptr ? LvolPresence::online : LvolPresence::stored;
  }

  Result<void> create(const Disk& disk, const Lvol& lvol) override {
    const std::string path = lvol_file_path(disk, lvol);
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return Error::from_errno(errno, "creating " + path);
    const bool sized = ::ftruncate(fd, lvol.size_bytes) == 0 && ::fsync(fd) == 0;
    const int error = errno;
    ::close(fd);
    if (!sized) return Error::from_errno(error, "sizing " + path);
    return sync_directory(disk.path);
  }

  Result<void> open(const Disk& disk, const Lvol& lvol) override {
    return data_plane_.create_file_bdev(
        {.filename = lvol_file_path(disk, lvol), .name = lvol.uuid, .block_size = lvol.block_size});
  }

  Result<void> close(const Disk&, const Lvol& lvol, const TargetView& view) override {
    const BdevView* bdev = view.bdev(lvol.uuid);
    if (bdev == nullptr) return {};
    return data_plane_.delete_file_bdev(*bdev);
  }

  Result<void> remove(const Disk& disk, const Lvol& lvol) override {
    const std::string path = lvol_file_path(disk, lvol);
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return Error::from_errno(errno, "removing " + path);
    return sync_directory(disk.path);
  }

 private:
  static Result<void> sync_directory(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Error::from_errno(errno, "opening " + path);
    const int synced = ::fsync(fd);
    const int error = errno;
    ::close(fd);
    if (synced != 0) return Error::from_errno(error, "fsync of " + path);
    return {};
  }

  DataPlane& data_plane_;
};

}  // namespace

std::string lvol_file_path(const Disk& disk, const Lvol& lvol) {
  return disk.path + (disk.path.ends_with('/') ? "" : "/") + lvol.uuid;
}

std::unique_ptr<LvolProvider> make_file_lvol_provider(DataPlane& data_plane) {
  return std::make_unique<FileLvolProvider>(data_plane);
}

}  // namespace diskengine::control
