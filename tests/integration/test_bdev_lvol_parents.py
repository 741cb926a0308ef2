"""Snapshots, clones, and clones of bdevs outside the store, over RPC and with their data."""

from diskengine_test import LvolCase, wait_until
from diskengine_test.lvols import BEGUN, DELETING, EXISTS, INVALID, MIB, NO_DEVICE, NO_SPACE, NOT_PERMITTED, pattern


class Snapshots(LvolCase):
    def setUp(self):
        super().setUp()
        self.store()

    def test_a_snapshot_keeps_what_was_there_and_its_clones_differ(self):
        self.create("a", 8, thin=False)
        self.write("lvs/a", 0, pattern(1, 2 * MIB))
        uuid = self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s")
        self.assertEqual(self.rpc.bdev_get_bdevs(name="lvs/s")[0]["name"], uuid)
        snapshot = self.specific("lvs/s")
        self.assertEqual((snapshot["snapshot"], snapshot["clones"], snapshot["thin_provision"]), (True, ["a"], False))
        self.assertEqual(snapshot["num_allocated_clusters"], 8)
        clone = self.specific("lvs/a")
        self.assertEqual((clone["clone"], clone["base_snapshot"], clone["thin_provision"]), (True, "s", True))
        self.assertEqual(clone["num_allocated_clusters"], 0)

        self.write("lvs/a", 4096, pattern(2, 4096))
        self.assertEqual(self.lvol("a")["num_allocated_clusters"], 1, "one cluster was copied")
        self.rpc.bdev_lvol_clone(snapshot_name="lvs/s", clone_name="c")
        self.write("lvs/c", MIB + 8192, pattern(3, 8192))
        base = pattern(1, 2 * MIB)
        self.assertEqual(self.read("lvs/s", 0, 2 * MIB), base)
        self.assertEqual(self.read("lvs/a", 0, 2 * MIB), base[:4096] + pattern(2, 4096) + base[8192:])
        self.assertEqual(self.read("lvs/c", 0, 2 * MIB),
                         base[: MIB + 8192] + pattern(3, 8192) + base[MIB + 16384 :])
        self.assertFalse(self.rpc.bdev_get_bdevs(name="lvs/s")[0]["supported_io_types"]["write"])
        self.sound()

    def test_what_cannot_be_a_snapshot_or_clone_is_refused_as_spdk_does(self):
        self.create("a", 2)
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s")
        self.fails(BEGUN, EXISTS, "bdev_lvol_snapshot", lvol_name="lvs/a", snapshot_name="s")
        self.fails(BEGUN, INVALID, "bdev_lvol_snapshot", lvol_name="lvs/a", snapshot_name="")
        self.fails(BEGUN, INVALID, "bdev_lvol_snapshot", lvol_name="lvs/s", snapshot_name="t")
        self.fails(-19, NO_DEVICE, "bdev_lvol_snapshot", lvol_name="lvs/none", snapshot_name="t")
        self.fails(-19, NO_DEVICE, "bdev_lvol_snapshot", lvol_name="disk", snapshot_name="t")
        self.fails(BEGUN, INVALID, "bdev_lvol_clone", snapshot_name="lvs/a", clone_name="c")
        self.fails(BEGUN, EXISTS, "bdev_lvol_clone", snapshot_name="lvs/s", clone_name="a")
        self.fails(-19, NO_DEVICE, "bdev_lvol_clone", snapshot_name="lvs/none", clone_name="c")
        self.assertEqual(self.names(), ["a", "s"])
        self.sound()

    def test_a_snapshot_with_several_clones_stays_and_with_one_leaves_it_everything(self):
        self.create("a", 4)
        self.write("lvs/a", 0, pattern(1, 2 * MIB))
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s")
        self.write("lvs/a", MIB, pattern(2, MIB))
        self.rpc.bdev_lvol_clone(snapshot_name="lvs/s", clone_name="c")
        self.fails(DELETING, "", "bdev_lvol_delete", name="lvs/s")
        self.assertEqual(self.names(), ["a", "c", "s"])
        self.assertTrue(self.rpc.bdev_lvol_delete(name="lvs/c"))
        self.assertTrue(self.rpc.bdev_lvol_delete(name="lvs/s"))
        specific = self.specific("lvs/a")
        self.assertEqual((specific["clone"], specific["thin_provision"], specific["num_allocated_clusters"]), (False, True, 2))
        self.assertEqual(self.read("lvs/a"), pattern(1, 2 * MIB)[:MIB] + pattern(2, MIB) + bytes(2 * MIB))
        self.assertEqual(self.store_info()["free_clusters"], 61)
        self.sound()

    def test_inflating_and_decoupling_free_a_clone_from_its_parent(self):
        self.create("a", 4)
        self.write("lvs/a", 0, pattern(1, MIB))
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s")
        self.rpc.bdev_lvol_clone(snapshot_name="lvs/s", clone_name="c")
        self.assertTrue(self.rpc.bdev_lvol_decouple_parent(name="lvs/a"))
        entry = self.lvol("a")
        self.assertEqual((entry["is_clone"], entry["is_thin_provisioned"], entry["num_allocated_clusters"]), (False, True, 1))
        self.assertTrue(self.rpc.bdev_lvol_inflate(name="lvs/c"))
        entry = self.lvol("c")
        self.assertEqual((entry["is_clone"], entry["is_thin_provisioned"], entry["num_allocated_clusters"]), (False, False, 4))
        self.assertFalse(self.specific("lvs/s").get("clones"))
        for name in ("lvs/a", "lvs/c"):
            self.assertEqual(self.read(name), pattern(1, MIB) + bytes(3 * MIB))
        self.assertTrue(self.rpc.bdev_lvol_inflate(name="lvs/c"), "nothing to do is success")
        self.fails(BEGUN, INVALID, "bdev_lvol_decouple_parent", name="lvs/c")
        self.fails(-19, NO_DEVICE, "bdev_lvol_inflate", name="none")
        self.fails(-19, NO_DEVICE, "bdev_lvol_decouple_parent", name="none")
        self.create("large", 1000)
        self.fails(BEGUN, NO_SPACE, "bdev_lvol_inflate", name="lvs/large")
        self.assertEqual(self.lvol("large")["num_allocated_clusters"], 0)
        self.sound()

    def test_a_thin_lvol_is_put_on_a_snapshot(self):
        self.create("a", 4)
        self.write("lvs/a", 0, pattern(1, 2 * MIB))
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s")
        self.create("t", 4)
        self.write("lvs/t", MIB, pattern(2, 4096))
        self.assertTrue(self.rpc.bdev_lvol_set_parent(lvol_name="lvs/t", parent_name="lvs/s"))
        self.assertEqual(self.specific("lvs/t")["base_snapshot"], "s")
        self.assertEqual(self.read("lvs/t", 0, MIB), pattern(1, 2 * MIB)[:MIB])
        self.assertEqual(self.read("lvs/t", MIB, 4096), pattern(2, 4096))
        parent = lambda code, text, lvol, of: self.fails(
            code, text, "bdev_lvol_set_parent", lvol_name=lvol, parent_name=of)
        parent(BEGUN, EXISTS, "lvs/t", "lvs/s")
        parent(BEGUN, INVALID, "lvs/t", "lvs/a")
        parent(BEGUN, INVALID, "lvs/t", "lvs/t")
        self.create("thick", 4, thin=False)
        parent(BEGUN, INVALID, "lvs/thick", "lvs/s")
        self.create("larger", 5)
        parent(BEGUN, INVALID, "lvs/larger", "lvs/s")
        parent(-19, NO_DEVICE, "lvs/none", "lvs/s")
        parent(-19, NO_DEVICE, "lvs/t", "lvs/none")
        self.store("two", "second")
        self.create("o", 4, store="two")
        parent(BEGUN, INVALID, "two/o", "lvs/s")
        self.sound()


