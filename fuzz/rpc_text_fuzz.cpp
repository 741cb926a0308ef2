// What an RPC client may send: any bytes are cut into values, read as requests and checked against the schema without
// harm, and whatever passes the check is still what the schema promises when it is checked again.
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "base/assert.h"
#include "rpc/message.h"
#include "rpc/schema.h"

namespace {

using namespace diskengine::rpc;

void check(boost::json::value&& message) {
  auto read = read_request(std::move(message));
  if (BadRequest* bad = std::get_if<BadRequest>(&read)) {
    boost::json::serialize(make_answer(std::move(bad->id), bad->fault));
    return;
  }
  Request& request = std::get<Request>(read);
  const MethodInfo* method = find_method_info(request.method);
  if (method == nullptr || !request.params.is_object()) return;
  boost::json::object params = std::move(request.params.get_object());
  if (auto fault = check_params(*method, params)) {
    boost::json::serialize(make_answer(std::move(request.id), *fault));
    return;
  }
  const boost::json::object once = params;
  DE_ASSERT(!check_params(*method, params) && params == once);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  MessageReader reader;
  // Half at first, so that values are cut apart.
  for (std::string_view bytes : {text.substr(0, size / 2), text.substr(size / 2)}) {
    while (!bytes.empty()) {
      auto next = reader.next(bytes);
      if (std::holds_alternative<Fault>(next)) return 0;
      auto& value = std::get<0>(next);
      if (!value) continue;
      if (boost::json::array* batch = value->if_array()) {
        for (boost::json::value& request : *batch) check(std::move(request));
      } else {
        check(std::move(*value));
      }
    }
  }
  return 0;
}
