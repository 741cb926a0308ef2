#include "runtime/machine.h"

#include <fstream>
#include <string>

namespace diskengine {

Uuid machine_boot() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  const Result<Uuid> boot = Uuid::parse(text);
  return boot ? *boot : Uuid{};
}

}  // namespace diskengine
