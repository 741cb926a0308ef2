#include "control/api/decode.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <vector>

#include "control/api/recovery.h"
#include "control/naming.h"
#include "control/sizes.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

constexpr size_t kMaxNameChars = 63;
constexpr size_t kMaxPathChars = 4096;
constexpr size_t kMaxSocketPathChars = 107;  // sockaddr_un

Error invalid(std::string message) { return Error(Errc::invalid_argument, std::move(message)); }

// A JSON object of which each member is asked for by name; one that nobody asked for is an error.
class Members {
 public:
  static Result<Members> parse(const std::string& body) {
    boost::system::error_code error;
    json::value value = json::parse(body, error);
    if (error) return invalid("the request body is not JSON: " + error.message());
    if (!value.is_object()) return invalid("the request body is not a JSON object");
    return Members(std::move(value.get_object()));
  }

  Result<std::string> text(std::string_view name, std::string fallback = {}) {
    seen_.emplace_back(name);
    const json::value* value = object_.if_contains(name);
    if (value == nullptr) return fallback;
    if (!value->is_string()) return invalid(fmt::format("'{}' must be a string", name));
    return std::string(value->get_string());
  }

  Result<int64_t> integer(std::string_view name, int64_t fallback) {
    seen_.emplace_back(name);
    const json::value* value = object_.if_contains(name);
    if (value == nullptr) return fallback;
    if (!value->is_int64()) return invalid(fmt::format("'{}' must be a whole number", name));
    return value->get_int64();
  }

  // nullopt when it is not given.
  Result<std::optional<bool>> boolean(std::string_view name) {
    seen_.emplace_back(name);
    const json::value* value = object_.if_contains(name);
    if (value == nullptr) return std::optional<bool>();
    if (!value->is_bool()) return invalid(fmt::format("'{}' must be true or false", name));
    return std::optional<bool>(value->get_bool());
  }

  Result<void> check_all_known() const {
    for (const auto& member : object_)
      if (std::find(seen_.begin(), seen_.end(), std::string_view(member.key())) == seen_.end())
        return invalid(fmt::format("'{}' is not known here", std::string_view(member.key())));
    return {};
  }

 private:
  explicit Members(json::object object) : object_(std::move(object)) {}
  json::object object_;
  std::vector<std::string> seen_;
};

Result<void> check_path(std::string_view what, const std::string& path, size_t max_chars) {
  if (!path.starts_with('/')) return invalid(fmt::format("{} '{}' must be an absolute path", what, path));
  if (path.size() > max_chars) return invalid(fmt::format("{} is longer than {} characters", what, max_chars));
  if (path.find('\0') != std::string::npos) return invalid(fmt::format("{} holds a NUL character", what));
  return {};
}

Result<void> check_block_size(int64_t bytes) {
  if (bytes != 512 && bytes != 4096) return invalid(fmt::format("the block size must be 512 or 4096, not {}", bytes));
  return {};
}

}  // namespace

Result<void> check_name(std::string_view what, std::string_view name) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto is_allowed = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  if (name.empty() || name.size() > kMaxNameChars || !is_letter(name.front()) ||
      !std::all_of(name.begin(), name.end(), is_allowed))
    return invalid(
        fmt::format("{} name '{}' must start with a letter and have 1 to {} letters, digits, '.', '_' or '-'", what,
                    name, kMaxNameChars));
  return {};
}

Result<void> parse_address(std::string_view text, Node* node) {
  const Error bad =
      invalid(fmt::format("address '{}' must be IP:PORT, for example 10.0.0.1:4420 or [fd00::1]:4420", text));
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad;
  std::string host(text.substr(0, colon));
  const bool is_bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (is_bracketed) host = host.substr(1, host.size() - 2);
  unsigned char scratch[sizeof(in6_addr)];
  if (::inet_pton(is_bracketed ? AF_INET6 : AF_INET, host.c_str(), scratch) != 1) return bad;
  const std::string_view port_text = text.substr(colon + 1);
  int64_t port = 0;
  const auto [stop, error] = std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (error != std::errc() || stop != port_text.data() + port_text.size() || port < 1 || port > 65535) return bad;
  node->address = host;
  node->port = port;
  return {};
}

