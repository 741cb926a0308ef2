#include "format/history.h"

#include <gtest/gtest.h>

#include <vector>

namespace diskengine::spec {
namespace {

struct Page {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(kHistoryRecordBytes);
  HistorySpan span() { return HistorySpan(bytes.data(), bytes.size()); }
};

HistoryRecord sample() {
  HistoryRecord record;
  record.sequence = 77;
  record.end_ms = 1'700'000'000'123;
  record.span_ms = 1'000;
  record.kind = HistoryKind::device;
  record.detail = 2;
  record.name = "raid_7";
  for (size_t i = 0; i < kHistoryValues; ++i) record.values[i] = static_cast<uint32_t>(i * 1000);
  return record;
}

HistoryRecord event() {
  HistoryRecord record;
  record.end_ms = 5'000;
  record.detail = static_cast<uint16_t>(HistoryPhase::began);
  record.name = "replica-1";
  record.type = "path";
  record.text = "reconnect_is_delayed";
  return record;
}

TEST(History, WhatIsWrittenIsReadBack) {
  Page page;
  encode_history_header(12, page.span());
  EXPECT_EQ(decode_history_header(page.span()).value(), 12U);
  for (const HistoryRecord& record : {sample(), event()}) {
    encode(record, page.span());
    EXPECT_EQ(decode_history_record(page.span()).value(), record);
  }
}

TEST(History, EveryKindIsReadBackAndALaterOneIsRefused) {
  Page page;
  HistoryRecord record = sample();
  for (const HistoryKind kind : {HistoryKind::device, HistoryKind::stages, HistoryKind::reactor, HistoryKind::network,
                                 HistoryKind::temperature}) {
    record.kind = kind;
    encode(record, page.span());
    EXPECT_EQ(decode_history_record(page.span()).value(), record);
  }
  record.kind = static_cast<HistoryKind>(7);
  encode(record, page.span());
  EXPECT_FALSE(decode_history_record(page.span()));
}

TEST(History, FieldsLieWhereThePageOfTheFormatSays) {
  Page page;
  encode_history_header(12, page.span());
  EXPECT_EQ(std::string(page.bytes.begin(), page.bytes.begin() + 8), "DEHISTO1");
  EXPECT_EQ(page.bytes[16], 12);
  encode(sample(), page.span());
  EXPECT_EQ(std::string(page.bytes.begin(), page.bytes.begin() + 4), "DHRC");
  EXPECT_EQ(page.bytes[8], 77);
  EXPECT_EQ(page.bytes[28], 1);
  EXPECT_EQ(std::string(page.bytes.begin() + 32, page.bytes.begin() + 38), "raid_7");
  EXPECT_EQ(page.bytes[96 + 4], 1000 % 256);
}

TEST(History, AnyChangedByteIsNoticed) {
  Page header, record;
  encode_history_header(12, header.span());
  encode(sample(), record.span());
  for (size_t at = 0; at < kHistoryRecordBytes; ++at) {
    header.bytes[at] ^= 0x10;
    EXPECT_FALSE(decode_history_header(header.span())) << at;
    header.bytes[at] ^= 0x10;
    record.bytes[at] ^= 0x10;
    EXPECT_FALSE(decode_history_record(record.span())) << at;
    record.bytes[at] ^= 0x10;
  }
}

TEST(History, LongTextsAreCutAndStrangeBytesShown) {
  Page page;
  HistoryRecord record = event();
  record.name.assign(1000, 'n');
  record.text = "a\nb\xff" + std::string(1000, 't');
  encode(record, page.span());
  const HistoryRecord read = decode_history_record(page.span()).value();
  EXPECT_EQ(read.name, std::string(kHistoryNameBytes, 'n'));
  EXPECT_EQ(read.text, "a?b?" + std::string(kHistoryTextBytes - 4, 't'));
}

TEST(History, NumbersOutOfTheirRangeAreRefused) {
  Page page;
  HistoryRecord record = sample();
  record.sequence = kHistorySequenceMax;
  encode(record, page.span());
  EXPECT_EQ(decode_history_record(page.span()).error().code(), Errc::corrupt);
  record = sample();
  record.end_ms = kHistoryTimeMaxMs;
  encode(record, page.span());
  EXPECT_EQ(decode_history_record(page.span()).error().code(), Errc::corrupt);
  encode_history_header(kHistoryCapacityMax + 1, page.span());
  EXPECT_EQ(decode_history_header(page.span()).error().code(), Errc::corrupt);
}

}  // namespace
}  // namespace diskengine::spec
