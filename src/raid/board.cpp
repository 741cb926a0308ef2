#include "raid/board.h"

#include <algorithm>

namespace diskengine::raid {

Board::Board(Reactor& main)
    : main_(main), current_(std::make_shared<const View>()), released_(std::make_shared<const View>()) {}

void Board::join(BoardMember& member, std::shared_ptr<const View>* current, std::shared_ptr<const View>* released) {
  std::lock_guard lock(mutex_);
  member.number_ = free_number();
  members_.push_back(&member);
  member.adopted_ = current_->generation;
  member.released_ = released_->generation;
  *current = current_;
  *released = released_;
}

void Board::leave(BoardMember& member) {
  std::lock_guard lock(mutex_);
  std::erase(members_, &member);
}

void Board::report(LegFailure failure) {
  main_.post([self = shared_from_this(), failure] {
    if (self->on_failure) self->on_failure(failure);
  });
}

std::vector<Reactor*> Board::reactors() const {
  std::vector<Reactor*> all;
  for (const BoardMember* member : members_)
    if (std::find(all.begin(), all.end(), &member->member_reactor()) == all.end())
      all.push_back(&member->member_reactor());
  return all;
}

// Channels may come and go between two calls, so each call looks anew.
BoardMember* Board::next_to_adopt(const Reactor& reactor, uint64_t generation) {
  std::lock_guard lock(mutex_);
  for (BoardMember* member : members_)
    if (&member->member_reactor() == &reactor && member->adopted_ < generation) {
      member->adopted_ = generation;
      return member;
    }
  return nullptr;
}

BoardMember* Board::next_to_release(const Reactor& reactor, uint64_t generation) {
  std::lock_guard lock(mutex_);
  for (BoardMember* member : members_)
    if (&member->member_reactor() == &reactor && member->released_ < generation) {
      member->released_ = generation;
      return member;
    }
  return nullptr;
}

void Board::publish(std::shared_ptr<const View> view, std::function<void()> adopted) {
  std::vector<Reactor*> targets;
  {
    std::lock_guard lock(mutex_);
    DE_ASSERT(view->generation > current_->generation);
    current_ = view;
    targets = reactors();
  }
  // The last reactor to let go of `round` calls back.
  struct Round {
    Reactor& main;
    std::function<void()> adopted;
    Round(Reactor& m, std::function<void()> done) : main(m), adopted(std::move(done)) {}
    ~Round() { main.post(std::move(adopted)); }
  };
  auto round = std::make_shared<Round>(main_, std::move(adopted));
  for (Reactor* target : targets)
    target->post([self = shared_from_this(), view, round, target] {
      while (BoardMember* member = self->next_to_adopt(*target, view->generation)) member->adopt(view);
    });
}

void Board::release(std::shared_ptr<const View> view) {
  std::vector<Reactor*> targets;
  {
    std::lock_guard lock(mutex_);
    released_ = view;
    targets = reactors();
  }
  for (Reactor* target : targets)
    target->post([self = shared_from_this(), view, target] {
      while (BoardMember* member = self->next_to_release(*target, view->generation)) member->release(view);
    });
}

std::vector<BoardMember*> Board::members_on(const Reactor& reactor) const {
  std::lock_guard lock(mutex_);
  std::vector<BoardMember*> here;
  for (BoardMember* member : members_)
    if (&member->member_reactor() == &reactor) here.push_back(member);
  return here;
}

uint32_t Board::free_number() const noexcept {
  for (uint32_t number = 1; number <= WriteOrder::kChannelMax; ++number)
    if (std::none_of(members_.begin(), members_.end(), [&](const auto* m) { return m->number_ == number; }))
      return number;
  DE_ASSERT(false);  // so many channels of one volume do not fit in memory
  return 0;
}

void Board::let_go_on() {
  std::vector<Reactor*> targets;
  {
    std::lock_guard lock(mutex_);
    targets = reactors();
  }
  for (Reactor* target : targets)
    target->post([self = shared_from_this(), target] {
      for (BoardMember* member : self->members_on(*target)) member->go_on();
    });
}

void Board::sweep(std::shared_ptr<RegionBits> kept, std::function<void()> done) {
  std::vector<Reactor*> targets;
  {
    std::lock_guard lock(mutex_);
    targets = reactors();
  }
  sweep_next(std::move(targets), std::move(kept), std::move(done));
}

void Board::sweep_next(std::vector<Reactor*> rest, std::shared_ptr<RegionBits> kept, std::function<void()> done) {
  if (rest.empty()) {
    main_.post(std::move(done));
    return;
  }
  Reactor* next = rest.back();
  rest.pop_back();
  next->post([self = shared_from_this(), next, rest = std::move(rest), kept = std::move(kept),
              done = std::move(done)]() mutable {
    for (BoardMember* member : self->members_on(*next)) member->sweep(*kept);
    self->sweep_next(std::move(rest), std::move(kept), std::move(done));
  });
}

size_t Board::channels() const {
  std::lock_guard lock(mutex_);
  return members_.size();
}

uint64_t Board::requests_taken() const {
  std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const BoardMember* member : members_) sum += member->requests_taken();
  return sum;
}

}  // namespace diskengine::raid
