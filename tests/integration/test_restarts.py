"""Whatever restarts under a guest that writes: it sees no error, waits a bounded time, and reads nothing old; the legs
are the same in the end."""

import time

from diskengine_test import TestCase, scaled, wait_until
from diskengine_test.cluster import Cluster

BACK_S = 5  # what is meant; the test allows three times as much, for a machine that has other things to do


class Restarts(TestCase):
    TEST_TIMEOUT_S = 120

    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self).start()
        self.cluster.make_volume()
        self.load = self.cluster.start_load()
        time.sleep(0.7)

    def finish(self, what):
        """Everything is ready again, no request failed, none waited too long, and the legs are the same."""
        self.cluster.wait_state("ready", timeout_s=40)
        time.sleep(0.5)
        seen = self.load.stop()
        print(f"{what}: the longest request took {seen['longest_ms']:.0f} ms", flush=True)
        self.assertEqual((seen["errors"], seen["unanswered"]), (0, 0))
        self.assertLess(seen["longest_ms"], scaled(3 * BACK_S * 1000))
        again = self.cluster.start_load(verify=True).result()
        self.assertEqual((again["reads"], again["wrong"]), (1024, False))
        self.cluster.check_identical()
        return seen

    def restart(self, *nodes):
        for node in nodes:
            self.cluster.planes[node].kill()
        for node in nodes:
            self.cluster.start_plane(node)

    def test_the_compute_nodes_data_plane_is_killed(self):
        self.restart("c1")
        self.assertGreater(self.finish("the compute node's data plane is killed")["reconnects"], 0)

    def test_the_control_plane_is_killed(self):
        self.cluster.serve.kill()
        time.sleep(0.5)
        self.cluster.start_control()
        self.finish("the control plane is killed")

    def test_the_compute_nodes_data_plane_and_the_control_plane_are_killed(self):
        self.cluster.serve.kill()
        self.restart("c1")
        self.cluster.start_control()
        self.finish("both are killed")

    def test_every_process_is_killed(self):
        self.cluster.serve.kill()
        self.restart("c1", "s1", "s2")
        self.cluster.start_control()
        self.finish("every process is killed")

    def test_a_storage_node_is_killed_and_comes_back_by_what_it_lacks(self):
        self.restart("s1")
        self.finish("a storage node is killed")
        self.assertNotIn("standin", str(self.cluster.rpc("c1").bdev_get_bdevs()))

    def test_both_storage_nodes_are_killed(self):
        self.restart("s1", "s2")
        self.finish("both storage nodes are killed")
        self.assertNotIn("stopped", self.events())

    def test_the_storage_nodes_restart_one_after_the_other_whether_the_first_is_back_or_not(self):
        for pause_s in (0.3, 1.5):
            self.restart("s1")
            time.sleep(pause_s)
            self.restart("s2")
            time.sleep(pause_s)
        self.finish("the storage nodes restart one after the other")
        self.assertNotIn("stopped", self.events())

    def events(self):
        return str(self.cluster.rpc("c1").diskengine_raid_wait_events(timeout_ms=0)["events"])

    def test_the_compute_node_restarts_while_a_replica_is_away_and_never_reads_it_stale(self):
        self.cluster.planes["s2"].kill()
        wait_until(lambda: self.cluster.in_sync() == ["s1"], 20, "the exclusion to be recorded")
        time.sleep(0.3)
        self.cluster.planes["c1"].kill()
        self.cluster.start_plane("s2")
        self.cluster.start_plane("c1")
        self.finish("the compute node restarts while a replica is stale")
