"""A network of machines on this one: a network namespace for each, on one bridge, and links between them that fail."""

import os
import subprocess
import time

from diskengine_test import wait_until

PREFIX = "10.77.0."
NOBODY = "02:00:00:00:00:fe"  # an Ethernet address that no machine has


def _ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


class Machine:
    """A network namespace, kept by a process that sleeps in it."""

    def __init__(self, case, name, number):
        self.name = name
        self.address = f"{PREFIX}{number}"
        self.holder = case.start(["unshare", "--net", "sleep", "infinity"], f"net-{name}")
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != own, 5, f"the network of {name}")
        _ip("link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid))
        _ip("link", "set", f"v-{name}", "master", "br0", "up")
        self.inside("link", "set", "lo", "up")
        self.inside("addr", "add", f"{self.address}/24", "dev", "eth0")
        self.inside("link", "set", "eth0", "up")

    @property
    def prefix(self):
        """The command that runs a program on this machine."""
        return ("nsenter", "-t", str(self.holder.pid), "-n")

    def inside(self, *arguments, check=True):
        subprocess.run([*self.prefix, "ip", *arguments], check=check, capture_output=True)

    def cut_to(self, other, silently=False):
        """What this machine sends to the other one vanishes; unless silently, its programs are told when they send."""
        if silently:
            self.inside("neigh", "replace", other.address, "lladdr", NOBODY, "nud", "permanent", "dev", "eth0", check=False)
        else:
            self.inside("route", "add", "blackhole", f"{other.address}/32", check=False)

    def mend_to(self, other):
        self.inside("route", "del", "blackhole", f"{other.address}/32", check=False)
        self.inside("neigh", "del", other.address, "dev", "eth0", check=False)

    def unplug(self):
        _ip("link", "set", f"v-{self.name}", "down")

    def plug_in(self):
        _ip("link", "set", f"v-{self.name}", "up")


class Network:
    def __init__(self, case, names):
        _ip("link", "add", "br0", "type", "bridge")
        _ip("link", "set", "br0", "up")
        self.machines = {name: Machine(case, name, number + 1) for number, name in enumerate(names)}
        time.sleep(0.1)

    def __getitem__(self, name):
        return self.machines[name]

    def mend(self):
        """Every link works again."""
        for machine in self.machines.values():
            machine.plug_in()
            for other in self.machines.values():
                if other is not machine:
                    machine.mend_to(other)
