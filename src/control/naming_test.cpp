#include "control/naming.h"

#include <gtest/gtest.h>

namespace diskengine::control {
namespace {

constexpr char kUuid[] = "00112233-4455-6677-8899-aabbccddeeff";

TEST(Naming, every_object_of_the_path_has_the_name_the_debugging_checklist_gives_it) {
  EXPECT_EQ(vhost_controller_name(7), "vhost7");
  EXPECT_EQ(raid_bdev_name(123), "raid_123");
  EXPECT_EQ(nvme_disk_name(3), "NvmeDisk3");
  EXPECT_EQ(nvme_disk_bdev_name(3), "NvmeDisk3n1");
  EXPECT_EQ(replica_nqn(kUuid), std::string("nqn.2026-01.io.diskengine:replica-") + kUuid);
  EXPECT_EQ(base_bdev_name_from_nqn(replica_nqn(kUuid)), std::string("replica-") + kUuid + "n1");
}

TEST(Naming, the_host_nqn_changes_with_every_epoch) {
  EXPECT_EQ(host_nqn(5, 2), "nqn.2026-01.io.diskengine:host:5:2");
  EXPECT_NE(host_nqn(5, 2), host_nqn(5, 3));
  EXPECT_NE(host_nqn(5, 2), host_nqn(52, 2));
}

TEST(Naming, different_nqns_never_share_a_controller_name) {
  const char* const nqns[] = {"nqn.2016-06.io.spdk:a:b",
                              "nqn.2016-06.io.spdk:a_b",
                              "nqn.2016-06.io.spdk:a/b",
                              "replica-x",
                              "nqn.2026-01.io.diskengine:replica-x",
                              "nqn.2026-01.io.diskengine:replica-x/",
                              ""};
  for (const char* a : nqns)
    for (const char* b : nqns)
      EXPECT_EQ(controller_name_from_nqn(a) == controller_name_from_nqn(b), std::string(a) == b) << a << " and " << b;
}

TEST(Naming, a_foreign_nqn_becomes_a_name_without_separators) {
  const std::string name = controller_name_from_nqn("nqn.2016-06.io.spdk:disk 1/2");
  EXPECT_EQ(name.find_first_of(": /"), std::string::npos) << name;
}

TEST(Naming, a_serial_number_fits_nvme) {
  EXPECT_EQ(serial_number_of(kUuid), "00112233445566778899");
  EXPECT_EQ(serial_number_of(kUuid).size(), 20u);
}

}  // namespace
}  // namespace diskengine::control
