// Makes changes of metadata atomic and durable. A transaction overwrites pages that are in use ("in place") and fills
// pages that nothing durable refers to yet ("fresh"):
//
//   fresh pages  ->  barrier  ->  journal (header and images, FUA)  ->  in-place pages
//
// The barrier also makes durable the data that the metadata will point to, and the in-place pages of the transaction
// before, whose images the journal then no longer needs to hold. The transaction is durable when the journal's write
// is. The in-place pages are written before it is acknowledged, so that the pages alone, without the journal, are right
// too unless power fails.
//
// Threads: the main reactor; the store lets one transaction in at a time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "format/blobstore_journal.h"
#include "lvol/disk_io.h"
#include "lvol/geometry.h"
#include "lvol/space.h"
#include "runtime/dma_buffer.h"

namespace diskengine::lvol {

struct Transaction {
  struct Fresh {
    uint32_t page;
    spec::blobstore::Page image;
  };
  struct InPlace {
    uint32_t page;                      // or spec::blobstore::kSuperTarget
    std::optional<uint32_t> old_state;  // none: found out by reading the page
    spec::blobstore::Page image;
  };
  std::vector<Fresh> fresh;
  std::vector<InPlace> in_place;
};

class Journal {
 public:
  static constexpr uint32_t kImagesMin = 2;  // fewer, and the store's metadata is read-only

  // `super_page`: the super block as it is on disk.
  Journal(Channel& channel, const Geometry& geometry, const spec::blobstore::Super& super,
          const spec::blobstore::Page& super_page);

  // Reserves the highest free metadata pages; at the end of loading.
  void reserve(Space& space);
  // In-place pages that a transaction may have.
  uint32_t images() const noexcept { return images_; }
  void set_last_number(uint64_t number) noexcept { number_ = number; }
  bool clean() const noexcept { return super_.clean; }
  const spec::blobstore::Super& super() const noexcept { return super_; }
  // Takes effect on disk with the transaction that holds the image of it.
  spec::blobstore::Page image_of(const spec::blobstore::Super& super) const;

  // Errc::io_error: nothing of it is durable unless frozen() says otherwise; then it may be.
  Task<Result<void>> commit(Transaction transaction);
  // Writes again what a crash may have left half done, if `header` is the latest transaction and its images are sound.
  // Returns whether pages were written.
  Task<Result<bool>> replay(const spec::blobstore::JournalHeader& header);
  // Clears journals that were found on load: what they hold is in its places.
  Task<Result<void>> forget(std::vector<uint32_t> headers);
  // The last write of an unload: masks are on disk, so say so.
  Task<Result<void>> mark_clean();
  Task<Result<void>> mark_dirty();

  // Not empty: a write failed and what is on disk is no longer known, so nothing is written any more. Says why.
  const std::string& frozen() const noexcept { return frozen_; }
  void freeze(std::string reason);
  const std::vector<uint32_t>& pages() const noexcept { return pages_; }

 private:
  Task<Result<void>> write_page(uint32_t page, const spec::blobstore::Page& image);
  Task<Result<void>> read_page(uint32_t page, spec::blobstore::Page& image);
  Task<Result<void>> write_super(spec::blobstore::Super super);
  Task<Result<void>> write_fresh(const Transaction& transaction);
  Task<Result<void>> fill_states(Transaction& transaction);
  Task<Result<void>> write_record(const Transaction& transaction);
  uint64_t lba_of(uint32_t page) const noexcept;

  Channel& channel_;
  const Geometry& geometry_;
  spec::blobstore::Super super_;
  spec::blobstore::Page super_page_;
  uint64_t number_ = 0;
  std::vector<uint32_t> pages_;  // reserved, ascending and adjoining
  uint32_t images_ = 0;
  DmaBuffer buffer_;      // header and images
  DmaBuffer page_;        // one page
  bool written_ = false;  // the journal holds a transaction of this run
  std::string frozen_;
};

}  // namespace diskengine::lvol
