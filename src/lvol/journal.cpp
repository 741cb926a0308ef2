#include "lvol/journal.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/crc32c.h"
#include "base/log.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

bs::PageBytes page_at(const uint8_t* bytes) { return bs::PageBytes(bytes, bs::kPageBytes); }

}  // namespace

Journal::Journal(Channel& channel, const Geometry& geometry, const bs::Super& super, const bs::Page& super_page)
    : channel_(channel),
      geometry_(geometry),
      super_(super),
      super_page_(super_page),
      buffer_((1 + bs::kJournalImagesMax) * bs::kPageBytes),
      page_(bs::kPageBytes) {}

uint64_t Journal::lba_of(uint32_t page) const noexcept {
  return page == bs::kSuperTarget ? 0 : geometry_.lba_of_md_page(page);
}

// The longest run of free pages is looked for among the highest ones; a small store has a small journal.
void Journal::reserve(Space& space) {
  const uint32_t free = space.pages.clear_count();
  const uint32_t wanted = std::clamp<uint32_t>(free / 8, kImagesMin + 1, bs::kJournalImagesMax) + 1;
  uint32_t best_at = 0, best = 0, run = 0;
  for (uint32_t page = space.pages.size(); page-- > 1 && best < wanted;) {
    run = space.pages.test(page) ? 0 : run + 1;
    if (run > best) {
      best = run;
      best_at = page;
    }
  }
  if (best < kImagesMin + 1) {
    freeze("no run of free metadata pages is left for the journal");
    return;
  }
  for (uint32_t i = 0; i < best; ++i) {
    space.pages.set(best_at + i);
    pages_.push_back(best_at + i);
  }
  images_ = best - 1;
}

void Journal::freeze(std::string reason) {
  if (!frozen_.empty()) return;
  LOG_ERROR("lvol", "store on '{}': its metadata is no longer written: {}", channel_.device().name(), reason);
  frozen_ = std::move(reason);
}

bs::Page Journal::image_of(const bs::Super& super) const {
  bs::Page page = super_page_;
  bs::encode_super(super, page);
  return page;
}

Task<Result<void>> Journal::write_page(uint32_t page, const bs::Page& image) {
  std::copy(image.begin(), image.end(), page_.data());
  const IoStatus status = co_await write_bytes(channel_, lba_of(page), page_.span().first(bs::kPageBytes));
  if (!status.ok()) co_return io_failed(channel_.device(), fmt::format("write metadata page {}", page), status);
  co_return Result<void>{};
}

Task<Result<void>> Journal::read_page(uint32_t page, bs::Page& image) {
  const IoStatus status = co_await read_bytes(channel_, lba_of(page), page_.span().first(bs::kPageBytes));
  if (!status.ok()) co_return io_failed(channel_.device(), fmt::format("read metadata page {}", page), status);
  std::copy_n(page_.data(), bs::kPageBytes, image.begin());
  co_return Result<void>{};
}

Task<Result<void>> Journal::write_super(bs::Super super) {
  const bs::Page image = image_of(super);
  std::copy(image.begin(), image.end(), page_.data());
  const IoStatus status = co_await write_bytes(channel_, 0, page_.span().first(bs::kPageBytes), true);
  if (!status.ok()) {
    freeze("its super block cannot be written");
    co_return io_failed(channel_.device(), "write the super block", status);
  }
  super_ = std::move(super);
  super_page_ = image;
  co_return Result<void>{};
}

Task<Result<void>> Journal::mark_dirty() {
  if (!frozen_.empty()) co_return Error(Errc::io_error, "the store's metadata is no longer written: " + frozen_);
  bs::Super super = super_;
  super.clean = false;
  Result<void> written = co_await write_super(std::move(super));
  co_return written;
}

Task<Result<void>> Journal::mark_clean() {
  if (!frozen_.empty()) co_return Error(Errc::io_error, "the store's metadata is no longer written: " + frozen_);
  // The in-place pages first: the journal is not needed any more after that.
  IoStatus status = co_await barrier(channel_);
  if (!status.ok()) co_return io_failed(channel_.device(), "flush", status);
  // A store that others may change must not be found with a journal that is no longer true.
  std::vector<uint32_t> headers;
  if (written_) headers.push_back(pages_.front());
  const Result<void> forgotten = co_await forget(std::move(headers));
  CO_TRY(forgotten);
  written_ = false;
  status = co_await barrier(channel_);
  if (!status.ok()) co_return io_failed(channel_.device(), "flush", status);
  bs::Super super = super_;
  super.clean = true;
  Result<void> written = co_await write_super(std::move(super));
  co_return written;
}

Task<Result<void>> Journal::forget(std::vector<uint32_t> headers) {
  const bs::Page zeroes{};
  for (const uint32_t page : headers) {
    const Result<void> written = co_await write_page(page, zeroes);
    CO_TRY(written);
  }
  co_return Result<void>{};
}