class OutsideParents(LvolCase):
    def setUp(self):
        super().setUp()
        self.store()
        self.image = self.make_file("image", 4 * MIB)
        with open(self.image, "r+b") as file:
            file.write(pattern(1, 4 * MIB))
        self.uuid = "3f0a1f2e-7c1d-4a6b-9d55-1f3a8b0c2d4e"
        self.attach_image()

    def attach_image(self):
        self.rpc.bdev_aio_create(name="image", filename=self.image, block_size=512, uuid=self.uuid)

    def test_a_clone_of_an_outside_bdev_reads_it_and_writes_beside_it(self):
        uuid = self.rpc.bdev_lvol_clone_bdev(bdev="image", lvs_name="lvs", clone_name="c")
        specific = self.specific("lvs/c")
        self.assertEqual((specific["esnap_clone"], specific["external_snapshot_name"]), (True, self.uuid))
        self.assertTrue(self.rpc.bdev_get_bdevs(name="image")[0]["claimed"])
        self.assertEqual(self.lvol("c")["uuid"], uuid)
        self.write("lvs/c", MIB, pattern(2, 4096))
        expected = pattern(1, 4 * MIB)[:MIB] + pattern(2, 4096) + pattern(1, 4 * MIB)[MIB + 4096 :]
        self.assertEqual(self.read("lvs/c"), expected)
        self.rpc.bdev_lvol_clone_bdev(bdev="image", lvs_name="lvs", clone_name="second")
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/c", snapshot_name="s")
        self.assertTrue(self.lvol("s")["is_esnap_clone"])
        self.assertTrue(self.rpc.bdev_lvol_inflate(name="lvs/c"))
        self.assertEqual(self.read("lvs/c"), expected)
        with open(self.image, "rb") as file:
            self.assertEqual(file.read(), pattern(1, 4 * MIB), "the outside bdev was not written")

    def test_what_cannot_be_an_outside_parent_is_refused_as_spdk_does(self):
        clone = lambda text, bdev, store="lvs", name="x": self.fails(
            BEGUN, text, "bdev_lvol_clone_bdev", bdev=bdev, lvs_name=store, clone_name=name)
        self.create("a", 4)
        clone("bdev does not exist", "none")
        clone("lvs does not exist", "image", store="none")
        clone("bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead", "lvs/a")
        clone(EXISTS, "image", name="a")
        self.disk("odd", mib=3)
        self.rpc.bdev_malloc_create(name="half", num_blocks=1024, block_size=512)
        clone(INVALID, "half")
        parent = lambda code, text, bdev, lvol="lvs/a": self.fails(
            code, text, "bdev_lvol_set_parent_bdev", lvol_name=lvol, parent_name=bdev)
        parent(-19, NO_DEVICE, "image", lvol="lvs/none")
        parent(BEGUN, NO_DEVICE, "none")
        parent(BEGUN, INVALID, "lvs/a")
        parent(BEGUN, INVALID, "half")
        self.assertTrue(self.rpc.bdev_lvol_set_parent_bdev(lvol_name="lvs/a", parent_name="image"))
        parent(BEGUN, EXISTS, "image")
        self.assertEqual(self.read("lvs/a"), pattern(1, 4 * MIB))

    def test_lvols_do_not_become_outside_parents_of_each_other(self):
        self.create("a", 4)
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s")
        self.store("two", "second")
        self.rpc.bdev_lvol_clone_bdev(bdev="lvs/s", lvs_name="two", clone_name="b")
        self.fails(BEGUN, INVALID, "bdev_lvol_set_parent_bdev", lvol_name="lvs/s", parent_name="two/b")
        self.assertEqual(self.read("two/b"), bytes(4 * MIB))

    def test_a_clone_whose_outside_bdev_is_missing_is_degraded_until_it_returns(self):
        uuid = self.rpc.bdev_lvol_clone_bdev(bdev="image", lvs_name="lvs", clone_name="c")
        self.write("lvs/c", 0, pattern(2, 4096))
        self.create("other", 2)
        self.write("lvs/other", 0, pattern(3, 4096))
        self.stop()
        self.begin()
        self.disk()
        self.assertTrue(self.lvol("c")["is_degraded"])
        self.assertEqual(self.read("lvs/other", 0, 4096), pattern(3, 4096))
        self.attach_image()
        wait_until(lambda: not self.lvol("c")["is_degraded"], 10, "the clone to be whole again")
        self.assertEqual(self.rpc.bdev_get_bdevs(name=uuid, timeout=5000)[0]["aliases"], ["lvs/c"])
        self.assertEqual(self.read("lvs/c"), pattern(2, 4096) + pattern(1, 4 * MIB)[4096:])


