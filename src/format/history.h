// The files in which a data plane keeps its own past: layout and codec. Little endian. Described in
// docs/formats/history.md. Pure functions, any thread.
//
// A file is a header and a ring of records of one size, each with its own checksum: one that was torn or damaged costs
// only itself. The record with sequence number n lies in place n modulo the capacity.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace diskengine::spec {

inline constexpr size_t kHistoryRecordBytes = 256;  // also of the header
inline constexpr size_t kHistoryNameBytes = 64;
inline constexpr size_t kHistoryTypeBytes = 32;
inline constexpr size_t kHistoryTextBytes = 128;
inline constexpr size_t kHistoryValues = 40;
inline constexpr uint64_t kHistoryCapacityMax = uint64_t{1} << 32;  // records
inline constexpr uint64_t kHistorySequenceMax = uint64_t{1} << 62;
inline constexpr uint64_t kHistoryTimeMaxMs = uint64_t{1} << 53;
inline constexpr char kHistorySignature[8] = {'D', 'E', 'H', 'I', 'S', 'T', 'O', '1'};
inline constexpr uint32_t kHistoryRecordSignature = 0x43524844;  // "DHRC"

struct HistoryHeaderPage {
  uint8_t signature[8];
  uint32_t crc;      // CRC32C of the header with this field zero
  uint32_t version;  // 1
  uint64_t capacity;
  uint32_t record_bytes;
  uint8_t reserved[kHistoryRecordBytes - 28];
};
static_assert(sizeof(HistoryHeaderPage) == kHistoryRecordBytes);
static_assert(offsetof(HistoryHeaderPage, capacity) == 16);

struct HistoryRecordPage {
  uint32_t signature;
  uint32_t crc;       // CRC32C of the record with this field zero
  uint64_t sequence;  // one higher than the one written before
  uint64_t end_ms;    // since 1970 UTC: when what it tells of ended
  uint32_t span_ms;   // how long that took
  uint16_t kind;
  uint16_t detail;
  uint8_t name[kHistoryNameBytes];  // text, filled up with zeroes
  uint8_t payload[kHistoryValues * sizeof(uint32_t)];
};
static_assert(sizeof(HistoryRecordPage) == kHistoryRecordBytes);
static_assert(offsetof(HistoryRecordPage, end_ms) == 16);
static_assert(offsetof(HistoryRecordPage, name) == 32);
static_assert(offsetof(HistoryRecordPage, payload) == 96);
static_assert(kHistoryTypeBytes + kHistoryTextBytes == sizeof(HistoryRecordPage::payload));

enum class HistoryKind : uint16_t {
  device = 1,  // a device's I/O; detail: trace::Layer
  stages = 2,  // where the time of a root's traced I/O went; detail: trace::Layer
  reactor = 3,
  event = 4,        // detail: HistoryPhase
  network = 5,      // what a network said; detail: HistoryNetwork
  temperature = 6,  // of a disk
};
enum class HistoryNetwork : uint16_t { tcp, interface, rdma };
enum class HistoryPhase : uint16_t { moment, began, ended };

// What stands in `values` of a device, in this order; latencies in microseconds.
enum HistoryDeviceValue : unsigned {
  kHistoryReads,
  kHistoryWrites,
  kHistoryOthers,
  kHistoryErrors,
  kHistoryReadKib,
  kHistoryWriteKib,
  kHistoryReadP50,
  kHistoryReadP99,
  kHistoryReadMax,
  kHistoryWriteP50,
  kHistoryWriteP99,
  kHistoryWriteMax,
  kHistoryOtherP99,
  kHistoryOutstanding,  // at its end
  kHistoryOldestMs,     // the age of the oldest of these
};
// Of a root: the I/Os that were traced, of all of them p50 and p99, and then p50 and p99 for each stage.
enum HistoryStagesValue : unsigned { kHistoryTraced, kHistoryTotalP50, kHistoryTotalP99, kHistoryFirstStage };
// Of a reactor, in thousandths of the time.
enum HistoryReactorValue : unsigned { kHistoryBusy, kHistorySpinning, kHistoryAsleep };
// Of a network, in some time. Segments or packets; what a kind of network does not tell is 0.
enum HistoryNetworkValue : unsigned {
  kHistoryConnections,
  kHistorySent,
  kHistoryAgain,      // sent a second time
  kHistoryDropped,    // for want of room
  kHistoryDamaged,    // with errors, and links that were lost
  kHistoryCongested,  // notes of congestion, and times that a sender had to wait
  kHistoryRttUs,      // the longest of its connections', smoothed
};
// Of a disk, in degrees Celsius.
enum HistoryTemperatureValue : unsigned { kHistoryCelsius, kHistoryWarningCelsius };  // 0: it does not warn

struct HistoryRecord {
  uint64_t sequence = 0;
  uint64_t end_ms = 0;
  uint32_t span_ms = 0;
  HistoryKind kind = HistoryKind::event;
  uint16_t detail = 0;
  std::string name;                               // cut to kHistoryNameBytes
  std::array<uint32_t, kHistoryValues> values{};  // not of an event
  std::string type;                               // of an event, cut to kHistoryTypeBytes
  std::string text;                               // of an event, cut to kHistoryTextBytes

  bool operator==(const HistoryRecord&) const = default;
};

using HistorySpan = std::span<uint8_t, kHistoryRecordBytes>;
using HistoryView = std::span<const uint8_t, kHistoryRecordBytes>;

void encode_history_header(uint64_t capacity, HistorySpan page);
// The capacity. Errc::corrupt: no header, a wrong checksum, or a capacity of 0 or over kHistoryCapacityMax.
// Errc::not_supported: a later version.
Result<uint64_t> decode_history_header(HistoryView page);

// Texts are cut at a zero byte, and where they are too long.
void encode(const HistoryRecord& record, HistorySpan page);
// Errc::corrupt: no record, a wrong checksum, an unknown kind, or a number out of its range. Bytes of texts that are
// not printable ASCII come out as '?'.
Result<HistoryRecord> decode_history_record(HistoryView page);

}  // namespace diskengine::spec