Task<Result<void>> Journal::write_fresh(const Transaction& transaction) {
  for (const Transaction::Fresh& fresh : transaction.fresh) {
    const Result<void> written = co_await write_page(fresh.page, fresh.image);
    CO_TRY(written);
  }
  co_return Result<void>{};
}

Task<Result<void>> Journal::fill_states(Transaction& transaction) {
  for (Transaction::InPlace& entry : transaction.in_place) {
    if (entry.old_state) continue;
    bs::Page before;
    const Result<void> read = co_await read_page(entry.page, before);
    CO_TRY(read);
    entry.old_state = bs::state_of(before);
  }
  co_return Result<void>{};
}

Task<Result<void>> Journal::write_record(const Transaction& transaction) {
  bs::JournalHeader header;
  header.number = number_ + 1;
  header.page = pages_.front();
  uint8_t* at = buffer_.data() + bs::kPageBytes;
  for (const Transaction::InPlace& entry : transaction.in_place) {
    header.entries.push_back({.target = entry.page,
                              .old_state = *entry.old_state,
                              .new_state = bs::state_of(entry.image),
                              .image_crc = crc32c(entry.image.data(), entry.image.size())});
    std::copy(entry.image.begin(), entry.image.end(), at);
    at += bs::kPageBytes;
  }
  bs::Page first;
  bs::encode_journal(header, first);
  std::copy(first.begin(), first.end(), buffer_.data());
  const size_t bytes = (1 + header.entries.size()) * bs::kPageBytes;
  written_ = true;
  const IoStatus status = co_await write_bytes(channel_, lba_of(pages_.front()), buffer_.span().first(bytes), true);
  if (!status.ok()) {
    freeze("its journal cannot be written");
    co_return io_failed(channel_.device(), "write the journal", status);
  }
  number_ = header.number;
  co_return Result<void>{};
}

Task<Result<void>> Journal::commit(Transaction transaction) {
  if (!frozen_.empty()) co_return Error(Errc::io_error, "the store's metadata is no longer written: " + frozen_);
  DE_ASSERT(!transaction.in_place.empty() && transaction.in_place.size() <= images_);
  if (super_.clean) {
    const Result<void> dirty = co_await mark_dirty();
    CO_TRY(dirty);
  }
  Result<void> step = co_await write_fresh(transaction);
  CO_TRY(step);
  step = co_await fill_states(transaction);
  CO_TRY(step);
  const IoStatus flushed = co_await barrier(channel_);
  if (!flushed.ok()) {
    freeze("its disk cannot flush");
    co_return io_failed(channel_.device(), "flush", flushed);
  }
  step = co_await write_record(transaction);
  CO_TRY(step);
  // It is durable from here on: a failure below only keeps later ones out.
  for (const Transaction::InPlace& entry : transaction.in_place) {
    step = co_await write_page(entry.page, entry.image);
    if (!step) {
      freeze(step.error().message());
      break;
    }
    if (entry.page == bs::kSuperTarget) {
      super_page_ = entry.image;
      super_ = bs::decode_super(entry.image, channel_.device().info().size_bytes()).value().super;
    }
  }
  co_return Result<void>{};
}

Task<Result<bool>> Journal::replay(const bs::JournalHeader& header) {
  const size_t count = header.entries.size();
  const std::span<uint8_t> images = buffer_.span().first(count * bs::kPageBytes);
  const IoStatus status = co_await read_bytes(channel_, lba_of(header.page + 1), images);
  if (!status.ok()) co_return io_failed(channel_.device(), "read the journal", status);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* image = images.data() + i * bs::kPageBytes;
    if (crc32c(image, bs::kPageBytes) != header.entries[i].image_crc ||
        bs::state_of(page_at(image)) != header.entries[i].new_state)
      co_return false;  // cut short: the transaction was not acknowledged
  }
  std::vector<size_t> wanted;
  for (size_t i = 0; i < count; ++i) {
    bs::Page now;
    const Result<void> read = co_await read_page(header.entries[i].target, now);
    CO_TRY(read);
    const uint32_t state = bs::state_of(now);
    if (state == header.entries[i].new_state) continue;
    if (state != header.entries[i].old_state && state != bs::kStateUnsealed) {
      LOG_WARN("lvol", "store on '{}': its journal is older than its metadata page {}: not used",
               channel_.device().name(), header.entries[i].target);
      co_return false;
    }
    wanted.push_back(i);
  }
  for (const size_t i : wanted) {
    bs::Page image;
    std::copy_n(images.data() + i * bs::kPageBytes, bs::kPageBytes, image.begin());
    const Result<void> written = co_await write_page(header.entries[i].target, image);
    CO_TRY(written);
    if (header.entries[i].target == bs::kSuperTarget) super_page_ = image;
  }
  if (wanted.empty()) co_return false;
  const IoStatus flushed = co_await barrier(channel_);
  if (!flushed.ok()) co_return io_failed(channel_.device(), "flush", flushed);
  co_return true;
}

}  // namespace diskengine::lvol
