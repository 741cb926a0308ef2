#include "rpc/message.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <string>
#include <vector>

#include "runtime/random.h"

namespace diskengine::rpc {
namespace {

namespace json = boost::json;

struct Read {
  std::vector<std::string> values;
  std::string fault;
};

// Everything in `text`, handed over in pieces of `piece` bytes.
Read read_all(std::string_view text, size_t piece) {
  MessageReader reader;
  Read read;
  while (!text.empty() && read.fault.empty()) {
    std::string_view bytes = text.substr(0, piece);
    text.remove_prefix(bytes.size());
    while (!bytes.empty() && read.fault.empty()) {
      auto next = reader.next(bytes);
      if (const Fault* fault = std::get_if<Fault>(&next)) {
        EXPECT_EQ(fault->code, kParseError);
        read.fault = fault->message;
      } else if (std::get<0>(next)) {
        read.values.push_back(json::serialize(*std::get<0>(next)));
      }
    }
  }
  return read;
}

TEST(MessageReader, ValuesNeedNothingBetweenThemAndMayArriveInAnyPieces) {
  const std::string text = "{\"a\":1}{\"b\":[2,3]}\n\n [4] {\"c\":\"}{\"}";
  const std::vector<std::string> expected = {R"({"a":1})", R"({"b":[2,3]})", "[4]", R"({"c":"}{"})"};
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    const Read read = read_all(text, piece);
    EXPECT_EQ(read.values, expected) << "pieces of " << piece;
    EXPECT_EQ(read.fault, "");
  }
}

TEST(MessageReader, TextThatIsNotJsonEndsTheStreamWithItsPlace) {
  const Read read = read_all(R"({"a":1}{"b":})", 100);
  EXPECT_EQ(read.values.size(), 1u);
  EXPECT_NE(read.fault.find("at byte 5 of the request"), std::string::npos) << read.fault;
  EXPECT_NE(read_all("\x01", 1).fault, "");
  EXPECT_NE(read_all("{\"a\":\"\xff\"}", 1).fault, "");
}

TEST(MessageReader, DepthAndSizeAreBounded) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(read_all(nested(kRequestDepthMax), 64).fault, "");
  EXPECT_NE(read_all(nested(kRequestDepthMax + 1), 64).fault, "");
  const std::string fits = "\"" + std::string(kRequestBytesMax - 2, 'x') + "\"";
  EXPECT_EQ(read_all(fits, 65536).values.size(), 1u);
  const std::string too_long = "\"" + std::string(kRequestBytesMax - 1, 'x') + "\"";
  EXPECT_NE(read_all(too_long, 65536).fault.find("longer than"), std::string::npos);
}

TEST(MessageReader, AnyMutilationOfARequestIsReadOrRefusedAlikeInPiecesAndAtOnce) {
  const uint64_t seed = Random::from_system().next();
  Random random(seed);
  const std::string good =
      R"({"jsonrpc":"2.0","id":7,"method":"bdev_get_bdevs","params":{"name":"M","timeout":1.5e3}})";
  for (int round = 0; round < 2000; ++round) {
    std::string text = good;
    for (uint64_t change = random.below(4) + 1; change > 0; --change)
      text[random.below(text.size())] = static_cast<char>(random.below(256));
    const Read whole = read_all(text, text.size());
    const Read pieces = read_all(text, random.below(7) + 1);
    ASSERT_EQ(whole.values, pieces.values) << "seed " << seed << ", round " << round;
    ASSERT_EQ(whole.fault.empty(), pieces.fault.empty()) << "seed " << seed << ", round " << round;
  }
}

// The id of the answer and its message, or "ok METHOD".
std::string outcome(std::string_view text) {
  MessageReader reader;
  auto next = reader.next(text);
  auto request = read_request(std::move(*std::get<0>(next)));
  if (const Request* good = std::get_if<Request>(&request)) return "ok " + good->method;
  const BadRequest& bad = std::get<BadRequest>(request);
  EXPECT_EQ(bad.fault.code, kInvalidRequest);
  return json::serialize(bad.id) + " " + bad.fault.message;
}

TEST(Request, EveryLegalFormIsTaken) {
  for (const char* text :
       {R"({"jsonrpc":"2.0","id":1,"method":"m"})", R"({"method":"m"})", R"({"id":"x","method":"m","params":{}})",
        R"({"id":1.5,"method":"m","params":null})", R"({"id":null,"method":"m","params":[]})"})
    EXPECT_EQ(outcome(text), "ok m") << text;
}

TEST(Request, WhatIsNoRequestIsRefusedUnderItsId) {
  EXPECT_EQ(outcome("[]"), "null Invalid request: it is not an object");
  EXPECT_EQ(outcome("{}"), "null Invalid request: 'method' must be there and be a string");
  EXPECT_EQ(outcome(R"({"id":3,"method":4})"), "3 Invalid request: 'method' must be there and be a string");
  EXPECT_EQ(outcome(R"({"id":3,"method":"m","jsonrpc":"1.0"})"), "3 Invalid request: 'jsonrpc' must be \"2.0\"");
  EXPECT_EQ(outcome(R"({"id":[],"method":"m"})"), "null Invalid request: 'id' must be a string, a number or null");
  EXPECT_EQ(outcome(R"({"id":3,"method":"m","params":5})"), "3 Invalid request: 'params' must be an object");
  EXPECT_EQ(outcome(R"({"id":3,"method":"m","param":{}})"),
            "3 Invalid request: it has members other than 'jsonrpc', 'id', 'method' and 'params'");
}

TEST(Answer, HasTheIdAndEitherAResultOrAnError) {
  EXPECT_EQ(json::serialize(make_answer("x", Reply(json::value(true)))), R"({"jsonrpc":"2.0","id":"x","result":true})");
  EXPECT_EQ(json::serialize(make_answer(2, Reply(Error(Errc::no_device, "gone")))),
            R"({"jsonrpc":"2.0","id":2,"error":{"code":-19,"message":"gone"}})");
}

}  // namespace
}  // namespace diskengine::rpc
