// Logging: one line per event to stderr with time, level and layer. Any thread; a reactor's call only formats and
// queues the line (a writer thread prints it; when the queue is full the oldest line is dropped and counted).
//
//   LOG_WARN("nvmf", "subsystem {}: host {} refused: not on the access list", nqn, host);
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace diskengine {

enum class LogLevel { debug, info, warn, error };

// Once, at the start of main. Before it, lines go straight to stderr.
void log_start(LogLevel level);
// Prints what is queued; after it lines go straight to stderr again.
void log_stop();
void log_set_level(LogLevel level) noexcept;
LogLevel log_level() noexcept;

void log_line(LogLevel level, std::string_view layer, fmt::string_view format, fmt::format_args args);

template <typename... Args>
void log_format(LogLevel level, std::string_view layer, fmt::format_string<Args...> format, Args&&... args) {
  log_line(level, layer, format, fmt::make_format_args(args...));
}

}  // namespace diskengine

#define LOG_AT(level, layer, ...)                                                                \
  do {                                                                                           \
    if (level >= ::diskengine::log_level()) ::diskengine::log_format(level, layer, __VA_ARGS__); \
  } while (0)
#define LOG_DEBUG(layer, ...) LOG_AT(::diskengine::LogLevel::debug, layer, __VA_ARGS__)
#define LOG_INFO(layer, ...) LOG_AT(::diskengine::LogLevel::info, layer, __VA_ARGS__)
#define LOG_WARN(layer, ...) LOG_AT(::diskengine::LogLevel::warn, layer, __VA_ARGS__)
#define LOG_ERROR(layer, ...) LOG_AT(::diskengine::LogLevel::error, layer, __VA_ARGS__)
