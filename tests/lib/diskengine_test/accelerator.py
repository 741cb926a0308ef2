"""How QEMU runs a guest here: with KVM where a guest really gets through a boot with it, else in software.

A /dev/kvm that opens proves little: inside another virtual machine it may refuse registers or never get past the
firmware. So the first guest on a machine is preceded by a probe, whose answer is kept until the machine restarts.
"""

import os
import subprocess

from .kernel import CACHE, kernel_image, write_atomically

QEMU = "qemu-system-x86_64"
SOFTWARE = ["-accel", "tcg", "-cpu", "max"]
# Without the second's removal, QEMU 7.2 aborts where the host hides the register of architectural capabilities.
KVM_CHOICES = [["-accel", "kvm", "-cpu", "host"], ["-accel", "kvm", "-cpu", "host,-arch-capabilities"]]
PROBE_S = 8


def _boots(accelerator, kernel):
    """Whether the kernel gets as far as missing its root file system, which ends the probe."""
    command = [QEMU, "-M", "q35", *accelerator, "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-kernel", kernel, "-append", "quiet panic=-1"]
    try:
        return subprocess.run(command, capture_output=True, timeout=PROBE_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _probe():
    if os.access("/dev/kvm", os.W_OK):
        kernel, _ = kernel_image()
        for accelerator in KVM_CHOICES:
            if _boots(accelerator, kernel):
                return accelerator
    return SOFTWARE


def accelerator():
    """QEMU's arguments."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    path = os.path.join(CACHE, f"accelerator-{boot}")
    if not os.path.exists(path):
        write_atomically(path, "\n".join(_probe()).encode())
    with open(path) as file:
        return file.read().split("\n")
