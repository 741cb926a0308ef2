// Intrusive doubly linked list: the element carries its own hook, so insertion and removal never allocate. The list
// does not own its elements. Not thread safe: one reactor owns a list and what is on it.
#pragma once

#include <cstddef>

#include "base/assert.h"

namespace diskengine {

struct ListHook {
  ListHook* prev = nullptr;
  ListHook* next = nullptr;

  ListHook() = default;
  ListHook(const ListHook&) = delete;
  ListHook& operator=(const ListHook&) = delete;
  bool linked() const noexcept { return next != nullptr; }
  // Takes this element out of whatever list it is on.
  void unlink() noexcept {
    DE_ASSERT(linked());
    prev->next = next;
    next->prev = prev;
    prev = next = nullptr;
  }
};

// T must derive from Hook (a ListHook, or a distinct type derived from it for membership in several lists).
template <typename T, typename Hook = ListHook>
class List {
 public:
  List() noexcept { head_.prev = head_.next = &head_; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() { DE_ASSERT(empty()); }

  bool empty() const noexcept { return head_.next == &head_; }
  T& front() noexcept {
    DE_ASSERT(!empty());
    return from(head_.next);
  }
  T& back() noexcept {
    DE_ASSERT(!empty());
    return from(head_.prev);
  }
  void push_back(T& element) noexcept { insert(*head_.prev, element); }
  void push_front(T& element) noexcept { insert(head_, element); }
  T& pop_front() noexcept {
    T& element = front();
    static_cast<Hook&>(element).unlink();
    return element;
  }
  static void remove(T& element) noexcept { static_cast<Hook&>(element).unlink(); }
  // Moves every element of `other` to the end of this list.
  void splice_back(List& other) noexcept {
    if (other.empty()) return;
    ListHook* first = other.head_.next;
    ListHook* last = other.head_.prev;
    other.head_.prev = other.head_.next = &other.head_;
    first->prev = head_.prev;
    head_.prev->next = first;
    last->next = &head_;
    head_.prev = last;
  }

  // Iteration that allows the visited element to be removed or destroyed by `visit`, but no other one.
  template <typename Visit>
  void for_each(Visit&& visit) {
    for (ListHook* at = head_.next; at != &head_;) {
      ListHook* next = at->next;
      visit(from(at));
      at = next;
    }
  }

 private:
  static T& from(ListHook* hook) noexcept { return static_cast<T&>(static_cast<Hook&>(*hook)); }
  static void insert(ListHook& after, Hook& element) noexcept {
    DE_ASSERT(!element.linked());
    element.prev = &after;
    element.next = after.next;
    after.next->prev = &element;
    after.next = &element;
  }

  ListHook head_;
};

}  // namespace diskengine
