#include "control/api/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>

#include "base/log.h"
#include "control/api/decode.h"
#include "control/api/encode.h"
#include "control/api/recovery.h"
#include "control/naming.h"
#include "control/placement.h"
#include "control/sizes.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxListed = 10'000;
constexpr int64_t kDefaultListed = 100;

int http_status_of(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::out_of_range:
      return 400;
    case Errc::not_found:
    case Errc::no_device:
      return 404;
    case Errc::not_supported:
      return 405;
    case Errc::already_exists:
    case Errc::conflict:
    case Errc::busy:
      return 409;
    case Errc::no_space:
      return 507;
    case Errc::unreachable:
    case Errc::would_block:
      return 503;
    default:
      return 500;
  }
}

struct Reply {
  int status = 200;
  json::value body;
};

// One request being answered.
struct Call {
  Store& store;
  const ApiRequest& request;
  bool changed = false;

  bool dry_run() const {
    const auto found = request.query.find("dry_run");
    return found != request.query.end() && found->second == "true";
  }
  Reply would(std::vector<std::string> steps) const {
    return {200, {{"dry_run", true}, {"would", json::array(steps.begin(), steps.end())}}};
  }
};

template <typename Row>
json::array encode_all(const Graph& graph, const std::vector<Row>& rows) {
  json::array list;
  for (const Row& row : rows) list.push_back(encode(graph, row));
  return list;
}

Result<int64_t> limit_of(const ApiRequest& request) {
  const auto found = request.query.find("limit");
  if (found == request.query.end()) return kDefaultListed;
  int64_t limit = 0;
  const char* end = found->second.data() + found->second.size();
  const auto [stop, error] = std::from_chars(found->second.data(), end, limit);
  if (error != std::errc() || stop != end || limit < 1 || limit > kMaxListed)
    return Error(Errc::invalid_argument, fmt::format("limit must be 1 to {}, not '{}'", kMaxListed, found->second));
  return limit;
}

Error no_such(std::string_view what, std::string_view name) {
  return Error(Errc::not_found, fmt::format("there is no {} '{}'; see `diskengine {} list`", what, name, what));
}

Result<const VolumeVmMapping*> find_attachment(const Graph& graph, const std::string& text) {
  int64_t id = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, id);
  const VolumeVmMapping* found = error == std::errc() && stop == end ? graph.attachment(id) : nullptr;
  if (found == nullptr) {
    // A volume has at most one attachment, so its name will do.
    const Volume* volume = error != std::errc() ? graph.volume_named(text) : nullptr;
    if (volume != nullptr) found = graph.attachment_of(volume->id);
  }
  if (found == nullptr) return no_such("attachment", text);
  return found;
}

Result<Reply> get_status(Call& call) {
  TRY_ASSIGN(const Graph graph, call.store.load_graph());
  return Reply{200,
               {{"nodes", encode_all(graph, graph.nodes)},
                {"disks", encode_all(graph, graph.disks)},
                {"volumes", encode_all(graph, graph.volumes)},
                {"replicas", encode_all(graph, graph.replicas)},
                {"attachments", encode_all(graph, graph.attachments)}}};
}

Result<Reply> post_node(Call& call) {
  TRY_ASSIGN(const Node node, decode_node(call.request.body));
  if (call.dry_run()) return call.would({fmt::format("record node {} with role {}", node.name, node.role)});
  TRY_ASSIGN(const int64_t id, call.store.put_node(node));
  call.changed = true;
  TRY_ASSIGN(const Graph graph, call.store.load_graph());
  return Reply{201, encode(graph, *graph.node(id))};
}

