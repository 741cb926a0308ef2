"""Lvol stores over the ends of the process: stopped, killed, with disks that go, are damaged or hold something else."""

import json
import os
import shutil
import struct
import threading

from diskengine_test import LvolCase, RpcError, wait_until
from diskengine_test.lvols import MIB, NO_DEVICE, pattern

PAGE = 4096
VERSION_AT, CLEAN_AT = 8, 16  # in the super block
KILL_CYCLES = int(os.environ.get("DISKENGINE_KILL_CYCLES", "4"))


class Restarts(LvolCase):
    def filled(self):
        self.store()
        self.create("thick", 4, thin=False)
        self.create("thin", 8)
        self.write("lvs/thick", MIB, pattern(1, 64 * 1024))
        self.write("lvs/thin", 5 * MIB, pattern(2, 64 * 1024))
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/thin", snapshot_name="s")
        self.write("lvs/thin", 5 * MIB, pattern(3, 4096))
        self.rpc.bdev_lvol_clone(snapshot_name="lvs/s", clone_name="c")

    def as_it_was(self, lvols):
        self.assertEqual(self.rpc.bdev_lvol_get_lvols(lvs_name="lvs"), lvols)
        self.assertEqual(self.read("lvs/thick", MIB, 64 * 1024), pattern(1, 64 * 1024))
        self.assertEqual(self.read("lvs/s", 5 * MIB, 64 * 1024), pattern(2, 64 * 1024))
        self.assertEqual(self.read("lvs/c", 5 * MIB, 64 * 1024), pattern(2, 64 * 1024))
        self.assertEqual(self.read("lvs/thin", 5 * MIB, 64 * 1024), pattern(3, 4096) + pattern(2, 64 * 1024)[4096:])
        self.sound()

    def clean_on_disk(self):
        with open(self.path("disk"), "rb") as file:
            file.seek(CLEAN_AT)
            return struct.unpack("<I", file.read(4))[0]

    def test_a_store_is_found_again_after_a_stop(self):
        self.filled()
        lvols, store = self.rpc.bdev_lvol_get_lvols(), self.store_info()
        self.assertEqual(self.clean_on_disk(), 0)
        self.stop()
        self.assertEqual(self.clean_on_disk(), 1, "the stop unloads the store")
        self.begin()
        self.disk()
        self.assertEqual(self.store_info(), store, "was_recovered is false in both")
        self.as_it_was(lvols)

    def test_a_store_is_found_again_after_a_crash(self):
        self.filled()
        lvols, store = self.rpc.bdev_lvol_get_lvols(), self.store_info()
        self.crash()
        self.assertEqual(self.clean_on_disk(), 0)
        self.begin()
        self.disk()
        self.assertEqual(self.store_info(), {**store, "was_recovered": True})
        self.as_it_was(lvols)
        self.stop()
        self.begin()
        self.disk()
        self.as_it_was(lvols)

    def test_a_saved_configuration_brings_exported_lvols_back(self):
        self.filled()
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}
        self.rpc.nvmf_create_subsystem(nqn="nqn.2024-01.io.diskengine:kept", allow_any_host=True)
        self.rpc.nvmf_subsystem_add_ns(nqn="nqn.2024-01.io.diskengine:kept", namespace={"bdev_name": "lvs/thin"})
        self.rpc.nvmf_subsystem_add_listener(nqn="nqn.2024-01.io.diskengine:kept", listen_address=address)
        names = [entry["subsystem"] for entry in self.rpc.framework_get_subsystems()]
        with open(self.path("saved.json"), "w", encoding="utf-8") as file:
            json.dump({"subsystems": [{"subsystem": n, "config": self.rpc.framework_get_config(name=n)} for n in names]}, file)
        self.crash()
        self.io = self.start_io(extra_arguments=["-c", self.path("saved.json")])
        self.rpc = self.io.rpc
        self.assertEqual(self.names(), ["c", "s", "thick", "thin"])
        [subsystem] = [s for s in self.rpc.nvmf_get_subsystems() if s["nqn"].endswith(":kept")]
        self.assertEqual(subsystem["namespaces"][0]["uuid"], self.lvol("thin")["uuid"])

    def test_an_exported_lvol_is_a_bdev_of_another_process(self):
        self.filled()
        with self.exported("lvs/thin") as namespace:
            host = self.start_io("host")
            names = host.rpc.bdev_nvme_attach_controller(
                name="remote", trtype="TCP", adrfam="IPv4", traddr="127.0.0.1", trsvcid=str(self.port),
                subnqn="nqn.2024-01.io.diskengine:lvs.thin")
            self.assertEqual(names, ["remoten1"])
            bdev = host.rpc.bdev_get_bdevs(name="remoten1")[0]
            self.assertEqual((bdev["num_blocks"], bdev["block_size"]), (8 * 2048, 512))
            load = host.rpc.diskengine_perf_run(bdev_name="remoten1", duration_ms=200, warm_up_ms=0, read_percent=0, io_size=4096)
            self.assertGreater(load["ios"], 0)
            host.rpc.bdev_nvme_detach_controller(name="remote")
            self.assertEqual(namespace.blocks, 8 * 2048)
        self.assertEqual(self.lvol("thin")["num_allocated_clusters"], 8)
        self.assertEqual(self.read("lvs/s", 5 * MIB, 64 * 1024), pattern(2, 64 * 1024))
        self.sound()


