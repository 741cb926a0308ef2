"""A short random history of faults in a cluster of real processes; `./dev fault` runs long ones (tests/fault)."""

import json
import os
import secrets
import sys
import time

from diskengine_test import TestCase

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))

from blame import Blame  # noqa: E402
from history import History  # noqa: E402


class Errors(TestCase):
    """Which errors of a guest count as explained."""

    def setUp(self):
        super().setUp()
        self.blame = Blame(["s1", "s2"])
        self.now = time.monotonic()

    def test_without_a_fault_none_is_nor_by_one_disk_or_one_absent_leg_alone(self):
        self.assertFalse(self.blame.explains(self.now))
        self.blame.saw(["s1"])
        self.assertFalse(self.blame.explains(self.now))
        self.blame = Blame(["s1", "s2"])
        with self.blame.disk("s1"):
            self.assertFalse(self.blame.explains(time.monotonic()))
        self.blame.saw(["s2"])  # the leg that failed is the one that is out
        self.assertFalse(self.blame.explains(time.monotonic()))

    def test_a_disk_that_fails_while_the_other_leg_is_out_explains_them_and_so_do_two_disks(self):
        with self.blame.disk("s1"):
            self.blame.saw(["s1"])
            self.assertTrue(self.blame.explains(time.monotonic()))
        self.blame = Blame(["s1", "s2"])
        with self.blame.disk("s1"), self.blame.disk("s2"):
            self.assertTrue(self.blame.explains(time.monotonic()))
        self.assertFalse(self.blame.explains(time.monotonic() + 60))


class ClusterFaults(TestCase):
    TEST_TIMEOUT_S = 200 + 15 * int(os.environ.get("DISKENGINE_FAULT_COUNT") or 0)

    def test_no_acknowledged_write_is_lost_and_the_legs_end_alike(self):
        seed = int(os.environ.get("DISKENGINE_FAULT_SEED") or secrets.randbelow(1 << 32))
        faults = int(os.environ.get("DISKENGINE_FAULT_COUNT") or 5)
        replay = (f"DISKENGINE_FAULT_SEED={seed} DISKENGINE_FAULT_COUNT={faults} python3 tests/run_file.py "
                  "tests/integration/test_cluster_faults.py")
        print(f"replay: {replay}", flush=True)
        try:
            seen = History(self, seed, faults).run()
        except Exception as error:
            raise AssertionError(f"replay: {replay}") from error
        print(", ".join(f"{name} {value}" for name, value in seen.items() if name != "faults"), flush=True)
        if summary := os.environ.get("DISKENGINE_FAULT_SUMMARY"):
            with open(summary, "w") as file:
                json.dump(seen, file)
        self.assertGreater(seen["writes"], 0)