Result<Reply> post_disk(Call& call) {
  TRY_ASSIGN(const DiskRequest request, decode_disk(call.request.body));
  TRY_ASSIGN(Graph graph, call.store.load_graph());
  const Node* node = graph.node_named(request.node);
  if (node == nullptr) return no_such("node", request.node);
  if (node->role != kRoleStorage)
    return Error(Errc::invalid_argument, fmt::format("node {} has role {}; disks belong to nodes of role {}",
                                                     node->name, node->role, kRoleStorage));
  Disk disk;
  disk.node_id = node->id;
  disk.path = request.path;
  disk.block_size = request.block_size;
  if (call.dry_run())
    return call.would({fmt::format("record {} as a disk of node {}", disk.path, node->name),
                       request.overwrite ? "make an lvol store on it, which overwrites what it holds"
                                         : "make an lvol store on it, unless it holds something"});
  TRY_ASSIGN(const int64_t id, call.store.add_disk(disk, request.overwrite));
  call.changed = true;
  TRY_ASSIGN(graph, call.store.load_graph());
  return Reply{201, encode(graph, *graph.disk(id))};
}

// No compute node is known to have a data plane that cannot use volumes with superblocks.
bool can_all_assemble(const Graph& graph) {
  return std::all_of(graph.nodes.begin(), graph.nodes.end(),
                     [](const Node& node) { return node.role != kRoleCompute || node.seen_ms == 0 || node.assembles; });
}

Result<Reply> post_volume(Call& call) {
  TRY_ASSIGN(const VolumeRequest request, decode_volume(call.request.body));
  TRY_ASSIGN(Graph graph, call.store.load_graph());
  if (graph.volume_named(request.name) != nullptr)
    return Error(Errc::already_exists,
                 fmt::format("volume {} exists; choose another name, or look at it with `diskengine volume show {}`",
                             request.name, request.name));
  const bool superblock = request.superblock.value_or(can_all_assemble(graph));
  TRY_ASSIGN(const std::vector<int64_t> disks,
             place_replicas(graph, {.size_bytes = request.size_bytes + (superblock ? kSuperblockRoomBytes : 0),
                                    .block_size = request.block_size,
                                    .replicas = request.replicas}));
  if (call.dry_run()) {
    std::vector<std::string> steps = {fmt::format("record volume {} of {}, {} superblocks", request.name,
                                                  format_size(request.size_bytes), superblock ? "with" : "without")};
    for (const int64_t disk : disks)
      steps.push_back(fmt::format("make a replica on node {}, disk {}, and export it",
                                  graph.node(graph.disk(disk)->node_id)->name, disk));
    return call.would(std::move(steps));
  }
  TRY_ASSIGN(const int64_t id, call.store.create_volume({.name = request.name,
                                                         .size_bytes = request.size_bytes,
                                                         .block_size = request.block_size,
                                                         .superblock = superblock,
                                                         .disk_ids = disks}));
  call.changed = true;
  TRY_ASSIGN(graph, call.store.load_graph());
  return Reply{201, encode(graph, *graph.volume(id))};
}

Result<const Node*> choose_compute_node(const Graph& graph, const std::string& name) {
  if (!name.empty()) {
    const Node* node = graph.node_named(name);
    if (node == nullptr) return no_such("node", name);
    if (node->role != kRoleCompute)
      return Error(Errc::invalid_argument, fmt::format("node {} has role {}; volumes are attached on nodes of role {}",
                                                       node->name, node->role, kRoleCompute));
    return node;
  }
  const Node* only = nullptr;
  for (const Node& node : graph.nodes) {
    if (node.role != kRoleCompute) continue;
    if (only != nullptr)
      return Error(Errc::invalid_argument, "there are several compute nodes; choose one with --node");
    only = &node;
  }
  if (only == nullptr)
    return Error(Errc::not_found,
                 fmt::format("there is no node of role {}; add one with `diskengine node add`", kRoleCompute));
  return only;
}

// Whether a volume can be used there.
Result<void> check_can_use(const Volume& volume, const Node& node) {
  if (!volume.superblock || node.seen_ms == 0 || node.assembles) return {};
  return Error(Errc::conflict,
               fmt::format("volume {} has superblocks, and the data plane of node {} has no diskengine_raid_assemble: "
                           "attach it on a node with diskengine-io",
                           volume.name, node.name));
}

