#include "raid/marks.h"

#include <algorithm>

#include "raid/board.h"

namespace diskengine::raid {

void MarkExchange::send() noexcept {
  if (under_way_ != nullptr || count_ == 0) return;
  std::copy_n(next_.begin(), count_, asked_.begin());
  asked_count_ = std::exchange(count_, 0);
  under_way_ = shared_from_this();
  board_->main_reactor().post(ask_);
}

void MarkExchange::on_main() noexcept {
  if (board_->on_marks) {
    board_->on_marks(shared_from_this());
  } else {
    answer(false);  // the volume is gone
  }
}

void MarkExchange::answer(bool granted) noexcept {
  granted_ = granted;
  home_.post(answer_);
}

void MarkExchange::on_home() noexcept {
  const std::shared_ptr<MarkExchange> self = std::exchange(under_way_, nullptr);
  if (taker_ == nullptr) return;
  taker_->marks_answered(ranges(), granted_);
  send();
}

}  // namespace diskengine::raid
