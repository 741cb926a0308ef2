"""A volume is given to another compute node while the one that has it cannot be asked."""

import os
import signal
import time

from diskengine_test import TestCase, wait_until
from diskengine_test.cluster import Cluster


class Move(TestCase):
    TEST_TIMEOUT_S = 120

    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self, compute=2).start()
        self.cluster.make_volume(node="c1")

    def mirrors(self, node):
        return self.cluster.rpc(node).bdev_raid_get_bdevs(category="all")

    def test_the_old_writer_acknowledges_nothing_once_the_new_one_may_write(self):
        old = self.cluster.start_load(blocks=256)
        time.sleep(0.5)
        before = self.cluster.attachment()
        self.assertIn("fence node c1", self.cluster.cli("attachment", "move", "v", "--node", "c2", "--dry-run"))
        self.cluster.cli("attachment", "move", "v", "--node", "c2")
        after = self.cluster.attachment()
        self.assertEqual((after["node"], after["epoch"]), ("c2", before["epoch"] + 1))
        new = self.cluster.start_load(blocks=256)
        wait_until(lambda: not self.mirrors("c1"), 20, "what is left on c1 to be taken apart")
        self.assertEqual(self.cluster.rpc("c1").bdev_nvme_get_controllers(), [])
        self.cluster.wait_state("ready")
        time.sleep(0.5)
        epochs = new.stop()["epochs"]
        old.kill()
        self.assertLess(epochs[0]["last_ack_ns"], epochs[1]["first_ack_ns"])
        self.assertEqual(self.cluster.start_load(blocks=256, verify=True).result()["wrong"], False)
        self.cluster.check_identical()

    def test_a_data_plane_that_was_stopped_meanwhile_writes_nothing_when_it_goes_on(self):
        old = self.cluster.start_load(blocks=256)
        time.sleep(0.5)
        plane = self.cluster.planes["c1"]
        os.kill(plane.pid, signal.SIGSTOP)
        try:
            self.cluster.cli("attachment", "move", "v", "--node", "c2", "--timeout", "60s")
            new = self.cluster.start_load(blocks=256)
            time.sleep(1)
        finally:
            os.kill(plane.pid, signal.SIGCONT)
        wait_until(lambda: not self.mirrors("c1"), 20, "what is left on c1 to be taken apart")
        self.cluster.wait_state("ready")
        time.sleep(0.5)
        new.stop()
        old.kill()
        self.assertEqual(self.cluster.start_load(blocks=256, verify=True).result()["wrong"], False)
        self.cluster.check_identical()
        self.assertIn("attached on node c2", self.cluster.refused("attachment", "create", "v", "--node", "c1"))
        self.assertIn("is on node c2 already", self.cluster.refused("attachment", "move", "v", "--node", "c2"))
