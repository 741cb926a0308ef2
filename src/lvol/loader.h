// Reads the metadata of a store from its disk and makes sense of it, damage included: what blobs there are, what is
// wrong with which, and which pages and clusters are in use. For loading a store and for checking it.
//
// A store that was unloaded says by its masks which pages to read. Of any other, all metadata pages are read, and the
// masks are made anew; but first the transaction in its journal, if there is one, is completed.
//
// Threads: the main reactor.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "lvol/disk_io.h"
#include "lvol/geometry.h"
#include "lvol/journal.h"
#include "lvol/space.h"
#include "lvol/types.h"

namespace diskengine::lvol {

struct LoadedExtent {
  uint32_t index = 0;  // which 512 clusters of the blob
  uint32_t page = 0;
  uint32_t state = 0;  // of the page on disk
  std::vector<uint32_t> clusters;
};

struct LoadedBlob {
  spec::blobstore::BlobRecord record;
  std::vector<uint32_t> chain;  // its pages, as far as they can be followed
  uint32_t root_state = 0;
  std::vector<LoadedExtent> extents;
  std::string damage;
  Finding::Kind damage_kind = Finding::Kind::damaged_lvol;
  // What it alone claims; given back when it is deleted although it is damaged.
  std::vector<uint32_t> own_pages;
  std::vector<uint32_t> own_clusters;
  bool rewrite = false;  // SPDK was stopped while it made or removed this snapshot: its marks are gone from `record`
};

struct LoadedStore {
  spec::blobstore::Super super;
  spec::blobstore::Page super_page{};
  spec::blobstore::Seal super_seal = spec::blobstore::Seal::good;
  std::vector<LoadedBlob> blobs;  // by id
  std::vector<uint32_t> erase;    // first pages of snapshots that SPDK was stopped making or removing
  Bitmap pages;                   // in use by the blobs
  Bitmap clusters;                // by the blobs, and by the metadata itself
  // What the masks on disk say; only of a store that was unloaded.
  bool masks_read = false;
  bool scanned = false;  // all metadata pages were read, whatever the masks say
  Bitmap disk_pages;
  Bitmap disk_clusters;
  std::string mask_damage;
  std::vector<uint32_t> journals;  // pages with headers of journals
  uint64_t last_number = 0;
};

class Loader {
 public:
  // Bounds the memory for pages that are read ahead of being understood.
  static constexpr uint32_t kPagesMax = 16u << 20;

  struct Options {
    bool may_write = false;    // complete a transaction in the journal
    bool trust_masks = false;  // of a store that was unloaded: read only what they say is in use
  };
  // `channel` stays open meanwhile.
  Loader(Channel& channel, Options options);

  // Errc::not_found: no store of lvols there. Errc::corrupt, not_supported, io_error.
  Task<Result<LoadedStore>> load();

 private:
  Task<Result<void>> read_super();
  Task<Result<void>> mend_super();
  Task<Result<void>> read_masks();
  Task<Result<void>> read_mask(spec::blobstore::MaskType type, spec::blobstore::PageRange range, Bitmap& bits);
  Task<Result<void>> read_used();
  Task<Result<void>> scan();
  Task<Result<void>> read_run(uint32_t page, uint32_t count, bool keep_all);
  Task<Result<void>> replay_journals();
  void keep(uint32_t page, const spec::blobstore::Page& image, bool keep_all);
  void gather_blobs();
  void follow(LoadedBlob& blob, uint32_t root);
  void read_extents(LoadedBlob& blob);
  void resolve_marks();
  void claim_all();
  void claim(LoadedBlob& blob);
  void link_parents();

  Channel& channel_;
  Options options_;
  Geometry geometry_;
  LoadedStore found_;
  Bitmap roots_;  // blob ids by the mask, of a clean store
  std::unordered_map<uint32_t, spec::blobstore::Page> images_;
  std::vector<spec::blobstore::JournalHeader> headers_;
  DmaBuffer buffer_;
};

}  // namespace diskengine::lvol
