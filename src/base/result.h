// Result<T>: a value or an Error, with the names of std::expected. Every function that can fail for a reason outside
// our own code returns one, and the caller handles it. The hot path uses IoStatus (block/io_status.h) instead.
//
//   Result<Config> parse(std::string_view text);
//   Result<void> load() {
//     TRY_ASSIGN(Config config, parse(text));   // declares `config`, or returns the error
//     TRY(apply(config));                       // a statement: returns the error, drops the value
//     return {};
//   }
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/assert.h"

namespace diskengine {

// What kind of failure it was, for callers that act on it. Each maps to one negative errno (errno_of), which is what
// RPC clients see.
enum class Errc : int {
  invalid_argument = 1,  // the request itself is wrong: EINVAL
  not_found,             // the named object does not exist: ENOENT
  no_device,             // the device or bdev does not exist: ENODEV
  already_exists,        // the name is taken: EEXIST
  busy,                  // claimed, open or in use by someone else: EBUSY
  permission_denied,     // EPERM
  access_denied,         // EACCES
  out_of_range,          // a size or index past a limit: ERANGE
  no_memory,             // ENOMEM
  no_space,              // ENOSPC
  not_supported,         // ENOTSUP
  timed_out,             // ETIMEDOUT
  canceled,              // shut down under way: ECANCELED
  unreachable,           // connection refused, reset or no route: ECONNREFUSED
  io_error,              // EIO
  protocol,              // a peer broke its protocol: EPROTO
  corrupt,               // data on disk fails its check: EILSEQ
  conflict,              // a compare-and-set lost: ESTALE
  would_block,           // try again later: EAGAIN
  internal,              // a bug of ours that was contained: EFAULT
};

std::string_view name_of(Errc code) noexcept;
// The positive errno that stands for `code`.
int errno_of(Errc code) noexcept;
// The closest Errc for a positive errno.
Errc errc_from_errno(int positive_errno) noexcept;

// Says what was attempted on which object, what was found, and what to do next.
class [[nodiscard]] Error {
 public:
  Error(Errc code, std::string message) : code_(code), message_(std::move(message)) {}

  // For a failed system call: `what` names the attempt and the object; the errno's text is appended.
  static Error from_errno(int positive_errno, std::string_view what);

  Errc code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  // The same error seen from one level up: "context: message".
  Error with_context(std::string_view context) const;

 private:
  Errc code_;
  std::string message_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  T& value() & {
    DE_ASSERT(has_value());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    DE_ASSERT(has_value());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    DE_ASSERT(has_value());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const& {
    DE_ASSERT(!has_value());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    DE_ASSERT(!has_value());
    return std::move(*std::get_if<1>(&state_));
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  void value() const { DE_ASSERT(has_value()); }

  const Error& error() const& {
    DE_ASSERT(!has_value());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    DE_ASSERT(!has_value());
    return std::move(*std::get_if<1>(&state_));
  }

 private:
  std::variant<std::monostate, Error> state_;
};

}  // namespace diskengine

#define DE_CONCAT_(a, b) a##b
#define DE_CONCAT(a, b) DE_CONCAT_(a, b)

// Statement: evaluates a Result; on error returns the Error from the enclosing function.
#define TRY(expression)                      \
  do {                                       \
    auto&& try_result_ = (expression);       \
    if (!try_result_) [[unlikely]]           \
      return std::move(try_result_).error(); \
  } while (0)

// Declares `declaration` from the value of a Result, or returns its Error.
#define TRY_ASSIGN(declaration, expression) TRY_ASSIGN_(DE_CONCAT(try_assign_, __LINE__), declaration, expression)
#define TRY_ASSIGN_(temporary, declaration, expression) \
  auto&& temporary = (expression);                      \
  if (!temporary) [[unlikely]]                          \
    return std::move(temporary).error();                \
  declaration = std::move(temporary).value()

// The same for coroutines that return Task<Result<T>>; `expression` is already a Result (co_await it into a named
// variable first: g++ 12 mishandles temporaries across a suspension).
#define CO_TRY(expression)                      \
  do {                                          \
    auto&& try_result_ = (expression);          \
    if (!try_result_) [[unlikely]]              \
      co_return std::move(try_result_).error(); \
  } while (0)
#define CO_TRY_ASSIGN(declaration, expression) CO_TRY_ASSIGN_(DE_CONCAT(try_assign_, __LINE__), declaration, expression)
#define CO_TRY_ASSIGN_(temporary, declaration, expression) \
  auto&& temporary = (expression);                         \
  if (!temporary) [[unlikely]]                             \
    co_return std::move(temporary).error();                \
  declaration = std::move(temporary).value()