class Kills(LvolCase):
    TEST_TIMEOUT_S = 60 + 10 * KILL_CYCLES

    def test_nothing_acknowledged_is_lost_when_the_process_is_killed_under_load(self):
        self.store(cluster=64 * 1024, mib=128)
        self.create("keep", 32)
        kept = {}
        for cycle in range(KILL_CYCLES):
            self.load_until_killed(cycle, kept)
            self.begin()
            self.disk()
            self.sound()
            with self.exported("lvs/keep") as namespace:
                for place, seeds in kept.items():
                    found = namespace.read(place, PAGE)
                    allowed = [bytes(PAGE) if seed is None else pattern(seed, PAGE) for seed in seeds]
                    self.assertIn(found, allowed, f"cycle {cycle}, place {place}")
                    kept[place] = [seeds[allowed.index(found)]]
            for name in self.names():
                if name != "keep":
                    self.forget(name)

    def load_until_killed(self, cycle, kept):
        """Writes to `keep` while lvols come and go, and kills the process in the middle. `kept` holds for each place the
        seeds of what may stand there: the last acknowledged (None: zeroes), and what was under way."""
        exported = self.exported("lvs/keep")
        namespace = exported.__enter__()
        killer = threading.Timer(0.2 + 0.13 * (cycle % 7), self.io.kill)
        worker = threading.Thread(target=self.churn, args=(cycle,))
        killer.start()
        worker.start()
        try:
            for number in range(1_000_000):
                seed = cycle * 1_000_000 + number
                place = seed * 7919 % 8192 * PAGE
                kept.setdefault(place, [None]).append(seed)
                namespace.write(place, pattern(seed, PAGE))
                kept[place] = [seed]
        except (OSError, EOFError):
            pass
        killer.join()
        worker.join()
        namespace.close()
        self.rpc.close()

    def churn(self, cycle):
        rpc = type(self.io.rpc)(self.io.rpc.path)
        number = 0
        try:
            while True:
                number += 1
                name = f"{cycle}-{number}"
                rpc.bdev_lvol_snapshot(lvol_name="lvs/keep", snapshot_name=f"s{name}")
                rpc.bdev_lvol_clone(snapshot_name=f"lvs/s{name}", clone_name=f"c{name}")
                if number % 3 == 0:
                    rpc.bdev_lvol_decouple_parent(name=f"lvs/c{name}")
                rpc.bdev_lvol_delete(name=f"lvs/c{name}")
                if number % 2 == 0:
                    rpc.bdev_lvol_delete(name=f"lvs/s{name}")
        except OSError:
            pass
        finally:
            rpc.close()

    def forget(self, name):
        try:
            self.rpc.bdev_lvol_delete(name=f"lvs/{name}")
        except RpcError:
            pass  # a snapshot with clones: it goes when they have gone


