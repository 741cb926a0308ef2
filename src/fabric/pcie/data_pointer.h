// How a command says where its data is: page pointers (PRP), or scatter-gather descriptors (SGL). Pieces are added in
// order; each builder says so when the pieces cannot be expressed its way.
//
// Threads: any; a builder is for one command.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "format/nvme_identify.h"
#include "format/nvme_pcie.h"

namespace diskengine::fabric::pcie {

// All pieces but the first begin at a page, all but the last end at one.
class PrpBuilder {
 public:
  // `list` is a page for pointers, which the controller reaches at `list_iova`.
  PrpBuilder(uint64_t* list, uint64_t list_iova) noexcept : list_(list), list_iova_(list_iova) {}

  // False if the piece does not fit; the builder is of no use then.
  bool add(uint64_t iova, size_t bytes) noexcept {
    if (pages_ == 0 && iova % spec::kPrpAlignment != 0) return false;
    while (bytes > 0) {
      const uint64_t in_page = iova % spec::kPrpPageBytes;
      const size_t length = std::min<size_t>(bytes, spec::kPrpPageBytes - in_page);
      const bool continues = pages_ > 0 && in_page != 0 && iova == end_;
      if (!continues && !begin_page(iova, in_page)) return false;
      iova += length;
      bytes -= length;
      end_ = iova;
    }
    return true;
  }
  spec::PrpPair pair() const noexcept {
    if (pages_ < 2) return {first_, 0};
    return {first_, pages_ == 2 ? list_[0] : list_iova_};
  }

 private:
  bool begin_page(uint64_t iova, uint64_t in_page) noexcept {
    if (pages_ == 0) {
      first_ = iova;
    } else {
      if (in_page != 0 || end_ % spec::kPrpPageBytes != 0 || pages_ > spec::kPrpListEntries) return false;
      list_[pages_ - 1] = iova;
    }
    ++pages_;
    return true;
  }

  uint64_t* const list_;
  const uint64_t list_iova_;
  uint64_t first_ = 0;
  uint64_t end_ = 0;  // where the last piece ended
  size_t pages_ = 0;
};

// Pieces of any length.
class SglBuilder {
 public:
  static constexpr size_t kDescriptorsMax = spec::kPrpPageBytes / sizeof(spec::SglDescriptor);

  // `list` is a page for descriptors, at `list_iova`; `sgls` what Identify says of the controller's SGLs.
  SglBuilder(spec::SglDescriptor* list, uint64_t list_iova, uint32_t sgls) noexcept
      : list_(list), list_iova_(list_iova), unit_((sgls & spec::kSglsAligned) != 0 ? 4 : 1) {}
  static bool offered(uint32_t sgls) noexcept { return (sgls & (spec::kSglsSupported | spec::kSglsAligned)) != 0; }

  bool add(uint64_t iova, size_t bytes) noexcept {
    if (iova % unit_ != 0 || bytes % unit_ != 0) return false;
    if (count_ > 0 && last_.address + last_.length == iova) {
      last_.length += static_cast<uint32_t>(bytes);
    } else {
      if (count_ == kDescriptorsMax) return false;
      ++count_;
      last_ = {};
      last_.address = iova;
      last_.length = static_cast<uint32_t>(bytes);
      last_.type = spec::SglType::data_block_address;
    }
    list_[count_ - 1] = last_;
    return true;
  }
  // For the command: the only descriptor, or one that names the list.
  spec::SglDescriptor descriptor() const noexcept {
    if (count_ == 1) return last_;
    spec::SglDescriptor segment;
    segment.address = list_iova_;
    segment.length = static_cast<uint32_t>(count_ * sizeof(spec::SglDescriptor));
    segment.type = spec::SglType::last_segment;
    return segment;
  }

 private:
  spec::SglDescriptor* const list_;
  const uint64_t list_iova_;
  const uint64_t unit_;
  spec::SglDescriptor last_;
  size_t count_ = 0;
};

}  // namespace diskengine::fabric::pcie
