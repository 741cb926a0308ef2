#include "lvol/lvol_device.h"

#include <fmt/format.h>

#include "base/json_text.h"
#include "lvol/lvol_channel.h"

namespace diskengine::lvol {

std::shared_ptr<LvolDevice> LvolDevice::make(std::shared_ptr<Store> store, std::shared_ptr<Blob> blob) {
  const DeviceInfo& disk = store->disk().info();
  const Geometry& geometry = store->geometry();
  const LvolInfo lvol = store->info_of(*blob);
  DeviceInfo info;
  info.name = lvol.device_name;
  info.aliases = {lvol.alias};
  info.product_name = "Logical Volume";
  info.layer = trace::Layer::lvol;
  info.uuid = lvol.uuid;
  info.block_size = geometry.unit_bytes;
  info.size_blocks = lvol.clusters * geometry.units_per_cluster;
  info.write_cache = disk.write_cache;
  info.read_only = lvol.read_only;
  info.can_unmap = true;
  info.can_write_zeroes = true;
  info.buffer_align = disk.buffer_align;
  info.max_transfer_blocks = disk.max_transfer_blocks / geometry.disk_per_unit;
  info.optimal_blocks = geometry.units_per_cluster;
  auto device = std::make_shared<LvolDevice>(std::move(info), std::move(store), blob);
  blob->device = device;
  return device;
}

Result<std::unique_ptr<Channel>> LvolDevice::open_channel(Reactor& reactor) {
  TRY_ASSIGN(std::shared_ptr<StoreChannel> shared, store_->channels().on(reactor));
  return std::unique_ptr<Channel>(std::make_unique<LvolChannel>(shared_from_this(), reactor, blob_, std::move(shared)));
}

// As SPDK's lvol bdev describes itself, and what we count besides.
std::string LvolDevice::driver_specific_json() const {
  const LvolInfo info = store_->info_of(*blob_);
  std::string text = fmt::format(
      R"({{"lvol":{{"lvol_store_uuid":"{}","base_bdev":{},"thin_provision":{},"num_allocated_clusters":{},"snapshot":{},"clone":{})",
      info.store_uuid.to_string(), json_quote(info.base_bdev), info.thin, info.allocated_clusters, info.snapshot,
      info.clone);
  if (info.clone) text += fmt::format(R"(,"base_snapshot":{})", json_quote(info.parent_name));
  if (info.snapshot) {
    text += R"(,"clones":[)";
    for (size_t i = 0; i < info.clone_names.size(); ++i) text += (i == 0 ? "" : ",") + json_quote(info.clone_names[i]);
    text += "]";
  }
  text += fmt::format(R"(,"esnap_clone":{})", info.esnap_clone);
  if (info.esnap_clone) text += fmt::format(R"(,"external_snapshot_name":{})", json_quote(info.esnap_id));
  text += fmt::format(R"(,"unique_bytes":{},"shared_bytes":{}}}}})", info.unique_bytes(), info.shared_bytes());
  return text;
}

Uuid LvolDevice::cache_instance() const {
  const Uuid disk = store_->disk().cache_instance();
  const std::shared_ptr<Device> outside = blob_->bottom().esnap.get();
  return outside == nullptr ? disk : join_cache_instances(disk, outside->cache_instance());
}

Task<Result<void>> LvolDevice::set_writer_epoch(uint64_t epoch) {
  const std::shared_ptr<Store> store = store_;
  Task<Result<void>> setting = store->set_writer_epoch(blob_, epoch);
  const Result<void> set = co_await setting;
  co_return set;
}

}  // namespace diskengine::lvol
