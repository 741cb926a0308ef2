"""A history: a seeded sequence of faults in a cluster (world.py), under a guest that knows what was acknowledged.

In the end everything is mended, and it must hold: no read returned anything older than what was acknowledged or read
before (the guest fails at once), each epoch's last acknowledgement came before the next one's first, the guest saw no
error that the faults do not explain (blame.py), all is ready again, what is read is still right, and the legs are the
same byte for byte."""

import collections
import random
import signal
import time

from blame import Blame
from diskengine_test import RpcError, wait_until
from kinds import HOG, Kinds
from world import FaultCluster

BLOCKS = 256  # few, so that operations meet
STRIDE = 32  # they lie 128 KiB apart, so eight in a cluster of the store
ZERO_BLOCKS = 8  # a zeroing gives a cluster back, and the next write needs a new one
READY_S = 90
ANSWER_S = 30
LOOK_S = 0.1
SHORT = 5  # faults
# An acknowledgement counts when the guest sees it, which a busy machine may delay.
EPOCH_SLACK_NS = 2_000_000_000


class History:
    def __init__(self, case, seed, faults, say=print):
        self.case = case
        self.seed = seed
        self.faults = faults
        self.is_short = faults <= SHORT
        self.random = random.Random(seed)
        self.say = say
        self.cluster = FaultCluster(case, on_postgres=self.random.random() < 0.5)
        self.holder = "c1"  # the compute node that has the volume
        self.guests = []
        self.given_away = {}  # by guest: when its volume went to the other node
        self.blame = Blame(self.cluster.storage)
        self.done = collections.Counter()  # faults, by kind
        self.resumed = 0
        self.began = time.monotonic()

    def run(self):
        self.cluster.start()
        self.cluster.make_volume(node=self.holder, size=f"{BLOCKS * STRIDE // 256}MiB")
        self.raid = self.cluster.volume()["raid"]
        self.legs = {replica["base_bdev"]: replica["node"] for replica in self.cluster.volume()["replicas"]}
        self.tell(f"on {'PostgreSQL' if self.cluster.postgres else 'SQLite'}")
        self.start_guest()
        kinds = Kinds(self).all
        for _ in range(self.faults):
            what = self.random.random()
            if what < 0.12:
                self.move()
            else:
                chosen = self.choose(kinds, 3 if what < 0.2 else 2 if what < 0.55 else 1)
                self.done.update(kind.__name__ for kind in chosen)
                self.at_once(chosen)
            self.pass_time(self.random.uniform(0.1, 1.5))
            self.check_guests()
        return self.judge()

    def choose(self, kinds, number):
        """So many different ones; a kind that is listed twice comes twice as often."""
        chosen = []
        while len(chosen) < number:
            kind = self.random.choice(kinds)
            if kind not in chosen:
                chosen.append(kind)
        return chosen

    def at_once(self, kinds):
        """One fault, or several that overlap; each has a randomness of its own. No threads: what a thread starts ends with it."""
        running = [[time.monotonic(), kind(random.Random(self.random.randrange(1 << 30)))] for kind in kinds]
        while running:
            running.sort(key=lambda entry: entry[0])
            self.pass_time(running[0][0] - time.monotonic())
            try:
                running[0][0] = time.monotonic() + next(running[0][1])
            except StopIteration:
                running.pop(0)

    def pass_time(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            time.sleep(max(0, min(LOOK_S, until - time.monotonic())))

    def look(self):
        """Sees which legs are in sync, and is the person whom a mirror that stopped waits for. A killed process loses
        nothing here: its machine has what it had written."""
        plane = self.cluster.planes[self.holder]
        if plane.exit_code() is not None or self.is_stopped(plane):
            return
        try:
            mirrors = self.cluster.ask(self.holder, "bdev_raid_get_bdevs", category="all")
            for mirror in [mirror for mirror in mirrors if mirror["name"] == self.raid]:
                self.blame.saw([self.legs.get(leg["name"]) for leg in mirror["base_bdevs_list"] if leg["state"] == "in_sync"])
                if mirror.get("stopped"):
                    self.tell(f"go on: {mirror['reason']}")
                    self.cluster.ask(self.holder, "diskengine_raid_resume", name=self.raid)
                    self.resumed += 1
        except (OSError, RpcError):
            pass  # it ends or begins

    @staticmethod
    def is_stopped(process):
        with open(f"/proc/{process.pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "T"

    def tell(self, what):
        self.say(f"  {time.monotonic() - self.began:6.1f} {what}", flush=True)

    def start_guest(self):
        self.guests.append(self.cluster.start_load(blocks=BLOCKS, stride=STRIDE, zero_blocks=ZERO_BLOCKS, depth=8,
                                                   seed=self.random.randrange(1 << 30)))

    def check_guests(self):
        for guest in self.guests:
            if guest.exit_code() is not None:
                guest.fail(f"ended with {guest.exit_code()} (seed {self.seed})")

    def move(self):
        """The volume goes to the other compute node; the one that had it is not asked, and its guest goes on trying."""
        self.done["move"] += 1
        self.given_away[self.guests[-1]] = time.monotonic()
        self.holder = "c2" if self.holder == "c1" else "c1"
        self.tell(f"move the volume to {self.holder}")
        # A guest that was left behind there would find its disk again, and write under an epoch that it does not know.
        for guest in [guest for guest in self.guests if guest.node == self.holder]:
            guest.kill()
            self.guests.remove(guest)
        wait_until(self.is_moved, ANSWER_S, "the control plane to move the attachment")
        wait_until(lambda: self.cluster.attachment()["node"] == self.holder, ANSWER_S, "the control plane to answer")
        self.start_guest()

    def is_moved(self):
        """Asks for it; again if the database did not answer, unless that was only not heard of."""
        if self.cluster.attachment()["node"] != self.holder:
            self.cluster.cli("attachment", "move", "v", "--node", self.holder, "--no-wait")
        return True

    # --- the end

    def judge(self):
        self.cluster.network.mend()
        self.tell("all is mended")

        def is_ready():
            self.look()
            return self.cluster.attachment()["state"] == "ready"

        wait_until(is_ready, READY_S, "the attachment to be ready")
        self.pass_time(1)
        self.check_guests()
        for guest in self.guests[:-1]:
            guest.signal(signal.SIGINT)  # its disk does not come back
        seen = [(guest, guest.stop()) for guest in self.guests]
        again = self.cluster.start_load(blocks=BLOCKS, stride=STRIDE, verify=True).result()
        self.case.assertEqual((again["reads"], again["wrong"]), (BLOCKS, False))
        self.check_epochs(again["epochs"])
        self.cluster.check_identical()
        for node in self.cluster.storage:
            self.case.assertEqual(self.cluster.lvols_named(node, HOG), [])
            self.case.assertNotIn("frozen_reason", self.cluster.store(node))
        explained = sum(self.check_errors(guest, result) for guest, result in seen)
        results = [result for _, result in seen]
        return {"writes": sum(r["writes"] + r["zeroings"] for r in results), "reads": sum(r["reads"] for r in results),
                "flushes": sum(r["flushes"] for r in results), "errors_explained": explained,
                "resumed_by_hand": self.resumed, "longest_ms": max(r["longest_ms"] for r in results),
                "epochs": len(again["epochs"]), "faults": dict(self.done)}

    def check_errors(self, guest, result):
        """How many errors the guest saw while it had the volume; the test fails if the faults do not explain one."""
        until = self.given_away.get(guest, float("inf"))
        mine = [moment for moment in (ns / 1e9 for ns in result["errors_ns"]) if moment < until]
        for moment in mine:
            if not self.blame.explains(moment):
                self.case.fail(f"an error {moment - self.began:.1f} s after the start that no fault explains (seed {self.seed})")
        return len(mine)

    def check_epochs(self, epochs):
        for earlier, later in zip(epochs, epochs[1:]):
            self.case.assertLess(earlier["last_ack_ns"], later["first_ack_ns"] + EPOCH_SLACK_NS,
                                 f"epoch {earlier['epoch']} acknowledged after {later['epoch']} did (seed {self.seed})")
