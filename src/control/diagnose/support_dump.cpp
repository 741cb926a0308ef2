#include "control/diagnose/support_dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "control/dataplane/json_read.h"
#include "control/diagnose/redact.h"
#include "control/diagnose/tar.h"

namespace diskengine::control {
namespace {

namespace json = boost::json;
using namespace json_read;

constexpr std::array kMethods = {"spdk_get_version",
                                 "rpc_get_methods",
                                 "framework_get_reactors",
                                 "framework_get_subsystems",
                                 "thread_get_stats",
                                 "thread_get_pollers",
                                 "thread_get_io_channels",
                                 "log_get_level",
                                 "notify_get_notifications",
                                 "bdev_get_bdevs",
                                 "bdev_get_iostat",
                                 "diskengine_outstanding",
                                 "bdev_lvol_get_lvstores",
                                 "bdev_lvol_get_lvols",
                                 "diskengine_lvol_get_damaged",
                                 "bdev_nvme_get_controllers",
                                 "bdev_nvme_get_io_paths",
                                 "bdev_nvme_get_transport_statistics",
                                 "bdev_nvme_get_discovery_info",
                                 "nvmf_get_transports",
                                 "nvmf_get_subsystems",
                                 "nvmf_get_stats",
                                 "vhost_get_controllers"};

class NodeDump {
 public:
  NodeDump(std::string node, Asker& asker) : node_(std::move(node)), asker_(asker) {}

  json::value add(const std::string& name, const std::string& method, const json::object& params) {
    const Result<json::value> answer = asker_.ask(node_, method, params);
    json::value content = answer ? *answer : json::value(json::object{{"error", answer.error().message()}});
    files_.push_back({fmt::format("nodes/{}/{}.json", node_, name), content});
    return content;
  }
  void add_each(const json::value& list, std::string_view key, const char* method, const char* param) {
    json::array answers;
    for_each(&list, [&](const json::value& one) {
      const std::string name = text(one, key);
      const Result<json::value> answer = asker_.ask(node_, method, {{param, name}});
      answers.push_back({{key, name}, {"answer", answer ? *answer : json::value(answer.error().message())}});
    });
    if (!answers.empty()) files_.push_back({fmt::format("nodes/{}/{}.json", node_, method), std::move(answers)});
  }
  std::vector<DumpFile> take() { return std::move(files_); }

 private:
  std::string node_;
  Asker& asker_;
  std::vector<DumpFile> files_;
};

}  // namespace

std::vector<DumpFile> dump_node(const std::string& node, Asker& asker) {
  if (asker.reach(node).reach != Reach::answers) return {};
  NodeDump dump(node, asker);
  std::map<std::string, json::value> answers;
  for (const char* method : kMethods) answers[method] = dump.add(method, method, {});
  dump.add("bdev_raid_get_bdevs", "bdev_raid_get_bdevs", {{"category", "all"}});
  dump.add_each(answers["framework_get_subsystems"], "subsystem", "framework_get_config", "name");
  dump.add_each(answers["nvmf_get_subsystems"], "nqn", "nvmf_subsystem_get_controllers", "nqn");
  dump.add_each(answers["nvmf_get_subsystems"], "nqn", "nvmf_subsystem_get_qpairs", "nqn");
  dump.add_each(answers["bdev_nvme_get_controllers"], "name", "bdev_nvme_get_controller_health_info", "name");
  return dump.take();
}

Result<std::string> pack(const std::vector<DumpFile>& files, int64_t modified_s,
                         const std::function<std::string(const json::value&)>& render) {
  TarWriter archive(modified_s);
  for (const DumpFile& file : files) TRY(archive.add(file.name, render(redacted(file.content))));
  return archive.finish();
}

}  // namespace diskengine::control
