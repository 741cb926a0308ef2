"""`diskengine doctor latency`: what real nodes recorded of spikes that were made is found with period, layer and cause."""

import os
import time
import unittest

from diskengine_test import TestCase, wait_until
from diskengine_test.control import MIB, Fleet
from diskengine_test.far import FarMachine
from diskengine_test.faults import in_namespace

SPIKES = 9
FOUND = 6  # at least: a busy machine hides some
DISTANCE_S = 6
SLOW_US = 800_000  # out of the reach of what a busy machine does to every write
OK, FAILED, USAGE, NOT_FOUND = 0, 1, 2, 3

# A minute each, and judged by how quick the machine is otherwise.
by_hand = unittest.skipUnless(os.environ.get("DISKENGINE_FAULTS") == "all", "with DISKENGINE_FAULTS=all")


class DoctorLatency(TestCase):
    TEST_TIMEOUT_S = 180
    # Small ones, of which little is copied each time.
    SIZES = {"test_a_snapshot_schedule_is_named": "4MiB", "test_rebuilds_are_named": "8MiB"}

    def setUp(self):
        super().setUp()
        far = "network" in self._testMethodName
        if far and not in_namespace():
            self.skipTest("losing what is sent needs a network of its own")
        if far:
            self.far = FarMachine(self)
            self.fleet = Fleet(self, addresses=(FarMachine.ADDRESS, "127.0.0.1"), prefixes={"s1": self.far.prefix})
        else:
            self.fleet = Fleet(self)
        self.fleet.start()
        self.fleet.volume(size=self.SIZES.get(self._testMethodName, "64MiB"))

    def disk_delay(self, node, us, op="write"):
        for kind in (f"avg_{op}", f"p99_{op}"):
            self.fleet.rpc(node).bdev_delay_update_latency(
                delay_bdev_name=self.fleet.disk_bdev(node), latency_type=kind, latency_us=us)

    def load(self):
        self.fleet.load(self.fleet.attach()["socket"], depth=1)
        self.fleet.moves("raid_1")

    def test_a_disk_that_is_slow_every_few_seconds_is_named_with_its_period(self):
        self.load()
        time.sleep(DISTANCE_S)
        for _ in range(SPIKES):
            begin = time.monotonic()
            self.disk_delay("s2", SLOW_US)
            time.sleep(0.4)  # shorter than the delay: one write has it
            self.disk_delay("s2", 0)
            time.sleep(max(0, begin + DISTANCE_S - time.monotonic()))
        found = self.fleet.query("doctor", "latency", "v", "--since", "2m", expect=(FAILED,))
        tall = [spike for spike in found["spikes"] if spike["worst_us"] > SLOW_US / 2]
        self.assertGreaterEqual(len(tall), FOUND, found)
        self.assertAlmostEqual(found["period_ms"], DISTANCE_S * 1000, delta=600, msg=found)
        self.assertEqual((found["layers"][0]["layer"], found["layers"][0]["node"]), ("disk", "s2"), found)
        likely = [(cause["code"], cause["node"]) for cause in found["causes"] if cause["certainty"] != "possible"]
        self.assertIn(("disk-slow", "s2"), likely, found)
        busy = [(code, node) for code, node in likely if code == "reactor-saturated"]  # true where others use the CPUs
        self.assertEqual([("disk-slow", "s2")], [one for one in likely if one not in busy], found)
        excluded = {one["code"] for one in found["excluded"]}
        self.assertLessEqual({"rebuild", "scrub", "reconnect", "snapshot"}, excluded)
        drawn = self.fleet.run("doctor", "latency", "v", "--since", "2m").stdout
        self.assertIn("^", drawn)
        self.assertIn("disk on s2", drawn)
        self.assertLessEqual(max(len(line) for line in drawn.splitlines()[2:11]), 80)

    def doctor(self):
        """What it found, and whatever it holds for likely or certain."""
        found = self.fleet.query("doctor", "latency", "v", "--since", "4m", expect=(FAILED,))
        return found, [(cause["code"], cause["node"]) for cause in found["causes"] if cause["certainty"] != "possible"]

    def every(self, seconds, times, act):
        for _ in range(times):
            begin = time.monotonic()
            act()
            time.sleep(max(0, begin + seconds - time.monotonic()))

    @by_hand
    def test_a_snapshot_schedule_is_named(self):
        """Each takes many writes of metadata, and copies of clusters after it, on a disk that is none of the quickest."""
        self.load()
        lvol = self.fleet.replica("s2")["lvol"]
        names = iter(f"schedule{number}" for number in range(100))
        time.sleep(3)  # until every cluster is there
        self.disk_delay("s2", 40_000)
        time.sleep(12)
        self.every(8, 5, lambda: self.fleet.rpc("s2").bdev_lvol_snapshot(lvol_name=lvol, snapshot_name=next(names)))
        found, likely = self.doctor()
        self.assertIn(("snapshot", ""), likely, found)
        self.assertIn((found["layers"][0]["layer"], found["layers"][0]["node"]), [("lvol", "s2"), ("disk", "s2")], found)
        self.assertTrue({"rebuild", "scrub", "reconnect"} <= {one["code"] for one in found["excluded"]}, found)

    @by_hand
    def test_a_neighbour_that_takes_all_of_a_reactors_time_is_named(self):
        rpc = self.fleet.rpc("s2")
        rpc.bdev_malloc_create(name="neighbour", num_blocks=64 * MIB // 512, block_size=512)
        self.load()
        time.sleep(10)
        # What is outstanding is copied at a stretch: for so long nobody else has a turn.
        burst = {"queue_depth": 128, "io_size": MIB // 2, "duration_ms": 3500, "warm_up_ms": 1}
        self.every(9, 5, lambda: rpc.diskengine_perf_run(bdev_name="neighbour", **burst))
        found, likely = self.doctor()
        self.assertIn(("reactor-saturated", "s2"), likely, found)

    @by_hand
    def test_rebuilds_are_named(self):
        """Their windows are large and slow to be read, and a write into the one that is copied waits for it."""
        self.load()
        compute = self.fleet.rpc("c1")
        compute.bdev_raid_set_options(process_window_size_kb=32 * 1024)
        self.disk_delay("s1", 100_000, "read")
        leg = self.fleet.replica("s2")["base_bdev"]

        def rebuilds():
            events = compute.diskengine_history_get(series="events", name="raid_1")["records"]
            return [event for event in events if event["type"] == "rebuild" and event["phase"] == "ended"]

        def rebuild():
            before = len(rebuilds())
            compute.bdev_raid_remove_base_bdev(name=leg)
            wait_until(lambda: len(rebuilds()) > before, 30, "the rebuild to end")

        time.sleep(10)
        self.every(8, 5, rebuild)
        found, likely = self.doctor()
        self.assertIn(("rebuild", ""), likely, found)

    def test_what_the_network_loses_is_recorded_at_the_host_and_the_target(self):
        self.load()

        def records(node):
            got = self.fleet.rpc(node).diskengine_history_get(kind="network", name=self.connections())
            return [record for record in got["records"] if record["type"] == "tcp"]

        for node in ("c1", "s1"):
            wait_until(lambda node=node: len(records(node)) > 1, 10, f"{node} to record its connections")
            self.assertGreater(max(record["rtt_us"] for record in records(node)), 0)
        self.lose_for(0.5)
        wait_until(lambda: sum(one["again"] for node in ("c1", "s1") for one in records(node)), 10, "segments sent again")

    def connections(self):
        return f"tcp {FarMachine.ADDRESS}:{self.fleet.ports['s1']}"

    def lose_for(self, seconds):
        self.far.lose(True)
        time.sleep(seconds)
        self.far.lose(False)

    @by_hand
    def test_a_network_that_loses_what_is_sent_is_named(self):
        """For less than it takes to notice it, and TCP sends again what was on its way."""
        self.load()
        time.sleep(10)
        self.every(8, 5, lambda: self.lose_for(0.5))
        found, likely = self.doctor()
        self.assertIn(("retransmissions", "s1"), likely, found)
        self.assertIn((found["layers"][0]["layer"], found["layers"][0]["node"]), [("network", "s1")], found)
        self.assertNotIn("network of c1", [gap["what"] for gap in found["not_looked_at"]])

    def test_a_steady_volume_and_one_that_did_nothing_are_not_accused(self):
        self.fleet.attach()
        quiet = self.fleet.query("doctor", "latency", "v", expect=(OK,))
        self.assertIn("too little", quiet["headline"])
        self.assertEqual(quiet["causes"], [])

    def test_what_cannot_be_looked_at_is_said(self):
        self.fleet.attach()
        self.fleet.planes["s1"].kill()
        found = self.fleet.query("doctor", "latency", "v", expect=(OK, FAILED))
        self.assertIn("node s1", [gap["what"] for gap in found["not_looked_at"]])

    def test_a_volume_without_path_and_a_wrong_window_are_refused(self):
        self.assertEqual(self.fleet.run("doctor", "latency", "v").returncode, NOT_FOUND)
        self.assertEqual(self.fleet.run("doctor", "latency", "none").returncode, NOT_FOUND)
        self.assertEqual(self.fleet.run("doctor", "latency", "v", "--since", "1000h").returncode, USAGE)
