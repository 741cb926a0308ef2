// Deliberate mistakes, one at a time, to show that the tests notice them: cmake -DDISKENGINE_MUTATION=<name>. Programs
// that are meant for use are built without one; then all of this is gone at compile time.
#pragma once

#include <cstdint>

#ifndef DISKENGINE_MUTATION
#define DISKENGINE_MUTATION none
#endif

namespace diskengine::raid {

enum class Mutation : uint8_t {
  none,
  ack_before_exclude,  // a write is acknowledged although a leg that lacks it is still in sync
  dropped_dirty_bit,   // a region is marked in memory, and not on the legs
  skipped_flush,       // regions are cleared without a flush of the legs
  unlocked_copy,       // a copy to a leg does not keep writes off its window
  unordered_writes,    // overlapping writes of different reactors go to the legs as they come
  wrong_leg,           // of legs that may differ the one with the oldest superblock is read
  trusted_cache,       // a leg whose target was started anew counts as if it had lost nothing
  forgotten_cache,     // the same while nobody served the volume
  old_epoch,           // a writer whose epoch is over may put the volume together
};

constexpr bool mutated(Mutation mutation) noexcept { return Mutation::DISKENGINE_MUTATION == mutation; }

}  // namespace diskengine::raid