Result<Reply> post_attachment(Call& call) {
  TRY_ASSIGN(const AttachmentRequest request, decode_attachment(call.request.body));
  TRY_ASSIGN(Graph graph, call.store.load_graph());
  const Volume* volume = graph.volume_named(request.volume);
  if (volume == nullptr) return no_such("volume", request.volume);
  TRY_ASSIGN(const Node* const node, choose_compute_node(graph, request.node));
  if (!volume->wanted) return Error(Errc::conflict, fmt::format("volume {} is being deleted", volume->name));
  TRY(check_can_use(*volume, *node));
  if (const VolumeVmMapping* existing = graph.attachment_of(volume->id))
    return Error(
        Errc::conflict,
        fmt::format("volume {} is attached on node {} as attachment {}; delete that first: `diskengine attachment "
                    "delete {}`",
                    volume->name, graph.node(existing->node_id)->name, existing->id, existing->id));
  if (call.dry_run())
    return call.would({fmt::format("admit node {} on each export of volume {} (epoch {})", node->name, volume->name,
                                   volume->epoch + 1),
                       fmt::format("connect its {} replicas", graph.replicas_of(volume->id).size()),
                       "mirror them as " + raid_bdev_name(volume->id),
                       fmt::format("offer it to a VM as a vhost-user-blk socket in {}", node->vhost_dir)});
  TRY_ASSIGN(const int64_t id, call.store.create_attachment(
                                   {.volume_id = volume->id, .node_id = node->id, .expected_epoch = volume->epoch}));
  call.changed = true;
  TRY_ASSIGN(graph, call.store.load_graph());
  return Reply{201, encode(graph, *graph.attachment(id))};
}

Result<Reply> get_volume(Call& call, const std::string& name) {
  TRY_ASSIGN(const Graph graph, call.store.load_graph());
  const Volume* volume = graph.volume_named(name);
  if (volume == nullptr) return no_such("volume", name);
  return Reply{200, encode(graph, *volume)};
}

Result<Reply> delete_volume(Call& call, const std::string& name) {
  TRY_ASSIGN(const Graph graph, call.store.load_graph());
  const Volume* volume = graph.volume_named(name);
  if (volume == nullptr) return no_such("volume", name);
  if (const VolumeVmMapping* attachment = graph.attachment_of(volume->id))
    return Error(Errc::conflict, fmt::format("volume {} is attached as attachment {}; delete that first: `diskengine "
                                             "attachment delete {}`",
                                             volume->name, attachment->id, attachment->id));
  if (call.dry_run()) {
    std::vector<std::string> steps;
    for (const VolumeLvolMapping* replica : graph.replicas_of(volume->id))
      steps.push_back(fmt::format("withdraw the export of replica {} on node {} and delete its data", replica->id,
                                  graph.node_of(*replica)->name));
    return call.would(std::move(steps));
  }
  TRY(call.store.request_delete_volume(volume->id));
  call.changed = true;
  return Reply{202, {{"deleting", volume->name}}};
}

Result<Reply> recover_volume(Call& call, const std::string& name) {
  TRY_ASSIGN(const RecoveryRequest request, decode_recovery(call.request.body));
  TRY_ASSIGN(Graph graph, call.store.load_graph());
  const Volume* volume = graph.volume_named(name);
  if (volume == nullptr) return no_such("volume", name);
  TRY_ASSIGN(const int64_t now_ms, call.store.unix_ms());
  TRY_ASSIGN(const RecoveryPlan plan, plan_recovery(graph, *volume, request, now_ms));
  if (call.dry_run()) return call.would(plan.steps);
  if (!request.accept_data_loss)
    return Error(Errc::conflict,
                 fmt::format("{}; say --accept-data-loss if that is what you want", fmt::join(plan.steps, "; ")));
  TRY(call.store.recover_volume(plan.recovery));
  call.changed = true;
  TRY_ASSIGN(graph, call.store.load_graph());
  json::object answer = encode(graph, *graph.volume(plan.recovery.volume_id));
  answer["recovery"] = json::array(plan.steps.begin(), plan.steps.end());
  return Reply{200, answer};
}

