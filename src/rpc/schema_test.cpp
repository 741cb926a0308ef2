#include "rpc/schema.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "rpc/params.h"

namespace diskengine::rpc {
namespace {

namespace json = boost::json;

Param param(std::string_view name, Type type, bool required = false) {
  return {.name = name,
          .type = type,
          .required = required,
          .is_signed = false,
          .closed = false,
          .min = 0,
          .max = type == Type::integer ? UINT64_MAX : 16,
          .allowed = {},
          .children = {},
          .default_json = {}};
}

Param ranged(std::string_view name, int64_t min, uint64_t max, bool is_signed = false) {
  Param made = param(name, Type::integer);
  made.min = min;
  made.max = max;
  made.is_signed = is_signed;
  return made;
}

// The message for `text` checked against `known`, or what the parameters became.
std::string checked(std::span<const Param> known, std::string_view text) {
  json::object params = json::parse(json::string_view(text.data(), text.size())).as_object();
  if (auto fault = check_params("m", known, params)) {
    EXPECT_EQ(fault->code, kInvalidParams);
    return fault->message;
  }
  return json::serialize(params);
}

TEST(Schema, AMissingParameterIsNamedWithWhatItMustBe) {
  const Param known[] = {param("size", Type::integer, true)};
  EXPECT_EQ(checked(known, "{}"),
            "Invalid parameters: m: parameter 'size' is missing: it must be an integer of at least 0 in 64 bits");
}

TEST(Schema, AnUnknownParameterIsRefusedAndTheKnownOnesListed) {
  const Param known[] = {param("a", Type::boolean), param("b", Type::string)};
  EXPECT_EQ(checked(known, R"({"c":1})"), "Invalid parameters: m: unknown parameter \"c\": known are a, b");
  EXPECT_EQ(checked({}, R"({"c":1})"), "Invalid parameters: m: unknown parameter \"c\": none is taken");
}

TEST(Schema, DefaultsAreFilledInAndOptionalOnesStayAway) {
  Param with_default = param("n", Type::integer);
  with_default.default_json = "7";
  const Param known[] = {with_default, param("s", Type::string)};
  EXPECT_EQ(checked(known, "{}"), R"({"n":7})");
  EXPECT_EQ(checked(known, R"({"n":8,"s":"x"})"), R"({"n":8,"s":"x"})");
}

TEST(Schema, IntegersKeepTheirWidthAndSign) {
  const Param known[] = {ranged("u", 1, 10), ranged("i", -5, 5, true), ranged("w", 0, UINT64_MAX)};
  EXPECT_EQ(checked(known, R"({"u":10,"i":-5,"w":18446744073709551615})"),
            R"({"u":10,"i":-5,"w":18446744073709551615})");
  EXPECT_EQ(checked(known, R"({"u":1e1,"i":2.0})"), R"({"u":10,"i":2})");
  for (const char* wrong :
       {R"({"u":0})", R"({"u":11})", R"({"u":-1})", R"({"u":1.5})", R"({"u":"1"})", R"({"u":null})", R"({"u":true})",
        R"({"i":-6})", R"({"i":6})", R"({"w":18446744073709551616})", R"({"w":-1})", R"({"w":1e300})", R"({"i":1e18})"})
    EXPECT_TRUE(checked(known, wrong).starts_with("Invalid parameters: m: parameter '")) << wrong;
  json::object params{{"u", 3}, {"i", 3}};
  ASSERT_FALSE(check_params("m", known, params));
  EXPECT_EQ(uint_param(params, "u"), 3u);
  EXPECT_EQ(int_param(params, "i"), 3);
}

TEST(Schema, OnlyListedValuesOfAnEnumPass) {
  constexpr std::string_view kSizes[] = {"512", "4096"};
  constexpr std::string_view kModes[] = {"all", "none"};
  Param size = param("size", Type::integer);
  size.allowed = kSizes;
  Param mode = param("mode", Type::string);
  mode.allowed = kModes;
  const Param known[] = {size, mode};
  EXPECT_EQ(checked(known, R"({"size":512,"mode":"all"})"), R"({"size":512,"mode":"all"})");
  EXPECT_EQ(checked(known, R"({"size":513})"),
            "Invalid parameters: m: parameter 'size' is 513: it must be one of 512, 4096");
  EXPECT_EQ(checked(known, R"({"mode":"some"})"),
            "Invalid parameters: m: parameter 'mode' is \"some\": it must be one of all, none");
}

TEST(Schema, StringsAndArraysHaveBoundedLengths) {
  const Param item[] = {param("", Type::string)};
  Param list = param("list", Type::array);
  list.children = item;
  list.min = 1;
  list.max = 2;
  const Param known[] = {list, param("s", Type::string)};
  EXPECT_EQ(checked(known, R"({"list":["a","b"],"s":"0123456789abcdef"})"),
            R"({"list":["a","b"],"s":"0123456789abcdef"})");
  EXPECT_EQ(checked(known, R"({"list":[]})"),
            "Invalid parameters: m: parameter 'list' is an array: it must be an array of 1 to 2 items");
  EXPECT_NE(checked(known, R"({"list":["a","b","c"]})").find("1 to 2 items"), std::string::npos);
  EXPECT_NE(checked(known, R"({"list":["a",1]})").find("'list[1]' is 1: it must be a string"), std::string::npos);
  EXPECT_NE(checked(known, R"({"s":"0123456789abcdefg"})").find("of 0 to 16 bytes"), std::string::npos);
}

TEST(Schema, FieldsOfObjectsAreCheckedLikeParameters) {
  const Param fields[] = {param("traddr", Type::string, true), param("port", Type::integer)};
  Param address = param("address", Type::object);
  address.children = fields;
  address.closed = true;
  const Param known[] = {address, param("free", Type::object)};
  EXPECT_EQ(checked(known, R"({"address":{"traddr":"x"},"free":{"any":[]}})"),
            R"({"address":{"traddr":"x"},"free":{"any":[]}})");
  EXPECT_NE(checked(known, R"({"address":{}})").find("'address.traddr' is missing"), std::string::npos);
  EXPECT_NE(checked(known, R"({"address":{"traddr":"x","y":1}})").find("\"address.y\""), std::string::npos);
  EXPECT_NE(checked(known, R"({"address":3})").find("it must be an object"), std::string::npos);
}

TEST(Schema, AMessageNeverRepeatsALongValueOrCutsACharacterInTwo) {
  const Param known[] = {param("b", Type::boolean)};
  std::string text = R"({"b":")";
  for (int i = 0; i < 1000; ++i) text += "\xc3\xa4";  // two bytes each
  const std::string message = checked(known, text + "\"}");
  EXPECT_LT(message.size(), 200u);
  EXPECT_NO_THROW(json::parse(json::serialize(json::value(message))));
}

TEST(Schema, UuidsAreParsed) {
  const Param known[] = {param("uuid", Type::uuid)};
  EXPECT_NE(checked(known, R"({"uuid":"no"})").find("it must be a UUID"), std::string::npos);
  json::object params{{"uuid", "00112233-4455-6677-8899-aabbccddeeff"}};
  ASSERT_FALSE(check_params("m", known, params));
  EXPECT_EQ(uuid_param(params, "uuid")->bytes[15], 0xff);
}

TEST(Schema, TheTableIsSortedSoThatEveryMethodIsFound) {
  EXPECT_FALSE(method_infos().empty());
  EXPECT_TRUE(std::ranges::is_sorted(method_infos(), {}, &MethodInfo::name));
  for (const MethodInfo& method : method_infos()) EXPECT_EQ(find_method_info(method.name), &method);
  EXPECT_EQ(find_method_info("no_such_method"), nullptr);
  EXPECT_EQ(find_method_info(""), nullptr);
}

}  // namespace
}  // namespace diskengine::rpc
