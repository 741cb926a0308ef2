// The methods that read what bdevs counted (SPDK: bdev_get_iostat, bdev_get_histogram and their counterparts). Counting
// itself never stops: it is part of each channel; "enabling" a histogram only chooses where it begins.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "block/registry.h"
#include "rpc/method.h"

namespace diskengine::rpc {

// Which bdevs' histograms are enabled, and what had been counted by then. Main reactor; outlives the table.
class HistogramMarks final : private DeviceRegistry::Observer {
 public:
  enum class Kind { all, read, write };
  struct Mark {
    Kind kind = Kind::all;
    std::vector<uint64_t> before;  // buckets at the moment it was enabled
  };

  explicit HistogramMarks(DeviceRegistry& devices) : devices_(devices) { devices_.observe(*this); }
  ~HistogramMarks() { devices_.unobserve(*this); }

  void enable(const std::string& name, Mark mark) { marks_[name] = std::move(mark); }
  void disable(const std::string& name) { marks_.erase(name); }
  // Everything counted so far was reset.
  void forget_past(const std::string& name);
  const Mark* find(const std::string& name) const;

 private:
  void on_device_removed(const std::string& name) override { marks_.erase(name); }

  DeviceRegistry& devices_;
  std::map<std::string, Mark> marks_;
};

void add_stats_methods(MethodTable& methods, DeviceRegistry& devices, HistogramMarks& marks);

}  // namespace diskengine::rpc
