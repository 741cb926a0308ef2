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
from diskengine_test.postgres import Postgres
from network import Network

BLOCKS = 256  # few, so that operations meet
READY_S = 60
# An acknowledgement counts when the guest sees it, which a busy machine may delay.
EPOCH_SLACK_NS = 2_000_000_000


class FaultCluster(Cluster):
    def __init__(self, case, on_postgres):
        super().__init__(case, storage=2, compute=2, interval="300ms")
        self.postgres = Postgres(case) if on_postgres and Postgres.is_possible() else None
        if self.postgres is not None:
            self.db = self.postgres.conninfo
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
        self.cluster = FaultCluster(case, on_postgres=self.random.random() < 0.5)
        self.holder = "c1"  # the compute node that has the volume
        self.guests = []

    def run(self):
        self.cluster.start()
        self.cluster.make_volume(node=self.holder)
        self.start_guest()
        kinds = [self.kill_plane, self.kill_agent, self.stop_agent, self.stop_plane, self.cut_link, self.cut_link,
                 self.unplug, self.lose_database]
        for _ in range(self.faults):
            what = self.random.random()
            if what < 0.15:
                self.move()
            else:
                self.at_once(self.random.sample(kinds, 2 if what < 0.5 else 1))
            time.sleep(self.random.uniform(0.1, 1.5))
            self.check_guests()
        return self.judge()

    def at_once(self, kinds):
        """One fault, or two that overlap; each has a randomness of its own. A fault is a generator: it yields how long it
        waits. No threads: what a thread starts ends with it."""
        running = [[time.monotonic(), kind(random.Random(self.random.randrange(1 << 30)))] for kind in kinds]
        while running:
            running.sort(key=lambda entry: entry[0])
            time.sleep(max(0, running[0][0] - time.monotonic()))
            try:
                running[0][0] = time.monotonic() + next(running[0][1])
            except StopIteration:
                running.pop(0)

    def tell(self, what):
        self.say(f"  {what}")

    def start_guest(self):
        self.guests.append(self.cluster.start_load(blocks=BLOCKS, depth=8, seed=self.random.randrange(1 << 30)))

    def check_guests(self):
        for guest in self.guests:
            if guest.exit_code() is not None:
                guest.fail(f"ended with {guest.exit_code()} (seed {self.seed})")

    # --- faults; each is over when it returns

    def any_node(self, rng):
        return rng.choice(self.cluster.storage + self.cluster.compute)

    def kill_plane(self, rng):
        node = rng.choice([*self.cluster.storage, self.holder])
        self.tell(f"kill the data plane of {node}")
        self.cluster.planes[node].kill()
        yield rng.uniform(0, 2)
        self.cluster.start_plane(node)

    def kill_agent(self, rng):
        node = self.any_node(rng)
        self.tell(f"kill the agent of {node}")
        self.cluster.agents[node].kill()
        yield rng.uniform(0, 2)
        self.cluster.start_agent(node)

    def stop_agent(self, rng):
        """It goes on later with what it had read before."""
        node = self.any_node(rng)
        yield from self.hold(rng, self.cluster.agents[node], f"the agent of {node}", 7)

    def stop_plane(self, rng):
        node = self.any_node(rng)
        yield from self.hold(rng, self.cluster.planes[node], f"the data plane of {node}", 4)

    def hold(self, rng, process, what, most):
        self.tell(f"stop {what} for a while")
        self.send(process, signal.SIGSTOP)
        yield rng.uniform(0.2, most)
        self.send(process, signal.SIGCONT)

    def send(self, process, number):
        """Unless another fault has killed it meanwhile."""
        if process.exit_code() is None:
            process.signal(number)

    def cut_link(self, rng):
        """One way, or both, between a compute node and a storage node."""
        network = self.cluster.network
        compute, storage = network[self.holder], network[rng.choice(self.cluster.storage)]
        ways = rng.choice([[(compute, storage)], [(storage, compute)], [(compute, storage), (storage, compute)]])
        self.tell(f"cut {', '.join(f'{a.name} to {b.name}' for a, b in ways)}")
        for one, other in ways:
            one.cut_to(other)
        yield rng.uniform(0.2, 6)
        for one, other in ways:
            one.mend_to(other)

    def unplug(self, rng):
        machine = self.cluster.network[self.any_node(rng)]
        self.tell(f"unplug {machine.name}")
        machine.unplug()
        yield rng.uniform(0.2, 4)
        machine.plug_in()

    def lose_database(self, rng):
        if self.cluster.postgres is not None:
            self.tell("kill the database")
            self.cluster.postgres.kill()
            yield rng.uniform(0.2, 4)
            self.cluster.postgres.start()
            return
        self.tell("the database does not answer")
        database = sqlite3.connect(self.cluster.db, timeout=30, isolation_level=None)
        database.execute("BEGIN EXCLUSIVE")
        yield rng.uniform(0.2, 4)
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
