"""Lvol stores and lvols over RPC: every method with SPDK's parameters, results and errors."""

from diskengine_test import LvolCase, wait_until
from diskengine_test.lvols import BEGUN, EXISTS, INVALID, MIB, NO_DEVICE, NO_SPACE, NOT_PERMITTED, pattern

class Stores(LvolCase):
    def test_a_store_is_made_described_renamed_and_deleted(self):
        uuid = self.store(cluster=4 * MIB, mib=256)
        info = self.store_info()
        self.assertEqual((info["uuid"], info["name"], info["base_bdev"]), (uuid, "lvs", "disk"))
        self.assertEqual((info["total_data_clusters"], info["free_clusters"]), (63, 63))
        self.assertEqual((info["block_size"], info["cluster_size"]), (512, 4 * MIB))
        self.assertEqual(info["max_growable_size"], 137271181312, "as SPDK lays out the same disk")
        self.assertEqual(self.rpc.bdev_lvol_get_lvstores(uuid=uuid), [info])
        self.assertEqual(self.rpc.bdev_lvol_get_lvstores(), [info])
        self.assertTrue(self.rpc.bdev_get_bdevs(name="disk")[0]["claimed"])

        lvol = self.create("a", 4)
        self.assertTrue(self.rpc.bdev_lvol_rename_lvstore(old_name="lvs", new_name="pool"))
        self.assertTrue(self.rpc.bdev_lvol_rename_lvstore(old_name="pool", new_name="pool"))
        self.assertEqual(self.rpc.bdev_get_bdevs(name="pool/a")[0]["aliases"], ["pool/a"])
        self.fails(-19, "", "bdev_get_bdevs", name="lvs/a")

        self.assertTrue(self.rpc.bdev_lvol_delete_lvstore(uuid=uuid))
        self.assertEqual(self.rpc.bdev_lvol_get_lvstores(), [])
        self.fails(-19, "", "bdev_get_bdevs", name=lvol)
        self.assertFalse(self.rpc.bdev_get_bdevs(name="disk")[0]["claimed"])
        self.rpc.bdev_aio_delete(name="disk")
        self.disk()
        self.assertEqual(self.rpc.bdev_lvol_get_lvstores(), [], "nothing of it is left on the disk")
        self.rpc.bdev_lvol_create_lvstore(bdev_name="disk", lvs_name="lvs")
        self.assertEqual(self.store_info()["cluster_size"], MIB, "the default")

    def test_what_cannot_be_a_store_is_refused_as_spdk_does(self):
        self.store()
        self.disk("other")
        self.disk("small", mib=6)
        create = lambda code, text, bdev="other", name="x", **more: self.fails(
            code, text, "bdev_lvol_create_lvstore", bdev_name=bdev, lvs_name=name, **more)
        create(-19, NO_DEVICE, bdev="none")
        create(-17, EXISTS, name="lvs")
        create(-1, NOT_PERMITTED, bdev="disk")
        create(-22, INVALID, name="")
        create(-22, INVALID, name="n" * 64)
        create(-22, INVALID, cluster_sz=1)
        create(-22, INVALID, cluster_sz=4095)
        create(-22, INVALID, md_page_size=1000)
        create(BEGUN, INVALID, cluster_sz=512)
        create(BEGUN, INVALID, cluster_sz=6144)
        create(BEGUN, NO_SPACE, cluster_sz=1 << 30)
        create(-32602, "Invalid parameters", clear_method="zap")
        self.assertEqual(len(self.rpc.bdev_lvol_get_lvstores()), 1)
        self.assertTrue(self.rpc.bdev_lvol_create_lvstore(bdev_name="other", lvs_name="n" * 63, clear_method="none"))

    def test_a_store_is_named_by_exactly_one_of_uuid_and_name(self):
        uuid = self.store()
        for method in ("bdev_lvol_get_lvstores", "bdev_lvol_grow_lvstore", "bdev_lvol_delete_lvstore"):
            self.fails(-22, INVALID, method, uuid=uuid, lvs_name="lvs")
            self.fails(-19, NO_DEVICE, method, lvs_name="none")
            self.fails(-19, NO_DEVICE, method, uuid="zz")
            self.fails(-19, NO_DEVICE, method, lvs_name=uuid)
        self.fails(-22, INVALID, "bdev_lvol_delete_lvstore")
        self.fails(-22, INVALID, "bdev_lvol_create", lvol_name="x", size_in_mib=1)
        self.fails(-22, INVALID, "bdev_lvol_get_lvols", lvs_uuid=uuid, lvs_name="lvs")
        self.fails(-19, NO_DEVICE, "bdev_lvol_get_lvols", lvs_name="none")
        self.assertEqual(self.store_info()["uuid"], uuid)

    def test_names_of_stores_are_unique_and_bounded(self):
        self.store()
        self.store("two", "second")
        self.fails(-2, "Lvol store none not found", "bdev_lvol_rename_lvstore", old_name="none", new_name="x")
        self.fails(BEGUN, EXISTS, "bdev_lvol_rename_lvstore", old_name="lvs", new_name="two")
        self.fails(BEGUN, INVALID, "bdev_lvol_rename_lvstore", old_name="lvs", new_name="")
        self.fails(BEGUN, INVALID, "bdev_lvol_rename_lvstore", old_name="lvs", new_name="n" * 64)
        self.assertEqual(sorted(s["name"] for s in self.rpc.bdev_lvol_get_lvstores()), ["lvs", "two"])

    def test_a_store_takes_in_what_its_disk_has_grown_by(self):
        self.store(mib=64)
        self.create("a", 8)
        self.write("lvs/a", 0, pattern(1, MIB))
        self.assertEqual(self.store_info()["total_data_clusters"], 63)
        with open(self.path("disk"), "r+b") as file:
            file.truncate(128 * MIB)
        self.rpc.bdev_aio_rescan(name="disk")
        self.assertTrue(self.rpc.bdev_lvol_grow_lvstore(lvs_name="lvs"))
        info = self.store_info()
        self.assertEqual((info["total_data_clusters"], info["free_clusters"]), (127, 126))
        self.assertTrue(self.rpc.bdev_lvol_grow_lvstore(lvs_name="lvs"), "nothing to do is success")
        self.create("big", 100, thin=False)
        self.assertEqual(self.read("lvs/a", 0, MIB), pattern(1, MIB))
        self.sound()

    def test_free_space_that_runs_out_is_announced(self):
        self.store(mib=64)
        seen = lambda: [n["ctx"] for n in self.rpc.notify_get_notifications() if n["type"] == "diskengine_lvol_space"]
        self.create("most", 55, thin=False)
        wait_until(lambda: "lvs: less than 20 % free" in seen(), 10, "the notification")
        self.rpc.bdev_lvol_delete(name="lvs/most")
        wait_until(lambda: "lvs: again at least 20 % free" in seen(), 10, "the notification")


