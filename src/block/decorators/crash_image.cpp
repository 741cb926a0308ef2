#include "block/decorators/crash_image.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"

namespace diskengine {

CrashImage::CrashImage(std::vector<uint8_t> bytes)
    : bytes_(std::move(bytes)), saved_in_(round_up(bytes_.size(), kPageBytes) / kPageBytes) {}

void CrashImage::write(uint64_t offset, const uint8_t* from, uint64_t length) {
  before_change(offset, length);
  std::memcpy(bytes_.data() + offset, from, length);
}

void CrashImage::zero(uint64_t offset, uint64_t length) {
  before_change(offset, length);
  std::memset(bytes_.data() + offset, 0, length);
}

void CrashImage::before_change(uint64_t offset, uint64_t length) {
  DE_ASSERT(in_range(offset, length, bytes_.size()));
  if (!in_trial_ || length == 0) return;
  for (uint64_t page = offset / kPageBytes; page <= (offset + length - 1) / kPageBytes; ++page) {
    if (saved_in_[page] == trial_) continue;
    saved_in_[page] = trial_;
    saved_pages_.push_back(page);
    const uint64_t begin = page * kPageBytes;
    const uint64_t bytes = std::min(kPageBytes, bytes_.size() - begin);
    const size_t at = saved_bytes_.size();
    saved_bytes_.resize(at + kPageBytes);
    std::memcpy(saved_bytes_.data() + at, bytes_.data() + begin, bytes);
  }
}

void CrashImage::begin_trial() {
  DE_ASSERT(!in_trial_);
  in_trial_ = true;
  ++trial_;
}

void CrashImage::end_trial() {
  DE_ASSERT(in_trial_);
  for (size_t i = 0; i < saved_pages_.size(); ++i) {
    const uint64_t begin = saved_pages_[i] * kPageBytes;
    std::memcpy(bytes_.data() + begin, saved_bytes_.data() + i * kPageBytes,
                std::min(kPageBytes, bytes_.size() - begin));
  }
  saved_pages_.clear();
  saved_bytes_.clear();
  in_trial_ = false;
}

class CrashImageDisk::ImageChannel final : public Channel, private Deferred {
 public:
  ImageChannel(std::shared_ptr<CrashImageDisk> disk, Reactor& reactor) : Channel(disk, reactor), disk_(*disk) {}

 private:
  static constexpr uint64_t kTurnNs = 10'000;

  void start(Request& request) noexcept override {
    if (!disk_.shuffled_) {
      finish(request, disk_.apply(request));
      return;
    }
    waiting_.push_back(&request);
    if (!later_.armed()) later_.arm(reactor(), kTurnNs);
  }

  void complete_some() {
    Random& random = disk_.random_;
    const uint64_t count = 1 + random.below(std::min<size_t>(waiting_.size(), 8));
    due_.clear();
    for (uint64_t i = 0; i < count; ++i) {
      const size_t which = random.below(waiting_.size());
      due_.push_back(waiting_[which]);
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(which));
    }
    if (!waiting_.empty()) later_.arm(reactor(), kTurnNs);
    reactor().defer(*this);
  }

  // The last completion may end with the channel being closed.
  void run() noexcept override {
    const std::vector<Request*> due = std::move(due_);
    due_.clear();
    for (Request* request : due) finish(*request, disk_.apply(*request));
  }

  CrashImageDisk& disk_;
  std::vector<Request*> waiting_;
  std::vector<Request*> due_;
  Timer later_{[this] { complete_some(); }};
};

CrashImageDisk::CrashImageDisk(DeviceInfo info, std::shared_ptr<CrashImage> image, uint64_t seed)
    : Device(std::move(info)), image_(std::move(image)), shuffled_(seed != 0), random_(seed) {}

std::shared_ptr<CrashImageDisk> CrashImageDisk::make(std::shared_ptr<CrashImage> image, Options options) {
  DeviceInfo info;
  info.name = std::move(options.name);
  info.product_name = "Crash Image Disk";
  info.uuid = Uuid::from_random(std::hash<std::string>()(info.name), image->size());
  info.block_size = options.block_size;
  info.size_blocks = options.size_blocks != 0 ? options.size_blocks : image->size() / options.block_size;
  DE_ASSERT(info.size_bytes() <= image->size());
  info.write_cache = options.write_cache;
  info.can_unmap = options.can_unmap;
  info.can_write_zeroes = options.can_write_zeroes;
  return std::make_shared<CrashImageDisk>(std::move(info), std::move(image), options.seed);
}

Result<std::unique_ptr<Channel>> CrashImageDisk::open_channel(Reactor& reactor) {
  return std::unique_ptr<Channel>(
      std::make_unique<ImageChannel>(std::static_pointer_cast<CrashImageDisk>(shared_from_this()), reactor));
}

void CrashImageDisk::resize(uint64_t size_blocks) {
  DE_ASSERT(size_blocks * info().block_size <= image_->size());
  set_size_blocks(size_blocks);
}

IoStatus CrashImageDisk::apply(const Request& request) {
  uint64_t at = request.lba * info().block_size;
  const uint64_t length = request.blocks * info().block_size;
  switch (request.op) {
    case Op::read:
      for (const iovec& piece : request.iov) {
        std::memcpy(piece.iov_base, image_->bytes().data() + at, piece.iov_len);
        at += piece.iov_len;
      }
      break;
    case Op::write:
      for (const iovec& piece : request.iov) {
        image_->write(at, static_cast<const uint8_t*>(piece.iov_base), piece.iov_len);
        at += piece.iov_len;
      }
      break;
    case Op::unmap:
    case Op::write_zeroes:
      image_->zero(at, length);
      break;
    case Op::flush:
      break;
    case Op::compare:
      return IoStatus::error(IoCode::not_supported);  // the device says so, and Channel::submit() holds to it
  }
  return IoStatus::success();
}

}  // namespace diskengine
