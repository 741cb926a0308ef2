// Turns the bytes of a Stream into NVMe/TCP PDUs for either end: checks each header and its digest, moves data into the
// memory the sink names (received there directly where much is to come), checks data digests.
//
//   Input: bytes, from Stream::Handler's calls which the owner passes on. Output: Sink::on_header, Sink::on_data.
//   Completion: none; everything happens within the call.
//
// Threads: the stream's reactor.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "fabric/tcp/stream.h"
#include "format/nvme_tcp.h"

namespace diskengine::fabric::tcp {

class PduReader {
 public:
  // Data still to come from which on it is received straight into its place.
  static constexpr size_t kDirectBytesMin = 16 * 1024;

  // Where the data of a PDU goes: `offset` bytes into `iov`, which has room for it and stays put until on_data. No
  // pieces at all: the data is dropped.
  struct DataTarget {
    std::span<const iovec> iov;
    size_t offset = 0;
  };

  class Sink {
   public:
    // A whole, checked header; `pdu` may be unaligned and is valid during the call. If shape.data_bytes > 0, `target`
    // is to be set and on_data follows. Returns false to take no more PDUs (after fatal trouble).
    virtual bool on_header(const uint8_t* pdu, const spec::TcpShape& shape, DataTarget* target) noexcept = 0;
    // The data of the last header is in place; `digest_ok` is true where there is no digest.
    virtual bool on_data(bool digest_ok) noexcept = 0;
    // The peer broke the protocol; nothing more is taken. `header`: what there is of the offending PDU's header.
    virtual void on_fatal(spec::TcpFatal status, uint32_t info, std::span<const uint8_t> header) noexcept = 0;

   protected:
    ~Sink() = default;
  };

  PduReader(Sink& sink, const spec::TcpExpectation& expect) : sink_(sink), expect_(expect) {}

  // What is accepted from the next PDU on.
  spec::TcpExpectation& expect() noexcept { return expect_; }
  // Takes no more PDUs; what arrives is dropped.
  void stop() noexcept { state_ = State::stopped; }

  // To be called from the stream handler's functions of the same names.
  size_t on_bytes(std::span<uint8_t> bytes) noexcept;
  size_t direct_target(std::span<iovec, Stream::kDirectPiecesMax> out) noexcept;
  void on_direct(size_t bytes) noexcept;

 private:
  enum class State : uint8_t { header, padding, data, digest, stopped };

  bool read_header(std::span<uint8_t> bytes, size_t* taken) noexcept;
  void place(const uint8_t* from, size_t bytes) noexcept;
  void advance(size_t bytes) noexcept;
  void data_complete() noexcept;
  void finish_data(bool digest_ok) noexcept;

  Sink& sink_;
  spec::TcpExpectation expect_;
  State state_ = State::header;
  bool digested_ = false;  // the current PDU's data
  size_t padding_left_ = 0;
  size_t data_left_ = 0;
  uint32_t digest_ = 0;
  std::span<const iovec> target_;  // from the piece that is being filled
  size_t target_used_ = 0;         // of its first piece
};

}  // namespace diskengine::fabric::tcp
