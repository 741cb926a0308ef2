"""A cluster whose parts fail at random: two storage nodes and two compute nodes, each with a data plane and an agent of
its own in a network namespace of its own, one database, and a guest that knows what was acknowledged.

A history is a seeded sequence of faults under that guest. In the end everything is mended, and it must hold: no read
returned anything older than what was acknowledged or read before (the guest fails at once), each epoch's last
acknowledgement came before the next one's first, all is ready again, what is read is still right, and the legs are the
same byte for byte."""

import os
import random
import signal
import sqlite3
import time

from diskengine_test import wait_until
from diskengine_test.cluster import Cluster
from network import Network

BLOCKS = 256  # few, so that operations meet
READY_S = 60
# An acknowledgement counts when the guest sees it, which a busy machine may delay.
EPOCH_SLACK_NS = 2_000_000_000


class FaultCluster(Cluster):
    def __init__(self, case):
        super().__init__(case, storage=2, compute=2, interval="300ms")
        self.network = Network(case, self.storage + self.compute)
        self.addresses = {node: f"{self.network[node].address}:4420" for node in self.storage}
        self.agents = {}

    def start_plane(self, node):
        number = (self.storage + self.compute).index(node)
        core = hex(1 << (number % os.cpu_count()))
        self.planes[node] = self.case.start_io(node, core_mask=core, prefix=self.network[node].prefix)
        return self.planes[node]

    def start_control(self):
        """The API, and an agent for each node; all on one database."""
        super().start_control()
        for node in self.storage + self.compute:
            self.start_agent(node)

    def serve_command(self, *more):
        return super().serve_command("--role", "api", *more)

    def start_agent(self, node):
        role = "storagenode" if node in self.storage else "baremetal"
        command = [self.serve_command()[0], "serve", "--db", self.db, "--interval", self.interval, "--role", role]
        self.agents[node] = self.case.start([*command, "--node", node], f"agent-{node}")


class History:
    def __init__(self, case, seed, faults, say=print):
        self.case = case
        self.seed = seed
        self.faults = faults
        self.random = random.Random(seed)
        self.say = say
        self.cluster = FaultCluster(case)
        self.holder = "c1"  # the compute node that has the volume
        self.guests = []

    def run(self):
        self.cluster.start()
        self.cluster.make_volume(node=self.holder)
        self.start_guest()
        kinds = [self.kill_plane, self.kill_agent, self.stop_agent, self.stop_plane, self.cut_link, self.cut_link,
                 self.unplug, self.lock_database, self.move]
        for _ in range(self.faults):
            self.random.choice(kinds)()
            self.pause(0.1, 1.5)
            self.check_guests()
        return self.judge()

    def pause(self, least, most):
        time.sleep(self.random.uniform(least, most))

    def tell(self, what):
        self.say(f"  {what}")

    def start_guest(self):
        self.guests.append(self.cluster.start_load(blocks=BLOCKS, depth=8, seed=self.random.randrange(1 << 30)))

    def check_guests(self):
        for guest in self.guests:
            if guest.exit_code() is not None:
                guest.fail(f"ended with {guest.exit_code()} (seed {self.seed})")

    # --- faults; each is over when it returns

    def any_node(self):
        return self.random.choice(self.cluster.storage + self.cluster.compute)

    def kill_plane(self):
        node = self.random.choice([*self.cluster.storage, self.holder])
        self.tell(f"kill the data plane of {node}")
        self.cluster.planes[node].kill()
        self.pause(0, 2)
        self.cluster.start_plane(node)

    def kill_agent(self):
        node = self.any_node()
        self.tell(f"kill the agent of {node}")
        self.cluster.agents[node].kill()
        self.pause(0, 2)
        self.cluster.start_agent(node)

    def stop_agent(self):
        """It goes on later with what it had read before."""
        self.hold(self.cluster.agents[self.any_node()], "an agent", 7)

    def stop_plane(self):
        self.hold(self.cluster.planes[self.any_node()], "a data plane", 4)

    def hold(self, process, what, most):
        self.tell(f"stop {what} for a while")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            self.pause(0.2, most)
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def cut_link(self):
        """One way, or both, between a compute node and a storage node."""
        compute, storage = self.network(self.holder), self.network(self.random.choice(self.cluster.storage))
        ways = self.random.choice([[(compute, storage)], [(storage, compute)], [(compute, storage), (storage, compute)]])
        self.tell(f"cut {', '.join(f'{a.name} to {b.name}' for a, b in ways)}")
        for one, other in ways:
            one.cut_to(other)
        self.pause(0.2, 6)
        for one, other in ways:
            one.mend_to(other)

    def unplug(self):
        machine = self.network(self.any_node())
        self.tell(f"unplug {machine.name}")
        machine.unplug()
        self.pause(0.2, 4)
        machine.plug_in()

    def network(self, node):
        return self.cluster.network[node]

    def lock_database(self):
        self.tell("the database does not answer")
        database = sqlite3.connect(self.cluster.db, timeout=30, isolation_level=None)
        database.execute("BEGIN EXCLUSIVE")
        self.pause(0.2, 4)
        database.execute("ROLLBACK")
        database.close()

    def move(self):
        """The volume goes to the other compute node; the one that had it is not asked, and its guest goes on trying."""
        self.holder = "c2" if self.holder == "c1" else "c1"
        self.tell(f"move the volume to {self.holder}")
        self.cluster.cli("attachment", "move", "v", "--node", self.holder, "--no-wait")
        self.start_guest()

    # --- the end

    def judge(self):
        self.cluster.network.mend()
        self.cluster.wait_state("ready", timeout_s=READY_S)
        time.sleep(1)
        self.check_guests()
        seen = [guest.stop() for guest in self.guests]
        again = self.cluster.start_load(blocks=BLOCKS, verify=True).result()
        self.case.assertEqual((again["reads"], again["wrong"]), (BLOCKS, False))
        self.check_epochs(again["epochs"])
        self.cluster.check_identical()
        # A guest whose volume was given away gets errors until it is stopped; the last one has it to the end.
        return {"writes": sum(s["writes"] for s in seen), "reads": sum(s["reads"] for s in seen),
                "errors_of_the_last": seen[-1]["errors"], "longest_ms": max(s["longest_ms"] for s in seen),
                "epochs": len(again["epochs"])}

    def check_epochs(self, epochs):
        for earlier, later in zip(epochs, epochs[1:]):
            self.case.assertLess(earlier["last_ack_ns"], later["first_ack_ns"] + EPOCH_SLACK_NS,
                                 f"epoch {earlier['epoch']} acknowledged after {later['epoch']} did (seed {self.seed})")
