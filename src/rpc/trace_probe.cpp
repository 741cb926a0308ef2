#include "rpc/trace_probe.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <memory>
#include <utility>

#include "rpc/params.h"
#include "rpc/trace_json.h"
#include "runtime/dma_buffer.h"
#include "trace/recorder.h"

namespace diskengine::rpc {
namespace {

struct ProbeRequest : Request {
  explicit ProbeRequest(Reactor& reactor) : answered(reactor) {
    done = [](Request& request) noexcept { static_cast<ProbeRequest&>(request).answered.set(request.status); };
  }
  OneShot<IoStatus> answered;
};

// Reads the first block; `visit` as in Request.
Task<IoStatus> read_first_block(Channel& channel, std::span<const iovec> iov, trace::Visit* visit) {
  ProbeRequest request(channel.reactor());
  request.op = Op::read;
  request.blocks = 1;
  request.iov = iov;
  request.visit = visit;
  channel.submit(request);
  const IoStatus status = co_await request.answered;
  co_return status;
}

// A root for as long as it lives.
struct OpenRoot {
  OpenRoot(trace::Recorder& r, const std::string& name) : recorder(r), root(r.open_root(name, trace::Layer::other)) {}
  ~OpenRoot() { recorder.close_root(root); }
  OpenRoot(const OpenRoot&) = delete;
  OpenRoot& operator=(const OpenRoot&) = delete;
  trace::Recorder& recorder;
  trace::Root* root;
};

}  // namespace

Task<Reply> probe(DeviceRegistry& devices, boost::json::object params) {
  Reactor& main = devices.main_reactor();
  if (main.recorder() == nullptr) co_return Error(Errc::not_supported, "this process does not trace");
  const Result<std::shared_ptr<Device>> device = devices.find(text_param(params, "name"));
  if (!device) co_return device.error();
  const std::string name = (*device)->name();
  Result<std::unique_ptr<Channel>> channel = (*device)->open_channel(main);
  if (!channel) co_return channel.error();
  DmaBuffer block((*device)->info().block_size);
  const iovec piece{block.data(), (*device)->info().block_size};
  OpenRoot open(*main.recorder(), name);
  const std::span<const iovec> iov(&piece, 1);
  const auto failed = [&](IoStatus status) {
    return Error(Errc::io_error, fmt::format("reading the first block of {}: {}", name, name_of(status.code)));
  };
  // The first I/O of a channel may wait for connections to be made: that is not what was asked.
  const IoStatus ready = co_await read_first_block(**channel, iov, nullptr);
  if (!ready.ok()) co_return failed(ready);
  trace::Visit* top = main.recorder()->begin(open.root, static_cast<uint8_t>(Op::read), 0, 1);
  if (top == nullptr)
    co_return Error(Errc::would_block, "the read would not be traced: tracing is off, or there is much I/O to trace");
  const IoStatus status = co_await read_first_block(**channel, iov, top);
  const trace::Trace& trace = *top->trace;
  top->leave(status.ok());
  // It has ended, and nobody else begins one before this turn goes on.
  boost::json::value told = describe(trace);
  if (!status.ok()) co_return failed(status);
  co_return Reply(std::move(told));
}

}  // namespace diskengine::rpc
