#include "control/diagnose/redact.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "control/diagnose/tar.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

TEST(Redact, passwords_of_connection_strings_go_and_the_rest_stays) {
  EXPECT_EQ(redacted_text("postgresql://me:s3cr@t@db.example:5432/x?sslmode=require"),
            "postgresql://me:(redacted)@db.example:5432/x?sslmode=require");
  EXPECT_EQ(redacted_text("postgresql://me@db/x"), "postgresql://me@db/x");
  EXPECT_EQ(redacted_text("http://127.0.0.1:8080/x"), "http://127.0.0.1:8080/x");
  EXPECT_EQ(redacted_text("host=db password=s3cret user=me"), "host=db password=(redacted) user=me");
  EXPECT_EQ(redacted_text("password = 'a \\' b' user=me"), "password = (redacted) user=me");
  EXPECT_EQ(redacted_text("postgresql://db/x?user=me&password=s3cret&a=b"),
            "postgresql://db/x?user=me&password=(redacted)&a=b");
  EXPECT_EQ(redacted_text("the password belongs in ~/.pgpass"), "the password belongs in ~/.pgpass");
}

TEST(Redact, keys_of_nvme_go_wherever_they_stand) {
  EXPECT_EQ(redacted_text("key DHHC-1:00:abc+/=: and NVMeTLSkey-1:01:xyz:"),
            "key DHHC-1:(redacted) and NVMeTLSkey-1:(redacted)");
  EXPECT_EQ(redacted_text("DHHC-1:a DHHC-1:b"), "DHHC-1:(redacted) DHHC-1:(redacted)");
  EXPECT_EQ(redacted_text("DHHC-1:"), "DHHC-1:(redacted)");
}

TEST(Redact, members_that_hold_secrets_by_name_go_at_any_depth) {
  const json::value value = json::parse(
      R"([{"psk":"x","hosts":[{"nqn":"n","dhchap_key":"k","dhchap_ctrlr_key":null}],"deep":{"password":{"a":1},"n":3}}])");
  EXPECT_EQ(
      redacted(value),
      json::parse(
          R"x([{"psk":"(redacted)","hosts":[{"nqn":"n","dhchap_key":"(redacted)","dhchap_ctrlr_key":null}],"deep":{"password":"(redacted)","n":3}}])x"));
}

TEST(Tar, blocks_are_whole_and_names_are_bounded) {
  TarWriter archive(1'700'000'000);
  ASSERT_TRUE(archive.add("a/b.json", std::string(513, 'x')));
  ASSERT_TRUE(archive.add(std::string(99, 'n'), ""));
  EXPECT_FALSE(archive.add(std::string(100, 'n'), ""));
  EXPECT_FALSE(archive.add("", ""));
  EXPECT_FALSE(archive.add(std::string(155, 'd') + "/x", ""));
  ASSERT_TRUE(archive.add(std::string(154, 'd') + "/x", ""));
  const std::string bytes = archive.finish();
  EXPECT_EQ(bytes.size(), 512u * (1 + 2 + 1 + 1 + 2));
  EXPECT_EQ(bytes.substr(257, 5), "ustar");
  EXPECT_EQ(bytes.substr(124, 11), "00000001001");
}

}  // namespace
}  // namespace diskengine::control