class Lvols(LvolCase):
    def setUp(self):
        super().setUp()
        self.store()

    def test_a_lvol_is_a_bdev_as_spdk_shows_it(self):
        uuid = self.create("thin", 11)
        bdev = self.rpc.bdev_get_bdevs(name="lvs/thin")[0]
        self.assertEqual((bdev["name"], bdev["uuid"], bdev["aliases"]), (uuid, uuid, ["lvs/thin"]))
        self.assertEqual((bdev["product_name"], bdev["block_size"], bdev["num_blocks"]), ("Logical Volume", 512, 22528))
        self.assertTrue(bdev["supported_io_types"]["unmap"])
        specific = {"lvol_store_uuid": self.store_info()["uuid"], "base_bdev": "disk", "thin_provision": True,
                    "num_allocated_clusters": 0, "snapshot": False, "clone": False, "esnap_clone": False}
        self.assertEqual({key: bdev["driver_specific"]["lvol"][key] for key in specific}, specific)

        thick = self.create("thick", 10, thin=False)
        entry = self.lvol("thick")
        expected = {"alias": "lvs/thick", "uuid": thick, "name": "thick", "is_thin_provisioned": False,
                    "is_snapshot": False, "is_clone": False, "is_esnap_clone": False, "is_degraded": False,
                    "num_allocated_clusters": 10,
                    "lvs": {"name": "lvs", "uuid": self.store_info()["uuid"]}, "size_bytes": 10 * MIB}
        self.assertEqual({key: entry[key] for key in expected}, expected)
        self.assertEqual(self.store_info()["free_clusters"], 53)

    def test_what_cannot_be_a_lvol_is_refused_as_spdk_does(self):
        self.create("a", 1)
        create = lambda code, text, name="x", size=1, **more: self.fails(
            code, text, "bdev_lvol_create", lvs_name="lvs", lvol_name=name, size_in_mib=size, **more)
        create(-17, EXISTS, name="a")
        create(-22, INVALID, name="")
        create(-22, INVALID, name="n" * 64)
        create(BEGUN, NO_SPACE, size=1000)
        create(-22, INVALID, size=0)  # SPDK makes one of no blocks
        self.fails(-19, NO_DEVICE, "bdev_lvol_create", lvs_name="none", lvol_name="x", size_in_mib=1)
        self.fails(-19, NO_DEVICE, "bdev_lvol_create", uuid="none", lvol_name="x", size_in_mib=1)
        create(-32602, "", size=1 << 44)
        self.assertEqual(self.names(), ["a"])
        self.assertEqual(self.store_info()["free_clusters"], 63)
        self.create("m" * 63, 1)
        self.create("with/slash", 1)
        self.create("larger than the store", 1000)
        self.sound()

    def test_a_lvol_is_renamed_with_its_alias(self):
        uuid = self.create("a", 1)
        self.create("b", 1)
        self.assertTrue(self.rpc.bdev_lvol_rename(old_name="lvs/a", new_name="c"))
        self.assertEqual(self.rpc.bdev_get_bdevs(name="lvs/c")[0]["name"], uuid)
        self.fails(BEGUN, EXISTS, "bdev_lvol_rename", old_name=uuid, new_name="b")
        self.fails(BEGUN, INVALID, "bdev_lvol_rename", old_name=uuid, new_name="")
        self.fails(BEGUN, INVALID, "bdev_lvol_rename", old_name=uuid, new_name="n" * 64)
        self.fails(-19, NO_DEVICE, "bdev_lvol_rename", old_name="lvs/a", new_name="x")
        self.fails(-19, NO_DEVICE, "bdev_lvol_rename", old_name="disk", new_name="x")
        self.assertEqual(self.names(), ["b", "c"])

    def test_a_lvol_is_resized_both_ways_and_keeps_its_data(self):
        self.create("a", 10, thin=False)
        self.write("lvs/a", 4 * MIB, pattern(1, MIB))
        self.assertTrue(self.rpc.bdev_lvol_resize(name="lvs/a", size_in_mib=20))
        self.assertEqual(self.rpc.bdev_get_bdevs(name="lvs/a")[0]["num_blocks"], 20 * 2048)
        self.assertEqual(self.lvol("a")["num_allocated_clusters"], 20)
        self.assertTrue(self.rpc.bdev_lvol_resize(name="lvs/a", size_in_mib=5))
        self.assertEqual(self.store_info()["free_clusters"], 58)
        self.assertEqual(self.read("lvs/a", 4 * MIB, MIB), pattern(1, MIB))
        self.fails(BEGUN, NO_SPACE, "bdev_lvol_resize", name="lvs/a", size_in_mib=5000)
        self.fails(-19, NO_DEVICE, "bdev_lvol_resize", name="lvs/none", size_in_mib=5)
        self.fails(-19, NO_DEVICE, "bdev_lvol_resize", name="disk", size_in_mib=5)
        self.fails(BEGUN, INVALID, "bdev_lvol_resize", name="lvs/a", size_in_mib=0)
        self.assertEqual(self.rpc.bdev_get_bdevs(name="lvs/a")[0]["num_blocks"], 5 * 2048)
        self.sound()

    def test_a_read_only_lvol_takes_no_changes(self):
        self.create("a", 2)
        self.write("lvs/a", 0, pattern(1, 4096))
        self.assertTrue(self.rpc.bdev_lvol_set_read_only(name="lvs/a"))
        self.assertTrue(self.rpc.bdev_lvol_set_read_only(name="lvs/a"))
        self.assertTrue(self.lvol("a")["is_read_only"])
        self.assertFalse(self.rpc.bdev_get_bdevs(name="lvs/a")[0]["supported_io_types"]["write"])
        self.fails(BEGUN, NOT_PERMITTED, "bdev_lvol_resize", name="lvs/a", size_in_mib=5)
        self.assertTrue(self.rpc.bdev_lvol_rename(old_name="lvs/a", new_name="b"))  # SPDK refuses this
        self.assertTrue(self.rpc.bdev_lvol_rename(old_name="lvs/b", new_name="a"))
        self.fails(BEGUN, INVALID, "bdev_lvol_snapshot", lvol_name="lvs/a", snapshot_name="s")
        self.fails(-19, NO_DEVICE, "bdev_lvol_set_read_only", name="none")
        self.assertEqual(self.read("lvs/a", 0, 4096), pattern(1, 4096))
        self.rpc.bdev_lvol_clone(snapshot_name="lvs/a", clone_name="c")
        self.write("lvs/c", 4096, pattern(2, 4096))
        self.assertEqual(self.read("lvs/c", 0, 8192), pattern(1, 4096) + pattern(2, 4096))

    def test_space_that_is_unmapped_or_deleted_comes_back(self):
        self.create("a", 16)
        self.write("lvs/a", 0, pattern(1, 8 * MIB))
        self.assertEqual(self.store_info()["free_clusters"], 55)
        with self.exported("lvs/a") as namespace:
            namespace.unmap(2 * MIB, 4 * MIB)
            self.assertEqual(namespace.read(MIB, 7 * MIB), pattern(1, 8 * MIB)[MIB : 2 * MIB] + bytes(4 * MIB)
                             + pattern(1, 8 * MIB)[6 * MIB :])
        self.assertEqual(self.store_info()["free_clusters"], 59)
        self.assertTrue(self.rpc.bdev_lvol_delete(name="lvs/a"))
        self.assertEqual(self.store_info()["free_clusters"], 63)
        self.create("b", 16)
        self.write("lvs/b", 4096, pattern(2, 4096))
        self.assertEqual(self.read("lvs/b", 0, MIB), bytes(4096) + pattern(2, 4096) + bytes(MIB - 8192),
                         "what was there before is not to be seen")
        self.fails(-19, NO_DEVICE, "bdev_lvol_delete", name="lvs/a")
        self.fails(-19, NO_DEVICE, "bdev_lvol_delete", name="disk")
        self.sound()

    def test_a_full_store_fails_the_write_and_nothing_else(self):
        self.create("a", 100)
        self.create("b", 4)
        self.write("lvs/b", 0, pattern(7, MIB))
        with self.exported("lvs/a") as namespace:
            for cluster in range(62):
                namespace.write(cluster * MIB, pattern(cluster, 4096))
            with self.assertRaises(Exception) as caught:
                namespace.write(90 * MIB, bytes(4096))
            self.assertEqual(caught.exception.status & 0xFF, 0x81, "capacity exceeded")
            namespace.write(5 * MIB, pattern(99, 4096))
            self.assertEqual(namespace.read(5 * MIB, 4096), pattern(99, 4096))
            self.assertEqual(namespace.read(61 * MIB, 4096), pattern(61, 4096))
        self.assertEqual(self.read("lvs/b", 0, MIB), pattern(7, MIB))
        self.sound()
