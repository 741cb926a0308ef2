#include "vhost/blk_device.h"

#include "format/vhost_user.h"
#include "format/virtio_ring.h"

namespace diskengine::vhost {
namespace {

constexpr uint64_t bit(unsigned number) noexcept { return uint64_t{1} << number; }

}  // namespace

uint64_t blk_features(const DeviceInfo& info, bool read_only) noexcept {
  uint64_t features = bit(spec::kVirtioFVersion1) | bit(spec::kVirtioRingFIndirectDesc) |
                      bit(spec::kVirtioRingFEventIdx) | bit(spec::kVhostUserFProtocolFeatures) |
                      bit(spec::kVirtioBlkFSizeMax) | bit(spec::kVirtioBlkFSegMax) | bit(spec::kVirtioBlkFBlkSize) |
                      bit(spec::kVirtioBlkFTopology) | bit(spec::kVirtioBlkFMq);
  if (info.write_cache) features |= bit(spec::kVirtioBlkFFlush);
  if (read_only || info.read_only) return features | bit(spec::kVirtioBlkFRo);
  if (info.can_unmap) features |= bit(spec::kVirtioBlkFDiscard);
  if (info.can_write_zeroes) features |= bit(spec::kVirtioBlkFWriteZeroes);
  return features;
}

spec::VirtioBlkConfig blk_config(const DeviceInfo& info, uint64_t size_blocks, bool read_only,
                                 uint16_t queues) noexcept {
  spec::VirtioBlkConfig config{};
  const uint32_t sectors_per_block = info.block_size / spec::kVirtioBlkSectorBytes;
  config.capacity = size_blocks * sectors_per_block;
  config.size_max = kSegmentBytesMax;
  config.seg_max = kSegmentsMax;
  config.blk_size = info.block_size;
  config.min_io_size = 1;
  config.opt_io_size = info.optimal_blocks;
  config.writeback = info.write_cache ? 1 : 0;
  config.num_queues = queues;
  if (read_only || info.read_only) return config;
  if (info.can_unmap) {
    config.max_discard_sectors = kRangeSectorsMax;
    config.max_discard_seg = 1;
    config.discard_sector_alignment = sectors_per_block;
  }
  if (info.can_write_zeroes) {
    config.max_write_zeroes_sectors = kRangeSectorsMax;
    config.max_write_zeroes_seg = 1;
    config.write_zeroes_may_unmap = info.can_unmap ? 1 : 0;
  }
  return config;
}

}  // namespace diskengine::vhost
