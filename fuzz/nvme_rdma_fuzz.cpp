// Private data and data pointers of NVMe/RDMA as a stranger sends them: what is accepted lies within the limits, and a
// keyed descriptor survives being taken apart and put together.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/assert.h"
#include "format/nvme_rdma.h"

namespace {

using namespace diskengine;

void check_place(const spec::Sqe& sqe, uint32_t capsule_bytes, uint32_t most) {
  const spec::RdmaDataPlace place = spec::place_rdma_data(sqe, capsule_bytes, most);
  if (place.status != spec::Status::success) return;
  if (place.kind == spec::RdmaDataPlace::Kind::in_capsule)
    DE_ASSERT(place.to_controller && place.offset <= capsule_bytes && place.bytes <= capsule_bytes - place.offset);
  if (place.kind == spec::RdmaDataPlace::Kind::keyed)
    DE_ASSERT(place.bytes > 0 && place.bytes <= most && place.bytes == place.keyed.length);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> bytes(data, size);
  const spec::RdmaQueueLimits limits{.queue_id_max = 127, .admin_entries_max = 128, .io_entries_max = 1024};
  const spec::RdmaQueueWish wish = spec::read_rdma_request(bytes, limits);
  if (wish.ok()) DE_ASSERT(wish.queue_id <= 127 && wish.commands >= 2 && wish.commands <= 1024);
  DE_ASSERT(spec::read_rdma_accept(bytes) <= 0xffff);
  DE_ASSERT(spec::name_of(spec::read_rdma_reject(bytes)) != nullptr);
  if (size < sizeof(spec::Sqe)) return 0;
  spec::Sqe sqe;
  std::memcpy(static_cast<void*>(&sqe), data, sizeof sqe);
  check_place(sqe, static_cast<uint32_t>(size - sizeof sqe), 65536);
  const spec::KeyedSgl keyed = spec::keyed_sgl_of(sqe.data);
  const spec::KeyedSgl again = spec::keyed_sgl_of(spec::make_keyed_sgl(keyed));
  DE_ASSERT(again.address == keyed.address && again.length == keyed.length && again.key == keyed.key);
  return 0;
}
