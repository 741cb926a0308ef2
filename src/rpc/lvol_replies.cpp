#include "rpc/lvol_replies.h"

#include <fmt/format.h>

#include <cstring>

#include "rpc/params.h"

namespace diskengine::rpc {

std::string lvol_message(const Error& error) {
  return fmt::format("{}: {}", strerrordesc_np(errno_of(error.code())), error.message());
}

Fault lvol_fault(const Error& error) { return lvol_fault(error, -errno_of(error.code())); }

Fault lvol_fault(const Error& error, int code) { return {code, lvol_message(error)}; }

Reply lvol_done(const Result<void>& outcome) {
  if (!outcome) return lvol_fault(outcome.error(), kInvalidParams);
  return boost::json::value(true);
}

Result<lvol::StoreInfo> named_store(const lvol::LvolManager& manager, const boost::json::object& params,
                                    std::string_view uuid_key) {
  if (has(params, uuid_key) == has(params, "lvs_name"))
    return Error(Errc::invalid_argument, fmt::format("exactly one of '{}' and 'lvs_name' names the store", uuid_key));
  const std::string_view key = has(params, "lvs_name") ? "lvs_name" : uuid_key;
  const std::string name = text_param(params, key);
  // A name that looks like a UUID is no UUID, and the other way round.
  for (lvol::StoreInfo& store : manager.stores()) {
    const std::string own = key == uuid_key ? store.uuid.to_string() : store.name;
    if (own == name) return std::move(store);
  }
  return Error(Errc::no_device, fmt::format("there is no lvol store '{}'", name));
}

lvol::ClearMethod clear_method_of(const boost::json::object& params) {
  const std::string method = text_param(params, "clear_method");
  if (method == "none") return lvol::ClearMethod::none;
  if (method == "unmap") return lvol::ClearMethod::unmap;
  if (method == "write_zeroes") return lvol::ClearMethod::write_zeroes;
  return lvol::ClearMethod::by_default;
}

}  // namespace diskengine::rpc
