"""All replicas with current data are lost: a person lets the volume go on with an old one, and is told what that loses."""

import time

from diskengine_test import TestCase, wait_until
from diskengine_test.cluster import Cluster


class Recover(TestCase):
    TEST_TIMEOUT_S = 90

    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self).start()
        self.cluster.make_volume()

    def write_for(self, seconds, **options):
        load = self.cluster.start_load(**options)
        time.sleep(seconds)
        return load.stop()

    def lose_the_current_replica(self):
        """s2 leaves, s1 takes writes alone and dies, s2 comes back with its old data."""
        self.write_for(0.5)
        self.cluster.planes["s2"].kill()
        load = self.cluster.start_load()
        wait_until(lambda: self.cluster.in_sync() == ["s1"], 20, "the exclusion to be recorded")
        time.sleep(0.5)
        self.assertEqual(load.stop()["errors"], 0)
        self.cluster.planes["s1"].kill()
        self.cluster.start_plane("s2")
        s2 = lambda: [r["state"] for r in self.cluster.volume()["replicas"] if r["node"] == "s2"] == ["ready"]
        wait_until(s2, 20, "the old replica to be exported")

    def test_an_old_replica_counts_by_an_operators_word_and_the_lost_one_is_written_over(self):
        self.assertIn("nothing has to be lost", self.cluster.refused("volume", "recover", "v", "--accept-data-loss"))
        self.lose_the_current_replica()
        self.assertEqual(self.cluster.in_sync(), ["s1"], "nobody but a person decides that")
        self.assertIn("--accept-data-loss", self.cluster.refused("volume", "recover", "v"))
        would = self.cluster.cli("volume", "recover", "v", "--dry-run")
        self.assertIn("s ago is lost", would)
        self.assertIn("on s1 is written over", would)
        self.assertEqual(self.cluster.volume()["epoch"], 1, "a dry run changes nothing")

        self.cluster.cli("volume", "recover", "v", "--accept-data-loss")
        wait_until(lambda: self.cluster.attachment()["state"] == "degraded", 30, "the volume to work again")
        self.assertEqual((self.cluster.volume()["epoch"], self.cluster.in_sync()), (2, ["s2"]))
        wait_until(lambda: (self.cluster.raid() or {}).get("epoch") == 2, 10, "the mirror to be held by the new epoch")
        # What was acknowledged is lost, as was said: a new record begins.
        self.cluster.forget_record()
        self.assertGreater(self.write_for(0.5, first=2048)["writes"], 0)

        self.cluster.start_plane("s1")
        self.cluster.wait_state("ready")
        self.cluster.check_identical()
        self.assertIn("recovered", self.cluster.cli("events"))