class ShallowCopies(LvolCase):
    def test_the_clusters_of_a_snapshot_itself_are_copied(self):
        self.store()
        self.create("a", 4)
        self.write("lvs/a", 0, pattern(1, MIB))
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s1")
        self.write("lvs/a", 2 * MIB, pattern(2, MIB))
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s2")
        self.rpc.bdev_malloc_create(name="copy", num_blocks=8192, block_size=512)
        self.rpc.bdev_malloc_create(name="small", num_blocks=1024, block_size=512)
        start = lambda code, text, lvol, to: self.fails(
            code, text, "bdev_lvol_start_shallow_copy", src_lvol_name=lvol, dst_bdev_name=to)
        start(-19, NO_DEVICE, "lvs/none", "copy")
        start(BEGUN, NO_DEVICE, "lvs/s2", "none")
        start(BEGUN, NOT_PERMITTED, "lvs/s2", "disk")
        start(BEGUN, "", "lvs/s2", "small")
        start(BEGUN, "", "lvs/a", "copy")
        self.fails(-19, NO_DEVICE, "bdev_lvol_check_shallow_copy", operation_id=9999)
        begun = self.rpc.bdev_lvol_start_shallow_copy(src_lvol_name="lvs/s2", dst_bdev_name="copy")
        states = []

        def ended():
            states.append(self.rpc.bdev_lvol_check_shallow_copy(operation_id=begun["operation_id"]))
            return states[-1]["state"] != "in progress"

        wait_until(ended, 10, "the copy")
        self.assertEqual(states[-1], {"copied_clusters": 1, "total_clusters": 1, "state": "complete"})
        self.fails(-19, NO_DEVICE, "bdev_lvol_check_shallow_copy", operation_id=begun["operation_id"])
        self.assertEqual(self.read("copy"), bytes(2 * MIB) + pattern(2, MIB) + bytes(MIB))
