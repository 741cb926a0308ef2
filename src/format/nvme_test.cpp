#include "format/nvme.h"

#include <gtest/gtest.h>

#include "base/endian.h"
#include "format/nvme_fabrics.h"
#include "format/nvme_identify.h"

namespace diskengine::spec {
namespace {

TEST(NvmeStatus, FieldCarriesTypeCodeAndDoNotRetryAsTheSpecificationPlacesThem) {
  EXPECT_EQ(status_field(Status::success), 0);
  EXPECT_EQ(status_field(Status::invalid_opcode), 0x0002);
  EXPECT_EQ(status_field(Status::compare_failure), 0x85 << 1 | 2 << 9);
  EXPECT_EQ(status_field(Status::connect_invalid_host, true), 0x84 << 1 | 1 << 9 | 1 << 15);
}

TEST(NvmeStatus, EveryFieldValueSplitsAndJoinsBack) {
  for (uint32_t field = 0; field < 0x1000; field += 2) {
    const Status status = status_of(static_cast<uint16_t>(field));
    EXPECT_EQ(status_field(status), field);
    EXPECT_EQ(make_status(status_code_type(status), status_code(status)), status);
  }
}

TEST(NvmeStatus, NamesAreFoundAndUnknownNumbersSaySo) {
  EXPECT_EQ(name_of(Status::success), "success");
  EXPECT_EQ(name_of(Status::lba_out_of_range), "LBA out of range");
  EXPECT_EQ(name_of(Status::aborted_by_host), "command aborted by host");
  EXPECT_EQ(name_of(static_cast<Status>(0x7ff)), "unknown status");
}

TEST(NvmeLogPage, LengthAndOffsetAreReadBackAsSet) {
  for (uint64_t offset : {uint64_t{0}, uint64_t{1024}, uint64_t{1} << 33}) {
    for (uint32_t bytes : {4u, 512u, 4096u, 1u << 20}) {
      Sqe sqe;
      set_log_page(sqe, LogPage::discovery, bytes, offset);
      EXPECT_EQ(sqe.cdw10 & 0xff, LogPage::discovery);
      EXPECT_EQ(log_page_bytes(sqe), bytes);
      EXPECT_EQ(log_page_offset(sqe), offset);
    }
  }
}

TEST(NvmeCap, FieldsAreReadBackAsMade) {
  const Cap cap = make_cap(1024, 15000);
  EXPECT_EQ(cap.queue_entries_max(), 1024u);
  EXPECT_EQ(cap.ready_timeout_ms(), 15000u);
  EXPECT_EQ(cap.page_bytes_min(), 4096u);
  EXPECT_TRUE(cap.nvm_command_set());
}

TEST(NvmeFabrics, CommandsKeepOpcodeAndCidWhereEveryCommandHasThem) {
  FabricsConnect connect;
  connect.cid = 0x1234;
  const Sqe sqe = load_le<Sqe>(&connect);
  EXPECT_EQ(sqe.opcode, AdminOp::fabrics);
  EXPECT_EQ(sqe.cid, 0x1234);
  EXPECT_EQ(sqe.nsid & 0xff, FabricsType::connect);
}

TEST(NvmeIdentify, LbaFormatIndexTakesItsHighBitsFromBits6And5) {
  EXPECT_EQ(lba_format_index(0x03), 3);
  EXPECT_EQ(lba_format_index(0x10), 0);
  EXPECT_EQ(lba_format_index(0x63), 0x33);
}

TEST(NvmeAsyncEvent, PartsAreReadBackAsJoined) {
  const uint32_t cdw0 =
      async_event(AsyncEventType::notice, AsyncNotice::namespace_attribute, LogPage::changed_namespaces);
  EXPECT_EQ(async_event_type(cdw0), AsyncEventType::notice);
  EXPECT_EQ(async_event_information(cdw0), AsyncNotice::namespace_attribute);
  EXPECT_EQ(async_event_log_page(cdw0), LogPage::changed_namespaces);
}

}  // namespace
}  // namespace diskengine::spec
