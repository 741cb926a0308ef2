#include "control/diagnose/facts.h"

namespace diskengine::control {

const NodeFacts* Facts::node(std::string_view name) const {
  for (const NodeFacts& one : nodes)
    if (one.expected.name == name) return &one;
  return nullptr;
}

bool Facts::answers(std::string_view name) const {
  const NodeFacts* found = node(name);
  return found != nullptr && found->reach.reach == Reach::answers;
}

}  // namespace diskengine::control
