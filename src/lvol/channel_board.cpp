#include "lvol/channel_board.h"

#include <algorithm>

namespace diskengine::lvol {

bool ChannelBoard::join(BoardMember& member) {
  std::lock_guard lock(mutex_);
  members_.push_back(&member);
  return frozen_;
}

void ChannelBoard::leave(BoardMember& member) {
  std::lock_guard lock(mutex_);
  std::erase(members_, &member);
}

size_t ChannelBoard::channels() const {
  std::lock_guard lock(mutex_);
  return members_.size();
}

std::vector<Reactor*> ChannelBoard::reactors() const {
  std::lock_guard lock(mutex_);
  std::vector<Reactor*> all;
  for (const BoardMember* member : members_)
    if (std::find(all.begin(), all.end(), &member->member_reactor()) == all.end())
      all.push_back(&member->member_reactor());
  return all;
}

std::vector<BoardMember*> ChannelBoard::members_on(const Reactor& reactor) const {
  std::lock_guard lock(mutex_);
  std::vector<BoardMember*> found;
  for (BoardMember* member : members_)
    if (&member->member_reactor() == &reactor) found.push_back(member);
  return found;
}

bool ChannelBoard::is_member(const BoardMember* member) const {
  std::lock_guard lock(mutex_);
  return std::find(members_.begin(), members_.end(), member) != members_.end();
}

Task<void> ChannelBoard::freeze(std::shared_ptr<const void> holder, Reactor& main) {
  OneShot<bool> drained(main);
  const auto ticket = std::make_shared<DrainTicket>(main, [&drained] { drained.set(true); });
  {
    std::lock_guard lock(mutex_);
    DE_ASSERT(!frozen_);
    frozen_ = true;
  }
  for (Reactor* reactor : reactors()) {
    ticket->add();
    reactor->post([this, holder, ticket, reactor] {
      for (BoardMember* member : members_on(*reactor)) member->freeze(ticket);
      ticket->drop();
    });
  }
  ticket->drop();
  co_await drained;
}

void ChannelBoard::thaw(std::shared_ptr<const void> holder) {
  {
    std::lock_guard lock(mutex_);
    frozen_ = false;
  }
  for (Reactor* reactor : reactors())
    reactor->post([this, holder, reactor] {
      // Completions may close channels meanwhile.
      for (BoardMember* member : members_on(*reactor))
        if (is_member(member)) member->unfreeze();
    });
}

}  // namespace diskengine::lvol
