// Checking a store: everything that its metadata says, against itself, against the masks, and against memory.
#include <fmt/format.h>

#include "lvol/edit.h"
#include "lvol/names.h"
#include "lvol/store.h"

namespace diskengine::lvol {
namespace bs = spec::blobstore;
namespace {

void add(CheckReport& report, Finding finding) {
  if (report.findings.size() < CheckReport::kFindingsMax) {
    report.findings.push_back(std::move(finding));
  } else {
    ++report.findings_left_off;
  }
}

// Bits of `a` that are not in `b`.
uint64_t count_beyond(const Bitmap& a, const Bitmap& b) {
  uint64_t count = 0;
  for (uint32_t i = 0; i < a.size(); ++i)
    if (a.test(i) && !(i < b.size() && b.test(i))) ++count;
  return count;
}

void compare_masks(CheckReport& report, const LoadedStore& found, bool repaired) {
  const auto differ = [&](Finding::Kind kind, uint64_t count, std::string_view what) {
    if (count == 0) return;
    add(report, {.kind = kind,
                 .count = count,
                 .repairable = true,
                 .repaired = repaired,
                 .text = fmt::format("{} {}", count, what)});
  };
  differ(Finding::Kind::leaked_pages, count_beyond(found.disk_pages, found.pages),
         "metadata pages are marked used and belong to nothing");
  differ(Finding::Kind::unmarked_pages, count_beyond(found.pages, found.disk_pages),
         "metadata pages are in use and marked free");
  differ(Finding::Kind::leaked_clusters, count_beyond(found.disk_clusters, found.clusters),
         "clusters are marked used and belong to nothing");
  differ(Finding::Kind::unmarked_clusters, count_beyond(found.clusters, found.disk_clusters),
         "clusters are in use and marked free");
}

CheckReport report_of(const LoadedStore& found, bool repaired) {
  CheckReport report;
  report.clean = found.super.clean;
  report.clusters_total = found.super.total_clusters();
  report.clusters_used = found.clusters.count();
  report.pages_total = found.super.md_len;
  report.pages_used = found.pages.count();
  if (found.super_seal != bs::Seal::good)
    add(report, {.kind = Finding::Kind::super_block,
                 .repairable = true,
                 .repaired = repaired,
                 .text = "the checksum of the super block is wrong: a change of its clean flag was torn"});
  if (!found.mask_damage.empty())
    add(report, {.kind = Finding::Kind::bad_mask, .repairable = true, .repaired = repaired, .text = found.mask_damage});
  for (const LoadedBlob& blob : found.blobs) {
    if (blob.record.id == found.super.super_blob) {
      report.store_name = text_of(blob.record.find("name"));
      report.store_uuid = uuid_in(blob.record.find("uuid"));
    } else {
      ++report.lvols;
    }
    if (!blob.damage.empty())
      add(report, {.kind = blob.damage_kind, .blob_id = blob.record.id, .count = 1, .text = blob.damage});
  }
  if (found.masks_read) compare_masks(report, found, repaired);
  return report;
}

bool needs_repair(const CheckReport& report) {
  for (const Finding& finding : report.findings)
    if (finding.repairable) return true;
  return !report.clean;
}

}  // namespace

Task<Result<CheckReport>> Store::check_disk(Reactor& main, std::shared_ptr<Device> disk, bool repair) {
  Result<std::unique_ptr<Channel>> opened = disk->open_channel(main);
  CO_TRY(opened);
  CheckReport report;
  {
    Loader loader(**opened, false);
    const Result<LoadedStore> found = co_await loader.load();
    CO_TRY(found);
    report = report_of(*found, false);
  }
  *opened = nullptr;
  if (!repair || !needs_repair(report)) co_return report;
  Result<Ptr> loaded = co_await load(main, disk);
  CO_TRY(loaded);
  const Ptr store = std::move(loaded).value();
  report.store_uuid = store->uuid();
  report.store_name = store->name();
  CheckReport freed;
  Bitmap pages(store->space_.pages.size()), clusters(store->space_.clusters.size());
  store->count_uses(freed, pages, clusters);
  store->free_leaked(freed, pages, clusters, true);
  const bool sound = store->damaged().empty();
  Result<void> written = co_await store->journal_.mark_dirty();
  if (!written) {
    store->abandon();
    co_return std::move(written).error();
  }
  written = co_await store->unload();
  CO_TRY(written);
  for (Finding& finding : report.findings) {
    const bool leak = finding.kind == Finding::Kind::leaked_pages || finding.kind == Finding::Kind::leaked_clusters;
    finding.repaired = finding.repairable && (sound || !leak);
  }
  co_return report;
}

// What the lvols in memory use; what two of them use is a finding.
void Store::count_uses(CheckReport& report, Bitmap& pages, Bitmap& clusters) const {
  const auto use = [&](Bitmap& bits, uint32_t bit, uint64_t blob, Finding::Kind kind, std::string_view what) {
    if (bit < bits.size() && !bits.test(bit)) {
      bits.set(bit);
    } else {
      add(report, {.kind = kind, .blob_id = blob, .count = 1, .text = fmt::format("{} {} is used twice", what, bit)});
    }
  };
  const auto use_page = [&](uint32_t page, uint64_t blob) {
    use(pages, page, blob, Finding::Kind::double_page, "metadata page");
  };
  const auto use_cluster = [&](uint32_t cluster, uint64_t blob) {
    use(clusters, cluster, blob, Finding::Kind::double_cluster, "cluster");
  };
  for (uint32_t i = 0; i < journal_.super().metadata_clusters(); ++i) use_cluster(i, 0);
  for (const uint32_t page : journal_.pages()) use_page(page, 0);
  for (const uint32_t page : pages_for_later_) use_page(page, 0);
  const auto use_blob = [&](const Blob& blob) {
    for (const uint32_t page : blob.damaged() ? blob.damaged_pages : blob.pages) use_page(page, blob.id);
    for (const uint32_t cluster : blob.damaged_clusters) use_cluster(cluster, blob.id);
    for (uint32_t i = 0; i < blob.map.chunks(); ++i) {
      const ClusterMap::Chunk* chunk = blob.map.chunk(i);
      if (chunk == nullptr) continue;
      if (chunk->page != 0) use_page(chunk->page, blob.id);
      for (const auto& entry : chunk->clusters) {
        const uint32_t cluster = entry.load(std::memory_order_relaxed);
        if (cluster != ClusterMap::kUnallocated && cluster != ClusterMap::kBusy) use_cluster(cluster, blob.id);
      }
    }
  };
  if (super_blob_ != nullptr) use_blob(*super_blob_);
  for (const auto& [id, blob] : blobs_) use_blob(*blob);
}

// Nothing is reserved for an operation under way.
bool Store::at_rest() const {
  if (!provisioner_.idle()) return false;
  for (const auto& [id, blob] : blobs_)
    if (blob->operation != nullptr) return false;
  return true;
}

void Store::free_leaked(CheckReport& report, const Bitmap& pages, const Bitmap& clusters, bool repair) {
  // They may be a damaged lvol's, whose pages might still be brought back.
  const bool sound = damaged().empty();
  repair = repair && sound;
  const uint64_t leaked_pages = count_beyond(space_.pages, pages);
  const uint64_t leaked_clusters = count_beyond(space_.clusters, clusters);
  if (leaked_pages != 0)
    add(report, {.kind = Finding::Kind::leaked_pages,
                 .count = leaked_pages,
                 .repairable = sound,
                 .repaired = repair,
                 .text = fmt::format("{} metadata pages are held back and belong to nothing", leaked_pages)});
  if (leaked_clusters != 0)
    add(report, {.kind = Finding::Kind::leaked_clusters,
                 .count = leaked_clusters,
                 .repairable = sound,
                 .repaired = repair,
                 .text = fmt::format("{} clusters are held back and belong to nothing", leaked_clusters)});
  if (!repair) return;
  for (uint32_t i = 0; i < space_.pages.size(); ++i)
    if (space_.pages.test(i) && !pages.test(i)) space_.release_page(i);
  for (uint32_t i = 0; i < space_.clusters.size(); ++i)
    if (space_.clusters.test(i) && !clusters.test(i)) space_.release_cluster(i);
}

Task<Result<void>> Store::compare_pages(CheckReport& report) {
  std::vector<std::pair<uint32_t, std::pair<uint32_t, uint64_t>>> wanted;  // page, state, blob
  for (const auto& [id, blob] : blobs_) {
    if (blob->damaged()) {
      add(report, {.kind = Finding::Kind::damaged_lvol, .blob_id = id, .count = 1, .text = blob->damage});
      continue;
    }
    ++report.lvols;
    wanted.push_back({bs::page_of_blob_id(id), {blob->root_state, id}});
    for (uint32_t i = 0; i < blob->map.chunks(); ++i)
      if (const ClusterMap::Chunk* chunk = blob->map.chunk(i); chunk != nullptr && chunk->page != 0)
        wanted.push_back({chunk->page, {chunk->page_seal, id}});
  }
  DmaBuffer buffer(bs::kPageBytes);
  for (const auto& [page, expected] : wanted) {
    const IoStatus status = co_await read_bytes(*channel_, geometry_.lba_of_md_page(page), buffer.span());
    std::string problem;
    if (!status.ok()) {
      problem = fmt::format("metadata page {} cannot be read: {}", page, name_of(status.code));
    } else if (bs::state_of(bs::PageBytes(buffer.data(), bs::kPageBytes)) != expected.first) {
      problem = fmt::format("metadata page {} is not what was written", page);
    }
    if (!problem.empty())
      add(report, {.kind = Finding::Kind::stale_page, .blob_id = expected.second, .count = 1, .text = problem});
  }
  co_return Result<void>{};
}

Task<Result<CheckReport>> Store::check(bool repair) {
  CheckReport report;
  report.store_uuid = uuid_;
  report.store_name = name_;
  co_await metadata_mutex_.lock();
  report.clean = journal_.clean();
  report.clusters_total = space_.clusters.size();
  report.clusters_used = space_.clusters.count();
  report.pages_total = space_.pages.size();
  report.pages_used = space_.pages.count() - static_cast<uint32_t>(journal_.pages().size());
  Result<void> outcome = co_await compare_pages(report);
  Bitmap pages(space_.pages.size()), clusters(space_.clusters.size());
  count_uses(report, pages, clusters);
  // What operations under way have reserved looks like a leak: only a store at rest is judged.
  if (outcome && at_rest()) {
    const size_t before = report.findings.size();
    free_leaked(report, pages, clusters, repair);
    // So that the masks are written when the store is unloaded.
    if (repair && report.findings.size() != before && journal_.clean()) outcome = co_await journal_.mark_dirty();
  }
  metadata_mutex_.unlock();
  if (!outcome) co_return std::move(outcome).error();
  co_return report;
}

}  // namespace diskengine::lvol