class Disks(LvolCase):
    def test_several_stores_of_different_shapes_are_found_together(self):
        shapes = {"d1": (64 * 1024, 512), "d2": (MIB, 4096), "d3": (4 * MIB, 512), "d4": (16 * MIB, 4096)}
        for number, (disk, (cluster, block_size)) in enumerate(shapes.items()):
            self.store(f"store-{disk}", disk, cluster=cluster, mib=128, block_size=block_size)
            self.create("a", 32, store=f"store-{disk}")
            self.write(f"store-{disk}/a", 4 * MIB, pattern(number, MIB))
        self.crash()
        self.begin()
        for number, (disk, (cluster, block_size)) in enumerate(shapes.items()):
            self.disk(disk, block_size=block_size)
            info = self.store_info(f"store-{disk}")
            self.assertEqual((info["base_bdev"], info["cluster_size"], info["block_size"]), (disk, cluster, block_size))
            self.assertEqual(self.read(f"store-{disk}/a", 4 * MIB, MIB), pattern(number, MIB))
            self.sound(f"store-{disk}")

    def test_a_disk_that_is_taken_away_takes_its_store_and_brings_it_back(self):
        self.store()
        self.create("a", 8)
        self.write("lvs/a", 0, pattern(1, MIB))
        with self.exported("lvs/a") as namespace:
            self.assertTrue(self.rpc.bdev_aio_delete(name="disk"))
            with self.assertRaises(Exception):
                namespace.read(0, PAGE)
        self.assertEqual(self.rpc.bdev_lvol_get_lvstores(), [])
        self.fails(-19, NO_DEVICE, "bdev_lvol_create", lvs_name="lvs", lvol_name="x", size_in_mib=1)
        self.disk()
        self.assertEqual(self.read("lvs/a", 0, MIB), pattern(1, MIB))
        self.sound()

    def test_a_copy_of_a_disk_is_not_loaded_beside_it(self):
        self.store()
        self.create("a", 8)
        self.stop()
        shutil.copy(self.path("disk"), self.path("copy"))
        self.begin()
        self.disk()
        self.disk("copy")
        self.assertEqual([s["base_bdev"] for s in self.rpc.bdev_lvol_get_lvstores()], ["disk"])
        self.assertFalse(self.rpc.bdev_get_bdevs(name="copy")[0]["claimed"])
        report = self.rpc.diskengine_lvol_check(store="copy")
        self.assertEqual((report["store_name"], report["sound"], report["lvols"]), ("lvs", True, 1))
        self.rpc.bdev_aio_delete(name="disk")
        self.rpc.bdev_aio_delete(name="copy")
        self.disk("copy")
        self.assertEqual([s["base_bdev"] for s in self.rpc.bdev_lvol_get_lvstores()], ["copy"])


