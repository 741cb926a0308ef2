// Names and UUIDs as lvol stores keep them: text with its terminating zero. Pure functions.
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "base/uuid.h"
#include "format/blobstore.h"
#include "lvol/types.h"

namespace diskengine::lvol {

// A lvol that has it waits for space when its store is full. Ours; others ignore it.
inline constexpr std::string_view kXattrWriterEpoch = "diskengine.writer_epoch";  // decimal digits
inline constexpr std::string_view kXattrPauseWhenFull = "diskengine.pause_when_full";

inline std::vector<uint8_t> xattr_text(std::string_view text) {
  std::vector<uint8_t> value(text.begin(), text.end());
  value.push_back(0);
  return value;
}

// The text up to its zero; empty if there is no xattr.
inline std::string text_of(const spec::blobstore::Xattr* xattr) {
  if (xattr == nullptr) return {};
  const auto end = std::find(xattr->value.begin(), xattr->value.end(), uint8_t{0});
  return {xattr->value.begin(), end};
}

// Nil if it is none.
inline Uuid uuid_in(const spec::blobstore::Xattr* xattr) {
  const Result<Uuid> parsed = Uuid::parse(text_of(xattr));
  return parsed ? *parsed : Uuid{};
}

// What is no number counts as the highest epoch: nobody is let write by mistake.
inline uint64_t writer_epoch_in(const spec::blobstore::Xattr* xattr) {
  if (xattr == nullptr) return 0;
  const std::string text = text_of(xattr);
  uint64_t epoch = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), epoch);
  return error == std::errc() && stop == text.data() + text.size() && !text.empty() ? epoch : UINT64_MAX;
}

inline void set_xattr(std::vector<spec::blobstore::Xattr>& list, std::string_view name, std::vector<uint8_t> value) {
  for (spec::blobstore::Xattr& xattr : list)
    if (xattr.name == name) {
      xattr.value = std::move(value);
      return;
    }
  list.push_back({std::string(name), std::move(value)});
}

inline void remove_xattr(std::vector<spec::blobstore::Xattr>& list, std::string_view name) {
  std::erase_if(list, [&](const spec::blobstore::Xattr& xattr) { return xattr.name == name; });
}

// 1 to kNameBytes - 1 bytes, none of them zero.
inline Result<void> check_name(std::string_view name, std::string_view what) {
  if (name.empty() || name.size() >= kNameBytes || name.find('\0') != std::string_view::npos)
    return Error(Errc::invalid_argument,
                 std::string(what) + " name '" + std::string(name) + "' does not have 1 to 63 bytes");
  return {};
}

}  // namespace diskengine::lvol