Result<Reply> get_attachment(Call& call, const std::string& id) {
  TRY_ASSIGN(const Graph graph, call.store.load_graph());
  TRY_ASSIGN(const VolumeVmMapping* const attachment, find_attachment(graph, id));
  return Reply{200, encode(graph, *attachment)};
}

Result<Reply> move_attachment(Call& call, const std::string& id) {
  TRY_ASSIGN(const std::string node_name, decode_move(call.request.body));
  TRY_ASSIGN(Graph graph, call.store.load_graph());
  TRY_ASSIGN(const VolumeVmMapping* const attachment, find_attachment(graph, id));
  TRY_ASSIGN(const Node* const node, choose_compute_node(graph, node_name));
  const Volume* volume = graph.volume(attachment->volume_id);
  TRY(check_can_use(*volume, *node));
  if (!attachment->wanted) return Error(Errc::conflict, fmt::format("attachment {} is being deleted", attachment->id));
  if (attachment->node_id == node->id)
    return Error(Errc::conflict, fmt::format("attachment {} is on node {} already", attachment->id, node->name));
  const std::string from = graph.node(attachment->node_id)->name;
  if (call.dry_run())
    return call.would(
        {fmt::format("fence node {} on each export of volume {} (epoch {}): what its guest has under way "
                     "is never acknowledged",
                     from, volume->name, volume->epoch + 1),
         fmt::format("offer the volume on node {} as a vhost-user-blk socket in {}", node->name, node->vhost_dir),
         fmt::format("take apart what is left on node {} once it answers", from)});
  const int64_t moved = attachment->id;
  TRY(call.store.move_attachment({.attachment_id = moved, .node_id = node->id, .expected_epoch = attachment->epoch}));
  call.changed = true;
  TRY_ASSIGN(graph, call.store.load_graph());
  return Reply{200, encode(graph, *graph.attachment(moved))};
}

Result<Reply> delete_attachment(Call& call, const std::string& id) {
  TRY_ASSIGN(const Graph graph, call.store.load_graph());
  TRY_ASSIGN(const VolumeVmMapping* const attachment, find_attachment(graph, id));
  if (call.dry_run())
    return call.would({"remove the vhost-user-blk controller " + vhost_controller_name(attachment->id),
                       "take apart the mirror " + raid_bdev_name(attachment->volume_id),
                       "disconnect its replicas, and admit nobody on their exports"});
  TRY(call.store.request_delete_attachment(attachment->id));
  call.changed = true;
  return Reply{202, {{"deleting", attachment->id}}};
}

Result<Reply> list(Call& call, const std::string& noun) {
  TRY_ASSIGN(const Graph graph, call.store.load_graph());
  if (noun == "nodes") return Reply{200, encode_all(graph, graph.nodes)};
  if (noun == "disks") return Reply{200, encode_all(graph, graph.disks)};
  if (noun == "volumes") return Reply{200, encode_all(graph, graph.volumes)};
  return Reply{200, encode_all(graph, graph.attachments)};
}

template <typename Row>
Result<Reply> recent(const Result<std::vector<Row>>& rows) {
  if (!rows) return rows.error();
  json::array list;
  for (const Row& row : *rows) list.push_back(encode(row));
  return Reply{200, list};
}

