"""A short random history of faults in a cluster of real processes; `./dev fault` runs long ones (tests/fault)."""

import os
import secrets
import sys

from diskengine_test import TestCase

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))

from world import History  # noqa: E402


class ClusterFaults(TestCase):
    TEST_TIMEOUT_S = 240

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
        print(f"{seen}", flush=True)
        self.assertGreater(seen["writes"], 0)
