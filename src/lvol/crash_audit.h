// A look at a cleanly unloaded store on its disk that shares nothing with the store's own code but the codec of the
// pages: what another implementation would find there. For tests.
#pragma once

#include <cstring>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "format/blobstore.h"

namespace diskengine::lvol {

class Audit {
 public:
  explicit Audit(std::span<const uint8_t> disk) : disk_(disk) { look(); }

  // What is wrong, one line each; empty: nothing.
  const std::string& problems() const noexcept { return problems_; }
  size_t blobs() const noexcept { return blobs_.size(); }

 private:
  spec::blobstore::PageBytes page(uint64_t number) const {
    return disk_.subspan(number * spec::blobstore::kPageBytes).first<spec::blobstore::kPageBytes>();
  }
  void wrong(const std::string& what) { problems_ += what + "\n"; }

  void look() {
    auto found = spec::blobstore::decode_super(page(0), disk_.size());
    if (!found) return wrong(found.error().message());
    super_ = found->super;
    if (found->seal != spec::blobstore::Seal::good) wrong("the super block's checksum is wrong");
    if (!super_.clean) wrong("it is not marked clean");
    for (uint32_t cluster = 0; cluster < super_.metadata_clusters(); ++cluster) clusters_.insert(cluster);
    for (uint32_t index = 0; index < super_.md_len; ++index)
      if (spec::blobstore::is_root(page(super_.md_start + index), index)) blobs_.insert(index);
    // Of what looks like a blob's first page, the masks decide.
    const std::set<uint32_t> marked =
        mask(super_.used_blobid_mask, spec::blobstore::MaskType::used_blobids, super_.md_len);
    for (const uint32_t index : marked)
      if (!blobs_.contains(index))
        wrong("blob id " + std::to_string(index) + " is in use but its page is not a blob's");
    blobs_ = marked;
    for (const uint32_t index : marked) look_at_blob(index);
    compare("pages", pages_, mask(super_.used_page_mask, spec::blobstore::MaskType::used_pages, super_.md_len));
    compare("clusters", clusters_,
            mask(super_.used_cluster_mask, spec::blobstore::MaskType::used_clusters, super_.total_clusters()));
  }

  void look_at_blob(uint32_t root) {
    const std::string who = "blob " + std::to_string(root);
    std::vector<spec::blobstore::Page> chain;
    for (uint32_t index = root; index != spec::blobstore::kNoPage;) {
      if (index >= super_.md_len || !spec::blobstore::is_sealed(page(super_.md_start + index)))
        return wrong(who + ": page " + std::to_string(index) + " cannot be read");
      if (!pages_.insert(index).second) return wrong(who + ": page " + std::to_string(index) + " is used twice");
      const auto bytes = page(super_.md_start + index);
      std::memcpy(chain.emplace_back().data(), bytes.data(), bytes.size());
      index = spec::blobstore::next_of(bytes);
    }
    spec::blobstore::BlobRecord blob;
    auto decoded = spec::blobstore::decode_blob(chain, blob);
    if (!decoded) return wrong(who + ": " + decoded.error().message());
    for (const auto& run : blob.runs)
      for (uint32_t i = 0; run.cluster != 0 && i < run.length; ++i) own(who, run.cluster + i);
    for (const uint32_t index : blob.extent_pages) {
      if (index == 0) continue;
      if (index >= super_.md_len) return wrong(who + ": an extent page is outside");
      if (!pages_.insert(index).second) wrong(who + ": extent page " + std::to_string(index) + " is used twice");
      auto extents = spec::blobstore::decode_extent_page(page(super_.md_start + index));
      if (!extents) return wrong(who + ": " + extents.error().message());
      for (const uint32_t cluster : extents->clusters)
        if (cluster != 0) own(who, cluster);
    }
  }
  void own(const std::string& who, uint32_t cluster) {
    if (cluster >= super_.total_clusters()) wrong(who + ": cluster " + std::to_string(cluster) + " is outside");
    if (!clusters_.insert(cluster).second)
      wrong(who + ": cluster " + std::to_string(cluster) + " belongs to someone else too");
  }

  std::set<uint32_t> mask(spec::blobstore::PageRange where, spec::blobstore::MaskType type, uint32_t bits) {
    std::set<uint32_t> set;
    const auto bytes = disk_.subspan(uint64_t{where.start} * spec::blobstore::kPageBytes,
                                     uint64_t{where.length} * spec::blobstore::kPageBytes);
    auto decoded = spec::blobstore::decode_mask(bytes, type, bits);
    if (!decoded) {
      wrong(decoded.error().message());
      return set;
    }
    for (uint32_t bit = 0; bit < bits; ++bit)
      if (((*decoded)[bit / 8] >> bit % 8 & 1) != 0) set.insert(bit);
    return set;
  }
  void compare(const std::string& what, const std::set<uint32_t>& used, const std::set<uint32_t>& marked) {
    for (const uint32_t one : used)
      if (!marked.contains(one)) wrong(what + ": " + std::to_string(one) + " is used and not marked");
    for (const uint32_t one : marked)
      if (!used.contains(one)) wrong(what + ": " + std::to_string(one) + " is marked and not used");
  }

  std::span<const uint8_t> disk_;
  spec::blobstore::Super super_;
  std::set<uint32_t> blobs_;
  std::set<uint32_t> pages_;
  std::set<uint32_t> clusters_;
  std::string problems_;
};

}  // namespace diskengine::lvol
