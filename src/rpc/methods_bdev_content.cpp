#include "rpc/methods_bdev_content.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>

#include "format/disk_signatures.h"
#include "lvol/disk_io.h"
#include "rpc/params.h"
#include "runtime/dma_buffer.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

Task<Reply> content_of(Reactor& reactor, std::shared_ptr<Device> device) {
  const uint64_t bytes = device->size_blocks() * device->info().block_size;
  DmaBuffer head(std::min<uint64_t>(bytes, spec::kSignatureHeadBytes));
  DmaBuffer tail(std::min<uint64_t>(bytes, spec::kSignatureTailBytes));
  const std::span<uint8_t> first = head.span().first(std::min<uint64_t>(bytes, head.size()));
  const std::span<uint8_t> last = tail.span().first(std::min<uint64_t>(bytes, tail.size()));
  Result<std::unique_ptr<Channel>> opened = device->open_channel(reactor);
  if (!opened) co_return opened.error();
  std::unique_ptr<Channel> channel = std::move(*opened);
  IoStatus status = co_await lvol::read_bytes(*channel, 0, first);
  if (status.ok())
    status = co_await lvol::read_bytes(*channel, (bytes - last.size()) / device->info().block_size, last);
  if (!status.ok()) co_return lvol::io_failed(*device, "looking for what it holds", status);
  const spec::DiskPieces pieces{first, last};
  json::array holds;
  for (const std::string_view name : spec::find_signatures(pieces)) holds.emplace_back(name);
  co_return json::value(json::object{{"name", device->name()},
                                     {"claimed_by", device->claimed_by()},
                                     {"holds", std::move(holds)},
                                     {"blank", spec::is_blank(pieces)}});
}

Task<Reply> get_content(DeviceRegistry& devices, json::object params) {
  Result<std::shared_ptr<Device>> found = devices.find(text_param(params, "name"));
  if (!found) co_return found.error();
  Task<Reply> looking = content_of(devices.main_reactor(), std::move(*found));
  Reply reply = co_await looking;
  co_return reply;
}

}  // namespace

void add_content_methods(MethodTable& methods, DeviceRegistry& devices) {
  methods.add("diskengine_bdev_get_content",
              [&](json::object params) { return get_content(devices, std::move(params)); });
}

}  // namespace diskengine::rpc
