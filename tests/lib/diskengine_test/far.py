"""Another machine on this one: a network namespace of its own behind a link that can lose what is sent."""

import os
import subprocess

from .deadline import wait_until

HERE = "10.77.1.1"
NOBODY = "02:00:00:00:00:fe"  # an Ethernet address that no machine has


class FarMachine:
    """Belongs to a TestCase, which ends the process that keeps its namespace. Needs a network namespace of the test's own."""

    ADDRESS = "10.77.1.2"

    def __init__(self, case):
        holder = case.start(["unshare", "--net", "sleep", "infinity"], "far-machine")
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own, 5, "the network of the far machine")
        self.prefix = ("nsenter", "-t", str(holder.pid), "-n")  # runs a command there
        self._ip("link", "add", "far0", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        self._ip("addr", "add", f"{HERE}/24", "dev", "far0")
        self._ip("link", "set", "far0", "up")
        for arguments in (["link", "set", "lo", "up"], ["addr", "add", f"{self.ADDRESS}/24", "dev", "eth0"],
                          ["link", "set", "eth0", "up"]):
            subprocess.run([*self.prefix, "ip", *arguments], check=True, capture_output=True)

    def lose(self, lost):
        """Whether what is sent there vanishes, with nobody told."""
        if lost:
            self._ip("neigh", "replace", self.ADDRESS, "lladdr", NOBODY, "nud", "permanent", "dev", "far0")
        else:
            self._ip("neigh", "del", self.ADDRESS, "dev", "far0")

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
