// How a block device presents itself as a virtio block device: feature bits and configuration space. Pure; any thread.
#pragma once

#include <cstdint>

#include "block/device.h"
#include "format/virtio_blk.h"

namespace diskengine::vhost {

// Data segments of one request that we announce. With header and status, and a piece more for each border between
// regions of guest memory that a segment may cross, they fit into Chain::kPiecesMax.
inline constexpr uint32_t kSegmentsMax = 126;
inline constexpr uint32_t kSegmentBytesMax = 128 * 1024;
// As SPDK: a guest splits longer ranges, so one discard cannot keep a device for long.
inline constexpr uint32_t kRangeSectorsMax = 16 * 1024 * 1024 / spec::kVirtioBlkSectorBytes;

// All feature bits that we offer for this device: virtio, ring and vhost-user ones too.
uint64_t blk_features(const DeviceInfo& info, bool read_only) noexcept;
// `size_blocks` 0: the device is gone, and the disk has no capacity.
spec::VirtioBlkConfig blk_config(const DeviceInfo& info, uint64_t size_blocks, bool read_only,
                                 uint16_t queues) noexcept;

}  // namespace diskengine::vhost
