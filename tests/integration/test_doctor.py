"""`diskengine doctor latency`: what real nodes recorded of spikes that were made is found with period, layer and cause."""

import time

from diskengine_test import TestCase
from diskengine_test.control import Fleet

SPIKES = 9
FOUND = 6  # at least: a busy machine hides some
DISTANCE_S = 6
SLOW_US = 800_000  # out of the reach of what a busy machine does to every write
OK, FAILED, USAGE, NOT_FOUND = 0, 1, 2, 3


class DoctorLatency(TestCase):
    TEST_TIMEOUT_S = 180

    def setUp(self):
        super().setUp()
        self.fleet = Fleet(self).start()
        self.fleet.volume()

    def disk_delay(self, node, us):
        for kind in ("avg_write", "p99_write"):
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