class Damage(LvolCase):
    def change(self, offset, data, name="disk"):
        with open(self.path(name), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def page_with(self, text, name="disk"):
        """Offset of the first metadata page that holds the text."""
        with open(self.path(name), "rb") as file:
            metadata = file.read(4 * MIB)
        return metadata.index(text.encode()) // PAGE * PAGE

    def test_what_is_no_store_or_of_another_version_is_left_alone(self):
        self.make_file("noise", 64 * MIB)
        self.change(0, pattern(1, MIB), "noise")
        self.disk("noise")
        self.store()
        self.stop()
        self.change(VERSION_AT, struct.pack("<I", 99))
        self.begin()
        self.disk("noise")
        self.disk()
        self.assertEqual(self.rpc.bdev_lvol_get_lvstores(), [])
        for name in ("noise", "disk"):
            self.assertFalse(self.rpc.bdev_get_bdevs(name=name)[0]["claimed"])
            with self.assertRaises(RpcError):
                self.rpc.diskengine_lvol_check(store=name)
        self.stop()
        with open(self.path("noise"), "rb") as file:
            self.assertEqual(file.read(MIB), pattern(1, MIB))

    def test_a_truncated_disk_is_refused_and_whole_again_when_it_is_long_enough(self):
        self.store()
        self.create("a", 8)
        self.write("lvs/a", 0, pattern(1, MIB))
        self.stop()
        shutil.copy(self.path("disk"), self.path("whole"))
        os.truncate(self.path("disk"), 32 * MIB)
        self.begin()
        self.disk()
        self.assertEqual(self.rpc.bdev_lvol_get_lvstores(), [])
        self.rpc.bdev_aio_delete(name="disk")
        os.truncate(self.path("disk"), 64 * MIB)
        self.disk()
        self.assertEqual(self.names(), ["a"])
        self.assertEqual(self.read("lvs/a", 0, MIB), pattern(1, MIB))

    def test_a_bad_page_costs_its_lvol_and_no_other(self):
        self.store()
        for name in ("first", "unlucky", "last"):
            self.create(name, 4)
            self.write(f"lvs/{name}", 0, pattern(len(name), MIB))
        self.stop()
        page = self.page_with("unlucky")
        self.change(page + 200, b"\xa5\x5a\xa5\x5a")
        self.begin()
        self.disk()
        self.assertEqual(self.names(), ["first", "last"])
        for name in ("first", "last"):
            self.assertEqual(self.read(f"lvs/{name}", 0, MIB), pattern(len(name), MIB))
        [damaged] = self.rpc.diskengine_lvol_get_damaged(lvs_name="lvs")
        self.assertEqual(damaged["lvs_name"], "lvs")
        self.assertTrue(damaged["reason"])
        self.assertEqual(self.store_info()["damaged_lvols"], 1)
        announced = [n["ctx"] for n in self.rpc.notify_get_notifications() if n["type"] == "diskengine_lvol_damaged"]
        self.assertEqual(len(announced), 1, announced)
        report = self.rpc.diskengine_lvol_check(store="lvs")
        self.assertFalse(report["sound"])
        self.assertIn("damaged_lvol", [finding["kind"] for finding in report["findings"]])
        self.create("more", 4)
        self.write("lvs/more", 0, pattern(9, MIB))
        self.assertTrue(self.rpc.bdev_lvol_delete(name=f"lvs/{damaged['blob_id']}"))
        self.assertEqual(self.rpc.diskengine_lvol_get_damaged(), [])
        for name, seed in (("first", 5), ("last", 4), ("more", 9)):
            self.assertEqual(self.read(f"lvs/{name}", 0, MIB), pattern(seed, MIB))

    def test_a_store_that_lost_its_own_page_serves_its_lvols_and_is_named_again(self):
        for end in (self.stop, self.crash):
            self.store()
            self.create("a", 4)
            self.write("lvs/a", 0, pattern(1, MIB))
            end()
            self.change(self.page_with("namelvs"), bytes(PAGE))
            self.begin()
            self.disk()
            [store] = self.rpc.bdev_lvol_get_lvstores()
            self.assertEqual(store["name"], "unnamed_disk")
            self.assertEqual(self.read("unnamed_disk/a", 0, MIB), pattern(1, MIB))
            self.create("b", 1, store="unnamed_disk")
            self.assertTrue(self.rpc.bdev_lvol_rename_lvstore(old_name="unnamed_disk", new_name="again"))
            self.sound("again")
            self.crash()
            self.begin()
            self.disk()
            self.assertEqual(self.store_info("again")["uuid"], store["uuid"])
            self.assertEqual(self.names("again"), ["a", "b"])
            self.assertEqual(self.read("again/a", 0, MIB), pattern(1, MIB))
            self.rpc.bdev_aio_delete(name="disk")
            os.unlink(self.path("disk"))

    def test_a_check_mends_what_is_safe_to_mend(self):
        self.fails(-19, NO_DEVICE, "diskengine_lvol_check", store="none")
        self.disk("blank", mib=16)
        self.fails(-2, "", "diskengine_lvol_check", store="blank")
        self.store()
        self.create("a", 8)
        self.assertEqual(self.sound()["lvols"], 1)
        report = self.rpc.diskengine_lvol_check(store="lvs", repair=True)
        self.assertEqual((report["sound"], report["store_uuid"]), (True, self.store_info()["uuid"]))
