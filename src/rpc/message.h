// The text of JSON-RPC 2.0: complete JSON values cut out of a byte stream, requests read from values, answers written.
// What arrives is hostile: size and depth are bounded and every mistake has an answer. Owned by one thread each.
//
//   Input object: bytes of a stream. Output object: Request or the answer to a wrong one.
#pragma once

#include <boost/json/stream_parser.hpp>
#include <boost/json/value.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "rpc/method.h"

namespace diskengine::rpc {

inline constexpr size_t kRequestBytesMax = 1024 * 1024;  // one JSON value: a request or a batch
inline constexpr size_t kRequestDepthMax = 32;           // nested arrays and objects

// Cuts a stream into JSON values. Values may follow each other without anything in between.
class MessageReader {
 public:
  MessageReader();

  // Takes bytes off the front of `bytes`, up to the end of a value or all of them. Returns the value that was
  // completed, or nullopt if more bytes are needed. After a Fault the stream cannot be read on: there is no telling
  // where the next value begins.
  std::variant<std::optional<boost::json::value>, Fault> next(std::string_view& bytes);
  // Bytes of an unfinished value were taken.
  bool inside_value() const noexcept { return taken_ > 0; }

 private:
  boost::json::stream_parser parser_;
  size_t taken_ = 0;  // bytes of the value under way
};

struct Request {
  boost::json::value id;  // null for a notification: no answer is wanted
  std::string method;
  boost::json::value params;  // null if there are none
};

// A wrong request, with the id to answer to (null if it has no legal one).
struct BadRequest {
  boost::json::value id;
  Fault fault;
};

std::variant<Request, BadRequest> read_request(boost::json::value&& value);
// The answer object.
boost::json::value make_answer(boost::json::value id, Reply&& reply);

}  // namespace diskengine::rpc
