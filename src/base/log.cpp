#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdio>

namespace diskengine {
namespace {

constexpr size_t kQueuedLinesMax = 8192;
constexpr size_t kLineBytesMax = 2048;

std::atomic<LogLevel> current_level{LogLevel::info};
std::shared_ptr<spdlog::async_logger> logger;

spdlog::level::level_enum to_spdlog(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warn:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void log_start(LogLevel level) {
  current_level = level;
  spdlog::init_thread_pool(kQueuedLinesMax, 1);
  logger = std::make_shared<spdlog::async_logger>("diskengine", std::make_shared<spdlog::sinks::stderr_sink_mt>(),
                                                  spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %L %v");
  logger->set_level(spdlog::level::debug);
  logger->flush_on(spdlog::level::warn);
}

void log_stop() {
  if (!logger) return;
  logger->flush();
  // Ends the writing thread, and the references its queue holds, before the logger goes.
  spdlog::shutdown();
  logger.reset();
}

void log_set_level(LogLevel level) noexcept { current_level.store(level, std::memory_order_relaxed); }

LogLevel log_level() noexcept { return current_level.load(std::memory_order_relaxed); }

void log_line(LogLevel level, std::string_view layer, fmt::string_view format, fmt::format_args args) {
  fmt::memory_buffer line;
  fmt::format_to(std::back_inserter(line), "[{}] ", layer);
  fmt::vformat_to(std::back_inserter(line), format, args);
  if (line.size() > kLineBytesMax) line.resize(kLineBytesMax);
  if (logger) {
    logger->log(to_spdlog(level), std::string_view(line.data(), line.size()));
  } else {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
  }
}

}  // namespace diskengine