Result<Reply> route_collection(Call& call, const std::string& noun) {
  const std::string& method = call.request.method;
  if (method == "GET" && noun == "status") return get_status(call);
  if (method == "GET" && noun == "health") {
    TRY(call.store.check());
    return Reply{200, {{"status", "ok"}}};
  }
  if (method == "GET" && (noun == "events" || noun == "operations")) {
    TRY_ASSIGN(const int64_t limit, limit_of(call.request));
    return noun == "events" ? recent(call.store.events(limit)) : recent(call.store.operations(limit));
  }
  const bool is_listed = noun == "nodes" || noun == "disks" || noun == "volumes" || noun == "attachments";
  if (method == "GET" && is_listed) return list(call, noun);
  if (method == "POST" && noun == "nodes") return post_node(call);
  if (method == "POST" && noun == "disks") return post_disk(call);
  if (method == "POST" && noun == "volumes") return post_volume(call);
  if (method == "POST" && noun == "attachments") return post_attachment(call);
  if (is_listed) return Error(Errc::not_supported, fmt::format("{} is not possible on /v1/{}", method, noun));
  return Error(Errc::not_found, fmt::format("there is no /v1/{}", noun));
}

Result<Reply> route(Call& call) {
  constexpr std::string_view kPrefix = "/v1/";
  const std::string& path = call.request.path;
  if (!path.starts_with(kPrefix)) return Error(Errc::not_found, "the API is under /v1/");
  const std::string rest = path.substr(kPrefix.size());
  const size_t slash = rest.find('/');
  if (slash == std::string::npos) return route_collection(call, rest);
  const std::string noun = rest.substr(0, slash);
  const std::string name = rest.substr(slash + 1);
  const std::string& method = call.request.method;
  if (noun == "volumes" && method == "GET") return get_volume(call, name);
  if (noun == "volumes" && method == "DELETE") return delete_volume(call, name);
  constexpr std::string_view kRecover = "/recover";
  if (noun == "volumes" && method == "POST" && name.ends_with(kRecover))
    return recover_volume(call, name.substr(0, name.size() - kRecover.size()));
  constexpr std::string_view kMove = "/move";
  if (noun == "attachments" && method == "POST" && name.ends_with(kMove))
    return move_attachment(call, name.substr(0, name.size() - kMove.size()));
  if (noun == "attachments" && method == "GET") return get_attachment(call, name);
  if (noun == "attachments" && method == "DELETE") return delete_attachment(call, name);
  return Error(Errc::not_found, fmt::format("{} {} is not possible", method, path));
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decoded(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (text[i] == '%' && high >= 0 && low >= 0) {
      plain.push_back(static_cast<char>(high * 16 + low));
      i += 2;
    } else {
      plain.push_back(text[i]);
    }
  }
  return plain;
}

}  // namespace

ApiService::ApiService(Store& store, std::function<void()> on_change)
    : store_(store), on_change_(std::move(on_change)) {}

ApiReply ApiService::handle(const ApiRequest& request) {
  Call call{.store = store_, .request = request};
  const Result<Reply> reply = route(call);
  if (call.changed) {
    LOG_INFO("api", "{} {}", request.method, request.path);
    on_change_();
  }
  if (reply) return {reply->status, json::serialize(reply->body)};
  const Error& error = reply.error();
  const json::object body{{"error", {{"code", name_of(error.code())}, {"message", error.message()}}}};
  return {http_status_of(error.code()), json::serialize(body)};
}

ApiRequest parse_target(std::string method, std::string_view target, std::string body) {
  ApiRequest request{.method = std::move(method), .path = {}, .query = {}, .body = std::move(body)};
  const size_t mark = target.find('?');
  request.path = percent_decoded(target.substr(0, mark));
  std::string_view rest = mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  while (!rest.empty()) {
    const size_t end = rest.find('&');
    const std::string_view pair = rest.substr(0, end);
    const size_t equals = pair.find('=');
    const std::string_view value = equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1);
    request.query[percent_decoded(pair.substr(0, equals))] = percent_decoded(value);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  return request;
}

}  // namespace diskengine::control
