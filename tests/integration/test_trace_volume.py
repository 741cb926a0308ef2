"""`diskengine volume trace`: it draws what the guest does next, and where it does nothing a read of its own."""

from diskengine_test import TestCase
from diskengine_test.control import COMPUTE, STORAGE, Fleet

OK, NOT_FOUND, TIMED_OUT = 0, 3, 5


class TraceVolume(TestCase):
    TEST_TIMEOUT_S = 60

    def setUp(self):
        super().setUp()
        self.fleet = Fleet(self).start()
        self.fleet.volume()

    def counted(self):
        """What the mirror and the disks have completed."""
        where = [(COMPUTE, "raid_1"), *((node, self.fleet.disk_bdev(node)) for node in STORAGE)]
        stats = [self.fleet.rpc(node).bdev_get_iostat(names=[name])["bdevs"][0] for node, name in where]
        return [(one["num_read_ops"], one["num_write_ops"] + one["num_unmap_ops"]) for one in stats]

    def test_an_idle_volume_is_traced_by_a_read_that_changes_nothing(self):
        self.fleet.attach()
        self.fleet.query("volume", "trace", "v", "--wait", "200ms")  # whatever a first read sets up is there
        before = self.counted()
        found = self.fleet.query("volume", "trace", "v", "--wait", "200ms")
        after = self.counted()
        self.assertTrue(found["probe"])
        self.assertEqual((found["trace"]["op"], found["trace"]["blocks"], found["trace"]["lba"]), ("read", 1, 0))
        self.assertTrue(any("the guest did nothing" in remark for remark in found["remarks"]), found["remarks"])
        self.assertGreater(after[0][0], before[0][0])
        self.assertEqual([writes for _, writes in after], [writes for _, writes in before])
        # One leg is read, and its path over both machines is shown, without vhost.
        self.assertEqual(len(found["legs"]), 1)
        leg = found["legs"][0]
        self.assertIn(leg["node"], STORAGE)
        self.assertIsNotNone(leg["target"], leg["no_target"])
        wheres = {stage["where"] for stage in found["stages"]}
        self.assertEqual(wheres, {COMPUTE, leg["node"], f"{COMPUTE} <-> {leg['node']}"})
        self.assertFalse([stage for stage in found["stages"] if stage["stage"].startswith("vhost")], found["stages"])
        self.assertAlmostEqual(sum(stage["us"] for stage in found["stages"]), found["total_us"], delta=1)
        drawn = self.fleet.cli("volume", "trace", "v", "--wait", "200ms")
        self.assertIn("read of 1 block at block 0 of volume v", drawn)
        self.assertIn("the guest did nothing", drawn)

    def test_without_a_probe_an_idle_volume_is_waited_for_in_vain(self):
        self.fleet.attach()
        before = self.counted()
        refused = self.fleet.run("volume", "trace", "v", "--wait", "200ms", "--no-probe")
        self.assertEqual(refused.returncode, TIMED_OUT, refused.stderr)
        self.assertEqual(refused.stdout, "")
        self.assertEqual(self.counted()[0], before[0])

    def test_a_guest_that_writes_is_traced_and_not_probed(self):
        self.fleet.load(self.fleet.attach()["socket"])
        self.fleet.moves("raid_1")
        found = self.fleet.query("volume", "trace", "v")
        self.assertFalse(found["probe"])
        self.assertEqual(found["trace"]["op"], "write")
        self.assertEqual({leg["node"] for leg in found["legs"]}, set(STORAGE))

    def test_a_volume_that_is_not_attached_has_no_path(self):
        self.assertEqual(self.fleet.run("volume", "trace", "v").returncode, NOT_FOUND)
