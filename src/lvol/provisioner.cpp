#include "lvol/provisioner.h"

#include <cerrno>

#include "lvol/edit.h"
#include "lvol/join.h"
#include "lvol/lvol_channel.h"
#include "lvol/store.h"

namespace diskengine::lvol {

Provisioner::~Provisioner() { DE_ASSERT(works_.empty() && changes_.empty() && releases_.empty()); }

Provisioner::Work& Provisioner::begin(Blob& blob, uint64_t cluster) {
  auto work = std::make_unique<Work>();
  work->blob = &blob;
  work->cluster = cluster;
  Work& made = *work;
  works_.emplace(Key{&blob, cluster}, std::move(work));
  return made;
}

void Provisioner::take(Piece& piece) {
  Blob& blob = piece.channel_above->blob();
  if (piece.cluster >= blob.map.size()) {
    send_back(piece, false, IoStatus::error(IoCode::invalid));
    return;
  }
  const auto under_way = works_.find(Key{&blob, piece.cluster});
  if (under_way != works_.end()) {
    under_way->second->waiters.push_back(&piece);
    return;
  }
  const uint32_t where = blob.map.lookup(piece.cluster);
  if (where == ClusterMap::kUnallocated) {
    const bool needs_one = piece.what == Op::write ||
                           (piece.what != Op::read && source_of(blob, piece.cluster).kind != Source::Kind::zeroes);
    if (!needs_one) {
      send_back(piece, true, {});
      return;
    }
    Work& work = begin(blob, piece.cluster);
    work.first = &piece;
    spawn(allocate(work));
    return;
  }
  const bool whole = piece.offset == 0 && piece.units == store_.geometry().units_per_cluster;
  const bool nothing_below = source_of(blob, piece.cluster).kind == Source::Kind::zeroes;
  // An operation on the lvol may count on what is allocated.
  if (whole && piece.gives_up && nothing_below && blob.thin && blob.operation == nullptr) {
    Work& work = begin(blob, piece.cluster);
    work.first = &piece;
    work.old_cluster = where;
    blob.map.publish(piece.cluster, ClusterMap::kBusy);
    releases_.push_back(&work);
    if (!releasing_) spawn(run_releases());
    return;
  }
  if (piece.what == Op::unmap || piece.what == Op::write_zeroes) {
    spawn(zero_in_place(piece));
    return;
  }
  send_back(piece, true, {});
}

void Provisioner::send_back(Piece& piece, bool again, IoStatus verdict) {
  piece.stop = Piece::Stop::home;
  piece.again = again;
  piece.verdict = verdict;
  piece.channel_above->reactor().post(static_cast<Message&>(piece));
}

void Provisioner::end(Work& work, Result<void> outcome, IoStatus status) {
  const auto at = works_.find(Key{work.blob, work.cluster});
  const std::unique_ptr<Work> ended = std::move(at->second);
  works_.erase(at);
  if (ended->first != nullptr) send_back(*ended->first, false, status);
  for (Piece* waiter : ended->waiters) send_back(*waiter, true, {});
  for (OneShot<bool>* observer : ended->observers) observer->set(true);
  if (ended->owner != nullptr) ended->owner->set(std::move(outcome));
}

// --- First writes

Task<Result<void>> Provisioner::own(std::shared_ptr<Blob> blob, uint64_t cluster) {
  while (true) {
    const auto under_way = works_.find(Key{blob.get(), cluster});
    if (under_way != works_.end()) {
      OneShot<bool> over(store_.main());
      under_way->second->observers.push_back(&over);
      co_await over;
      continue;
    }
    if (blob->map.lookup(cluster) != ClusterMap::kUnallocated) co_return Result<void>{};
    OneShot<Result<void>> done(store_.main());
    Work& work = begin(*blob, cluster);
    work.owner = &done;
    spawn(allocate(work));
    Result<void> outcome = co_await done;
    co_return outcome;
  }
}

Task<void> Provisioner::allocate(Work& work) {
  if (fills_ >= kFillsMax) {
    OneShot<bool> turn(store_.main());
    fill_waiters_.push_back(&turn);
    co_await turn;
  } else {
    ++fills_;
  }
  const Filled filled = co_await reserve_and_fill(work);
  if (fill_waiters_.empty()) {
    --fills_;
  } else {
    OneShot<bool>* next = fill_waiters_.front();
    fill_waiters_.pop_front();
    next->set(true);
  }
  if (!filled.status.ok()) {
    if (filled.cluster != 0) store_.space().release_cluster(filled.cluster);
    const Errc code = filled.status.code == IoCode::no_space ? Errc::no_space : Errc::io_error;
    end(work, Error(code, std::string("a cluster cannot be allocated: ") + std::string(name_of(filled.status.code))),
        filled.status);
    co_return;
  }
  Result<void> changed = co_await change(*work.blob, work.cluster, filled.cluster);
  if (changed) {
    end(work, {}, IoStatus::success());
    co_return;
  }
  // If the journal could not be written, nobody knows whose it is: it stays reserved.
  if (store_.journal().frozen().empty()) store_.space().release_cluster(filled.cluster);
  const IoCode code = changed.error().code() == Errc::no_space ? IoCode::no_space : IoCode::io_error;
  end(work, std::move(changed), IoStatus::error(code));
}

Task<Provisioner::Filled> Provisioner::reserve_and_fill(Work& work) {
  Filled filled;
  while (true) {
    if (!store_.journal().frozen().empty()) {
      filled.status = IoStatus::error(IoCode::io_error, EROFS);
      co_return filled;
    }
    const uint32_t cluster = store_.space().claim_cluster();
    if (cluster != Space::kNone) {
      filled.cluster = cluster;
      break;
    }
    if (!work.blob->pause_when_full || store_.stopping()) {
      filled.status = IoStatus::error(IoCode::no_space, ENOSPC);
      co_return filled;
    }
    OneShot<bool> changed(store_.main());
    space_waiters_.push_back(&changed);
    ++work.blob->paused;
    co_await changed;
    --work.blob->paused;
  }
  const uint8_t era = fill_began();
  filled.status = co_await fill(work, filled.cluster);
  fill_ended(era);
  co_return filled;
}

void Provisioner::space_changed() {
  std::vector<OneShot<bool>*> waiters;
  waiters.swap(space_waiters_);
  for (OneShot<bool>* waiter : waiters) waiter->set(true);
}

uint8_t Provisioner::fill_began() noexcept {
  ++filling_[era_];
  return era_;
}

void Provisioner::fill_ended(uint8_t era) noexcept {
  if (--filling_[era] == 0 && grace_ != nullptr && era != era_) std::exchange(grace_, nullptr)->drop();
}

void Provisioner::begin_grace(const std::shared_ptr<DrainTicket>& ticket) {
  DE_ASSERT(grace_ == nullptr && filling_[era_ ^ 1] == 0);
  if (filling_[era_] > 0) {
    ticket->add();
    grace_ = ticket;
  }
  era_ ^= 1;
}

// --- Unmaps

Task<void> Provisioner::run_releases() {
  releasing_ = true;
  while (!releases_.empty()) {
    std::vector<Work*> batch(releases_.begin(), releases_.end());
    releases_.clear();
    co_await store_.grace();
    // Together, so that they share transactions.
    std::vector<std::unique_ptr<OneShot<Result<void>>>> outcomes;
    for (Work* work : batch) {
      outcomes.push_back(std::make_unique<OneShot<Result<void>>>(store_.main()));
      changes_.push_back({work->blob, work->cluster, ClusterMap::kUnallocated, outcomes.back().get()});
    }
    if (!changing_) spawn(run_changes());
    std::vector<uint32_t> freed;
    std::vector<Result<void>> results;
    for (size_t i = 0; i < batch.size(); ++i) {
      OneShot<Result<void>>& answered = *outcomes[i];
      Result<void> outcome = co_await answered;
      if (outcome) {
        freed.push_back(batch[i]->old_cluster);
      } else {
        batch[i]->blob->map.publish(batch[i]->cluster, batch[i]->old_cluster);
      }
      results.push_back(std::move(outcome));
    }
    co_await store_.discard_and_release(std::move(freed), ClearMethod::by_default);
    for (size_t i = 0; i < batch.size(); ++i) {
      const IoStatus status = results[i] ? IoStatus::success() : IoStatus::error(IoCode::io_error);
      end(*batch[i], std::move(results[i]), status);
    }
  }
  releasing_ = false;
}

Task<void> Provisioner::zero_in_place(Piece& piece) {
  const Geometry& geometry = store_.geometry();
  const uint32_t where = piece.channel_above->blob().map.lookup(piece.cluster);
  const uint8_t era = fill_began();
  const IoStatus status = co_await zero_blocks(
      store_.channel(),
      {.lba = geometry.lba_in_cluster(where, piece.offset), .blocks = piece.units * geometry.disk_per_unit},
      store_.zeroes());
  fill_ended(era);
  send_back(piece, false, status);
}

// --- Changes of maps

Task<Result<void>> Provisioner::change(Blob& blob, uint64_t cluster, uint32_t where) {
  OneShot<Result<void>> done(store_.main());
  changes_.push_back({&blob, cluster, where, &done});
  if (!changing_) spawn(run_changes());
  Result<void> outcome = co_await done;
  co_return outcome;
}

Task<void> Provisioner::run_changes() {
  changing_ = true;
  while (!changes_.empty()) {
    co_await store_.metadata_mutex().lock();
    // What it does not get done fails with the change that needed it.
    Blob& blob = *changes_.front().blob;
    if (!blob.has_extent_table) static_cast<void>(co_await store_.give_extent_table(blob));
    co_await commit_some();
    store_.metadata_mutex().unlock();
  }
  changing_ = false;
}

// What the entry is on disk while it is busy in memory.
uint32_t Provisioner::on_disk(const Blob& blob, uint64_t cluster) const {
  const uint32_t where = blob.map.lookup(cluster);
  if (where != ClusterMap::kBusy) return where;
  const auto work = works_.find(Key{&blob, cluster});
  DE_ASSERT(work != works_.end());
  return work->second->old_cluster;
}

Task<void> Provisioner::commit_some() {
  Edit edit(store_);
  std::vector<Change> batch;
  ExtentChanges extents;
  while (!changes_.empty() &&
         extents.fits(changes_.front().blob, changes_.front().cluster, store_.journal().images())) {
    const Change change = changes_.front();
    changes_.pop_front();
    extents.add(change.blob, change.cluster, change.where);
    batch.push_back(change);
  }
  DE_ASSERT(!batch.empty() || store_.journal().images() == 0);
  if (batch.empty()) {
    const Change change = changes_.front();
    changes_.pop_front();
    change.done->set(Error(Errc::io_error, "the store's metadata is no longer written: " + store_.journal().frozen()));
    co_return;
  }
  Result<void> outcome =
      edit.put_extents(extents, [this](const Blob& blob, uint64_t cluster) { return on_disk(blob, cluster); });
  if (outcome) outcome = co_await edit.commit();
  for (const Change& change : batch) {
    if (outcome) change.blob->map.publish(change.cluster, change.where);
    change.done->set(outcome);
  }
}

}  // namespace diskengine::lvol
