#include "format/history.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/crc32c.h"
#include "base/endian.h"

namespace diskengine::spec {
namespace {

constexpr uint32_t kVersion = 1;

uint32_t checksum(HistoryView page, size_t crc_at) noexcept {
  constexpr uint8_t kZero[4] = {};
  uint32_t state = crc32c_update(kCrc32cSeed, page.data(), crc_at);
  state = crc32c_update(state, kZero, sizeof kZero);
  state = crc32c_update(state, page.data() + crc_at + sizeof kZero, page.size() - crc_at - sizeof kZero);
  return crc32c_finish(state);
}

void put_text(std::string_view text, uint8_t* to, size_t room) noexcept {
  text = text.substr(0, std::min(room, text.find('\0')));
  std::memcpy(to, text.data(), text.size());
}

std::string text_of(const uint8_t* from, size_t room) {
  std::string text(reinterpret_cast<const char*>(from), std::find(from, from + room, 0) - from);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return text;
}

Error corrupt(const char* what) { return {Errc::corrupt, std::string("history: ") + what}; }

bool is_known(uint16_t kind) noexcept {
  return kind >= static_cast<uint16_t>(HistoryKind::device) && kind <= static_cast<uint16_t>(HistoryKind::temperature);
}

}  // namespace

void encode_history_header(uint64_t capacity, HistorySpan page) {
  std::fill(page.begin(), page.end(), uint8_t{0});
  std::memcpy(page.data(), kHistorySignature, sizeof kHistorySignature);
  store_le(page.data() + offsetof(HistoryHeaderPage, version), kVersion);
  store_le(page.data() + offsetof(HistoryHeaderPage, capacity), capacity);
  store_le(page.data() + offsetof(HistoryHeaderPage, record_bytes), static_cast<uint32_t>(kHistoryRecordBytes));
  store_le(page.data() + offsetof(HistoryHeaderPage, crc), checksum(page, offsetof(HistoryHeaderPage, crc)));
}

Result<uint64_t> decode_history_header(HistoryView page) {
  if (std::memcmp(page.data(), kHistorySignature, sizeof kHistorySignature) != 0) return corrupt("no header");
  if (load_le<uint32_t>(page.data() + offsetof(HistoryHeaderPage, crc)) !=
      checksum(page, offsetof(HistoryHeaderPage, crc)))
    return corrupt("the header's checksum is wrong");
  if (load_le<uint32_t>(page.data() + offsetof(HistoryHeaderPage, version)) != kVersion)
    return Error(Errc::not_supported, "history: written by a later version");
  const auto capacity = load_le<uint64_t>(page.data() + offsetof(HistoryHeaderPage, capacity));
  if (load_le<uint32_t>(page.data() + offsetof(HistoryHeaderPage, record_bytes)) != kHistoryRecordBytes ||
      capacity == 0 || capacity > kHistoryCapacityMax)
    return corrupt("the header's sizes are impossible");
  return capacity;
}

void encode(const HistoryRecord& record, HistorySpan page) {
  std::fill(page.begin(), page.end(), uint8_t{0});
  uint8_t* at = page.data();
  store_le(at + offsetof(HistoryRecordPage, signature), kHistoryRecordSignature);
  store_le(at + offsetof(HistoryRecordPage, sequence), record.sequence);
  store_le(at + offsetof(HistoryRecordPage, end_ms), record.end_ms);
  store_le(at + offsetof(HistoryRecordPage, span_ms), record.span_ms);
  store_le(at + offsetof(HistoryRecordPage, kind), static_cast<uint16_t>(record.kind));
  store_le(at + offsetof(HistoryRecordPage, detail), record.detail);
  put_text(record.name, at + offsetof(HistoryRecordPage, name), kHistoryNameBytes);
  uint8_t* payload = at + offsetof(HistoryRecordPage, payload);
  if (record.kind == HistoryKind::event) {
    put_text(record.type, payload, kHistoryTypeBytes);
    put_text(record.text, payload + kHistoryTypeBytes, kHistoryTextBytes);
  } else {
    for (size_t i = 0; i < kHistoryValues; ++i) store_le(payload + i * sizeof(uint32_t), record.values[i]);
  }
  store_le(at + offsetof(HistoryRecordPage, crc), checksum(page, offsetof(HistoryRecordPage, crc)));
}

Result<HistoryRecord> decode_history_record(HistoryView page) {
  const uint8_t* at = page.data();
  if (load_le<uint32_t>(at + offsetof(HistoryRecordPage, signature)) != kHistoryRecordSignature)
    return corrupt("no record");
  if (load_le<uint32_t>(at + offsetof(HistoryRecordPage, crc)) != checksum(page, offsetof(HistoryRecordPage, crc)))
    return corrupt("a record's checksum is wrong");
  const auto kind = load_le<uint16_t>(at + offsetof(HistoryRecordPage, kind));
  if (!is_known(kind)) return corrupt("a record of an unknown kind");
  HistoryRecord record;
  record.sequence = load_le<uint64_t>(at + offsetof(HistoryRecordPage, sequence));
  record.end_ms = load_le<uint64_t>(at + offsetof(HistoryRecordPage, end_ms));
  record.span_ms = load_le<uint32_t>(at + offsetof(HistoryRecordPage, span_ms));
  if (record.sequence >= kHistorySequenceMax || record.end_ms >= kHistoryTimeMaxMs || record.span_ms > record.end_ms)
    return corrupt("a record's numbers are impossible");
  record.kind = static_cast<HistoryKind>(kind);
  record.detail = load_le<uint16_t>(at + offsetof(HistoryRecordPage, detail));
  record.name = text_of(at + offsetof(HistoryRecordPage, name), kHistoryNameBytes);
  const uint8_t* payload = at + offsetof(HistoryRecordPage, payload);
  if (record.kind == HistoryKind::event) {
    record.type = text_of(payload, kHistoryTypeBytes);
    record.text = text_of(payload + kHistoryTypeBytes, kHistoryTextBytes);
  } else {
    for (size_t i = 0; i < kHistoryValues; ++i) record.values[i] = load_le<uint32_t>(payload + i * sizeof(uint32_t));
  }
  return record;
}

}  // namespace diskengine::spec
