#include "fabric/tcp/pdu_reader.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/endian.h"

namespace diskengine::fabric::tcp {

using spec::TcpFatal;

size_t PduReader::on_bytes(std::span<uint8_t> bytes) noexcept {
  size_t at = 0;
  for (;;) {
    const size_t left = bytes.size() - at;
    switch (state_) {
      case State::stopped:
        return bytes.size();
      case State::header: {
        size_t taken = 0;
        if (!read_header(bytes.subspan(at), &taken)) return state_ == State::stopped ? bytes.size() : at;
        at += taken;
        break;
      }
      case State::padding: {
        const size_t skipped = std::min(left, padding_left_);
        at += skipped;
        padding_left_ -= skipped;
        if (padding_left_ > 0) return at;
        state_ = State::data;
        break;
      }
      case State::data: {
        const size_t moved = std::min(left, data_left_);
        place(bytes.data() + at, moved);
        at += moved;
        if (data_left_ > 0) return at;
        data_complete();
        break;
      }
      case State::digest:
        if (left < spec::kTcpDigestBytes) return at;
        finish_data(load_le<uint32_t>(bytes.data() + at) == crc32c_finish(digest_));
        at += spec::kTcpDigestBytes;
        break;
    }
  }
}

// Takes one whole header; false if more bytes are needed or the reader stopped.
bool PduReader::read_header(std::span<uint8_t> bytes, size_t* taken) noexcept {
  if (bytes.size() < sizeof(spec::TcpCommonHeader)) return false;
  const auto common = load_le<spec::TcpCommonHeader>(bytes.data());
  const spec::TcpShape shape = check_tcp_header(common, expect_);
  if (!shape.ok()) {
    state_ = State::stopped;
    sink_.on_fatal(shape.fatal, shape.info, bytes.first(std::min(bytes.size(), spec::kTcpTermCopyMax)));
    return false;
  }
  const size_t header_end = shape.header_bytes + (shape.header_digest ? spec::kTcpDigestBytes : 0);
  if (bytes.size() < header_end) return false;
  if (shape.header_digest && !spec::tcp_header_digest_ok(bytes.data())) {
    state_ = State::stopped;
    sink_.on_fatal(TcpFatal::header_digest_error, load_le<uint32_t>(bytes.data() + shape.header_bytes),
                   bytes.first(shape.header_bytes));
    return false;
  }
  *taken = header_end;
  DataTarget target;
  if (!sink_.on_header(bytes.data(), shape, &target)) {
    state_ = State::stopped;
    return false;
  }
  if (shape.data_bytes == 0) return true;
  target_ = target.iov;
  target_used_ = 0;
  advance(target.offset);
  data_left_ = shape.data_bytes;
  digested_ = shape.data_digest;
  digest_ = kCrc32cSeed;
  padding_left_ = shape.data_offset - header_end;
  state_ = padding_left_ > 0 ? State::padding : State::data;
  return true;
}

// Moves the cursor within the target without touching memory.
void PduReader::advance(size_t bytes) noexcept {
  target_used_ += bytes;
  while (!target_.empty() && target_used_ >= target_.front().iov_len) {
    target_used_ -= target_.front().iov_len;
    target_ = target_.subspan(1);
  }
}

void PduReader::place(const uint8_t* from, size_t bytes) noexcept {
  data_left_ -= bytes;
  if (digested_) digest_ = crc32c_update(digest_, from, bytes);
  while (bytes > 0 && !target_.empty()) {
    const size_t moved = std::min(bytes, target_.front().iov_len - target_used_);
    std::memcpy(static_cast<uint8_t*>(target_.front().iov_base) + target_used_, from, moved);
    from += moved;
    bytes -= moved;
    advance(moved);
  }
}

size_t PduReader::direct_target(std::span<iovec, Stream::kDirectPiecesMax> out) noexcept {
  if (state_ != State::data || data_left_ < kDirectBytesMin || target_.empty()) return 0;
  size_t pieces = 0;
  size_t left = data_left_;
  size_t skip = target_used_;
  for (const iovec& piece : target_) {
    if (left == 0 || pieces == out.size()) break;
    const size_t length = std::min(left, piece.iov_len - skip);
    out[pieces++] = {static_cast<uint8_t*>(piece.iov_base) + skip, length};
    left -= length;
    skip = 0;
  }
  return pieces;
}

void PduReader::on_direct(size_t bytes) noexcept {
  DE_ASSERT(state_ == State::data && bytes <= data_left_);
  data_left_ -= bytes;
  while (bytes > 0) {
    const size_t length = std::min(bytes, target_.front().iov_len - target_used_);
    if (digested_)
      digest_ = crc32c_update(digest_, static_cast<uint8_t*>(target_.front().iov_base) + target_used_, length);
    bytes -= length;
    advance(length);
  }
  if (data_left_ == 0) data_complete();
}

void PduReader::data_complete() noexcept {
  if (digested_) {
    state_ = State::digest;
  } else {
    finish_data(true);
  }
}

void PduReader::finish_data(bool digest_ok) noexcept {
  state_ = State::header;
  target_ = {};
  if (!sink_.on_data(digest_ok)) state_ = State::stopped;
}

}  // namespace diskengine::fabric::tcp
