#include "rpc/methods_bdev_raid.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>

#include "rpc/params.h"

namespace diskengine::rpc {
namespace json = boost::json;

namespace {

Reply answer(const Result<void>& outcome, const std::string& attempt) {
  if (outcome) return json::value(true);
  return outcome.error().with_context(attempt);
}

Task<Reply> set_options(raid::RaidManager& manager, json::object params) {
  raid::RaidOptions options = manager.options();
  options.process_window_size_kb =
      static_cast<uint32_t>(uint_param_or(params, "process_window_size_kb", options.process_window_size_kb));
  options.process_max_bandwidth_mb_sec = static_cast<uint32_t>(
      uint_param_or(params, "process_max_bandwidth_mb_sec", options.process_max_bandwidth_mb_sec));
  options.no_leg_timeout_sec =
      static_cast<uint32_t>(uint_param_or(params, "no_leg_timeout_sec", options.no_leg_timeout_sec));
  const Result<void> set = manager.set_options(options);
  co_return answer(set, "cannot set the options of RAID volumes");
}

Task<Reply> get_bdevs(raid::RaidManager& manager, json::object params) {
  const std::string category = text_param(params, "category");
  json::array list;
  for (const auto& volume : manager.volumes()) {
    if (category != "all" && category != name_of(volume->state())) continue;
    json::object entry;
    entry["name"] = volume->name();
    const json::value info = json::parse(volume->info_json());
    for (const auto& field : info.as_object()) entry[field.key()] = field.value();
    list.push_back(std::move(entry));
  }
  co_return json::value(std::move(list));
}

Task<Reply> create(raid::RaidManager& manager, json::object params) {
  raid::RaidManager::CreateOptions options;
  options.name = text_param(params, "name");
  options.uuid = uuid_param(params, "uuid").value_or(Uuid{});
  options.superblock = bool_param(params, "superblock");
  options.strip_size_kb = static_cast<uint32_t>(uint_param(params, "strip_size_kb"));
  for (const json::value& base : param(params, "base_bdevs").as_array())
    options.base_bdevs.emplace_back(base.as_string());
  const std::string attempt = fmt::format("Failed to create RAID bdev {}", options.name);
  const std::string level = text_param(params, "raid_level");
  if (level != "raid1" && level != "1")
    co_return Error(Errc::invalid_argument, fmt::format("{}: level {} is not supported, only raid1", attempt, level));
  Task<Result<void>> creating = manager.create(std::move(options));
  const Result<void> created = co_await creating;
  co_return answer(created, attempt);
}

Task<Reply> remove(raid::RaidManager& manager, json::object params) {
  const std::string name = text_param(params, "name");
  if (manager.find(name) == nullptr) co_return Error(Errc::no_device, fmt::format("raid bdev {} not found", name));
  Task<Result<void>> removing = manager.remove(name, bool_param(params, "clear_sb"));
  const Result<void> removed = co_await removing;
  if (!removed) co_return Fault{kInternalError, removed.error().message()};
  co_return json::value(true);
}

Task<Reply> add_base(raid::RaidManager& manager, json::object params) {
  const std::string raid_name = text_param(params, "raid_bdev");
  const std::string base_name = text_param(params, "base_bdev");
  if (manager.find(raid_name) == nullptr)
    co_return Error(Errc::no_device, fmt::format("raid bdev {} is not found in config", raid_name));
  Task<Result<void>> adding = manager.add_base(raid_name, base_name);
  const Result<void> added = co_await adding;
  co_return answer(added, fmt::format("Failed to add base bdev {} to RAID bdev {}", base_name, raid_name));
}

Task<Reply> remove_base(raid::RaidManager& manager, json::object params) {
  Task<Result<void>> removing = manager.remove_base(text_param(params, "name"));
  const Result<void> removed = co_await removing;
  co_return answer(removed, "Failed to remove base bdev from raid bdev");
}

// --- Epochs and events
// -------------------------------------------------------------------------------------------------

Result<std::shared_ptr<raid::Volume>> volume_of(raid::RaidManager& manager, const json::object& params) {
  const std::string name = text_param(params, "name");
  std::shared_ptr<raid::Volume> volume = manager.find(name);
  if (volume == nullptr) return Error(Errc::no_device, fmt::format("there is no RAID volume '{}'", name));
  return volume;
}

Task<Reply> assemble(raid::RaidManager& manager, json::object params) {
  raid::AssembleOptions options;
  options.name = text_param(params, "name");
  options.uuid = uuid_param(params, "uuid").value_or(Uuid{});
  options.epoch = uint_param(params, "epoch");
  options.confirm_exclusions = bool_param(params, "confirm_exclusions");
  options.slots = static_cast<unsigned>(uint_param(params, "num_base_bdevs"));
  options.create = bool_param(params, "create");
  for (const json::value& base : param(params, "base_bdevs").as_array())
    options.base_bdevs.emplace_back(base.as_string());
  Task<Result<void>> assembling = manager.assemble(std::move(options));
  const Result<void> assembled = co_await assembling;
  co_return answer(assembled, "cannot put the volume together");
}

Task<Reply> set_epoch(raid::RaidManager& manager, json::object params) {
  const Result<std::shared_ptr<raid::Volume>> volume = volume_of(manager, params);
  CO_TRY(volume);
  Task<Result<void>> setting =
      (*volume)->set_epoch(uint_param(params, "epoch"), bool_param(params, "confirm_exclusions"));
  const Result<void> set = co_await setting;
  co_return answer(set, "cannot set the epoch");
}

Task<Reply> confirm_exclusion(raid::RaidManager& manager, json::object params) {
  const Result<std::shared_ptr<raid::Volume>> volume = volume_of(manager, params);
  CO_TRY(volume);
  Task<Result<void>> confirming = (*volume)->confirm_exclusion(uint_param(params, "epoch"), text_param(params, "leg"));
  const Result<void> confirmed = co_await confirming;
  co_return answer(confirmed, "the exclusion is not confirmed");
}

Task<Reply> fence(raid::RaidManager& manager, json::object params) {
  const Result<std::shared_ptr<raid::Volume>> volume = volume_of(manager, params);
  CO_TRY(volume);
  Task<Result<void>> fencing = (*volume)->fence(uint_param(params, "epoch"));
  const Result<void> fenced = co_await fencing;
  co_return answer(fenced, "the volume is not fenced");
}

Task<Reply> resume(raid::RaidManager& manager, json::object params) {
  const Result<std::shared_ptr<raid::Volume>> volume = volume_of(manager, params);
  CO_TRY(volume);
  Task<Result<void>> resuming = (*volume)->resume();
  const Result<void> resumed = co_await resuming;
  co_return answer(resumed, "the volume does not go on");
}

// --- Scrubs
// ------------------------------------------------------------------------------------------------------------

Task<Reply> scrub_start(raid::RaidManager& manager, json::object params) {
  const Result<std::shared_ptr<raid::Volume>> volume = volume_of(manager, params);
  CO_TRY(volume);
  const uint64_t limit = uint_param_or(params, "max_bandwidth_mb_sec", manager.options().process_max_bandwidth_mb_sec);
  co_return answer((*volume)->start_scrub(limit), "the scrub is not started");
}

Task<Reply> scrub_stop(raid::RaidManager& manager, json::object params) {
  const Result<std::shared_ptr<raid::Volume>> volume = volume_of(manager, params);
  CO_TRY(volume);
  Task<Result<void>> stopping = (*volume)->stop_scrub();
  const Result<void> stopped = co_await stopping;
  co_return answer(stopped, "no scrub is stopped");
}

Task<Reply> scrub_status(raid::RaidManager& manager, json::object params) {
  const Result<std::shared_ptr<raid::Volume>> volume = volume_of(manager, params);
  CO_TRY(volume);
  co_return json::parse((*volume)->scrub_json());
}

json::object event_object(const raid::Event& event) {
  json::object object{{"id", event.id},         {"type", raid::name_of(event.type)},
                      {"volume", event.volume}, {"uuid", event.volume_uuid.to_string()},
                      {"epoch", event.epoch},   {"reason", event.reason}};
  if (!event.leg.empty()) {
    object["leg"] = event.leg;
    object["leg_uuid"] = event.leg_uuid.to_string();
    object["slot"] = event.slot;
  }
  return object;
}

Task<Reply> wait_events(raid::RaidManager& manager, json::object params) {
  const uint64_t wait_ns = uint_param(params, "timeout_ms") * 1'000'000;
  Task<Result<raid::RaidEvents::Batch>> waiting = manager.events().wait(uint_param(params, "after"), wait_ns);
  const Result<raid::RaidEvents::Batch> batch = co_await waiting;
  CO_TRY(batch);
  json::array events;
  for (const raid::Event& event : batch->events) events.push_back(event_object(event));
  co_return json::value(json::object{{"instance", fmt::format("{:016x}", batch->instance)},
                                     {"last_id", batch->last_id},
                                     {"lost", batch->lost},
                                     {"events", std::move(events)}});
}

}  // namespace

void add_raid_methods(MethodTable& methods, raid::RaidManager& manager) {
  const auto with = [&manager](Task<Reply> (*handler)(raid::RaidManager&, json::object)) {
    return [&manager, handler](json::object params) { return handler(manager, std::move(params)); };
  };
  methods.add("bdev_raid_set_options", with(set_options));
  methods.add("bdev_raid_get_bdevs", with(get_bdevs));
  methods.add("bdev_raid_create", with(create));
  methods.add("bdev_raid_delete", with(remove));
  methods.add("bdev_raid_add_base_bdev", with(add_base));
  methods.add("bdev_raid_remove_base_bdev", with(remove_base));
  methods.add("diskengine_raid_assemble", with(assemble));
  methods.add("diskengine_raid_set_epoch", with(set_epoch));
  methods.add("diskengine_raid_confirm_exclusion", with(confirm_exclusion));
  methods.add("diskengine_raid_fence", with(fence));
  methods.add("diskengine_raid_resume", with(resume));
  methods.add("diskengine_raid_wait_events", with(wait_events));
  methods.add("diskengine_raid_scrub_start", with(scrub_start));
  methods.add("diskengine_raid_scrub_stop", with(scrub_stop));
  methods.add("diskengine_raid_scrub_status", with(scrub_status));
}

}  // namespace diskengine::rpc