Result<void> check_node(const Node& node) {
  TRY(check_name("node", node.name));
  TRY(check_path("the data plane's RPC socket", node.rpc_socket, kMaxSocketPathChars));
  if (node.role == kRoleStorage) {
    if (node.address.empty())
      return invalid(fmt::format("storage node {} needs the address its exports listen on, IP:PORT", node.name));
  } else if (node.role == kRoleCompute) {
    TRY(check_path("the vhost socket directory", node.vhost_dir, kMaxSocketPathChars - 24));
  } else {
    return invalid(
        fmt::format("role '{}' of node {} must be {} or {}", node.role, node.name, kRoleStorage, kRoleCompute));
  }
  return {};
}

Result<Node> decode_node(const std::string& body) {
  TRY_ASSIGN(Members members, Members::parse(body));
  Node node;
  TRY_ASSIGN(node.name, members.text("name"));
  TRY_ASSIGN(node.role, members.text("role"));
  TRY_ASSIGN(node.rpc_socket, members.text("data_plane"));
  TRY_ASSIGN(const std::string address, members.text("address"));
  TRY_ASSIGN(node.vhost_dir, members.text("vhost_dir"));
  TRY(members.check_all_known());
  if (!address.empty()) TRY(parse_address(address, &node));
  TRY(check_node(node));
  return node;
}

Result<DiskRequest> decode_disk(const std::string& body) {
  TRY_ASSIGN(Members members, Members::parse(body));
  DiskRequest request;
  TRY_ASSIGN(request.node, members.text("node"));
  TRY_ASSIGN(request.path, members.text("path"));
  TRY_ASSIGN(request.block_size, members.integer("block_size", 512));
  TRY_ASSIGN(const std::optional<bool> overwrite, members.boolean("overwrite"));
  request.overwrite = overwrite.value_or(false);
  TRY(members.check_all_known());
  if (!is_pci_disk(request.path)) TRY(check_path("the disk's path", request.path, kMaxPathChars));
  TRY(check_block_size(request.block_size));
  return request;
}

Result<VolumeRequest> decode_volume(const std::string& body) {
  TRY_ASSIGN(Members members, Members::parse(body));
  VolumeRequest request;
  TRY_ASSIGN(request.name, members.text("name"));
  TRY_ASSIGN(request.size_bytes, members.integer("size_bytes", 0));
  TRY_ASSIGN(request.block_size, members.integer("block_size", 512));
  TRY_ASSIGN(request.replicas, members.integer("replicas", kMinReplicas));
  TRY_ASSIGN(request.superblock, members.boolean("superblock"));
  TRY(members.check_all_known());
  TRY(check_name("volume", request.name));
  if (request.size_bytes < kMinVolumeBytes || request.size_bytes > kMaxVolumeBytes)
    return Error(Errc::out_of_range,
                 fmt::format("the size of volume {} must be {} to {}, not {} bytes", request.name,
                             format_size(kMinVolumeBytes), format_size(kMaxVolumeBytes), request.size_bytes));
  if (request.size_bytes % kVolumeGranularityBytes != 0)
    return invalid(
        fmt::format("the size of volume {} must be a multiple of {}, the unit of space on a disk; not {} bytes",
                    request.name, format_size(kVolumeGranularityBytes), request.size_bytes));
  TRY(check_block_size(request.block_size));
  if (request.replicas < kMinReplicas || request.replicas > kMaxReplicas)
    return invalid(fmt::format("a volume has {} to {} replicas, not {}", kMinReplicas, kMaxReplicas, request.replicas));
  return request;
}

Result<std::string> decode_move(const std::string& body) {
  TRY_ASSIGN(Members members, Members::parse(body));
  TRY_ASSIGN(std::string node, members.text("node"));
  TRY(members.check_all_known());
  if (node.empty()) return invalid("'node' names the compute node that the attachment is to move to");
  return node;
}

Result<RecoveryRequest> decode_recovery(const std::string& body) {
  TRY_ASSIGN(Members members, Members::parse(body));
  RecoveryRequest request;
  TRY_ASSIGN(request.replica_id, members.integer("replica", 0));
  TRY_ASSIGN(const std::optional<bool> accepted, members.boolean("accept_data_loss"));
  TRY(members.check_all_known());
  request.accept_data_loss = accepted.value_or(false);
  return request;
}

Result<AttachmentRequest> decode_attachment(const std::string& body) {
  TRY_ASSIGN(Members members, Members::parse(body));
  AttachmentRequest request;
  TRY_ASSIGN(request.volume, members.text("volume"));
  TRY_ASSIGN(request.node, members.text("node"));
  TRY(members.check_all_known());
  if (request.volume.empty()) return invalid("'volume' must name the volume to attach");
  return request;
}

}  // namespace diskengine::control
