"""RAID volumes over RPC: states, degraded operation, rebuild, superblocks that assemble, and what is refused."""

import threading
import time

from diskengine_test import RpcClient, RpcError, TestCase, wait_until

MIB = 1 << 20


class RaidCase(TestCase):
    def setUp(self):
        super().setUp()
        self.io = self.start_io()
        self.rpc = self.io.rpc

    def fails(self, code, method, **params):
        """The call fails with this code; returns the message."""
        with self.assertRaises(RpcError) as caught:
            self.rpc.call(method, **params)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception.message

    def ram(self, *names, blocks=16384):
        for name in names:
            self.rpc.bdev_malloc_create(name=name, num_blocks=blocks, block_size=512)

    def create(self, name="r", bases=("a", "b"), **more):
        return self.rpc.bdev_raid_create(name=name, raid_level="raid1", base_bdevs=list(bases), **more)

    def volume(self, name="r", category="all"):
        found = [v for v in self.rpc.bdev_raid_get_bdevs(category=category) if v["name"] == name]
        return found[0] if found else None

    def states(self, name="r"):
        return [base["state"] for base in self.volume(name)["base_bdevs_list"]]

    def load(self, bdev="r", duration_ms=100, **params):
        return self.rpc.call("diskengine_perf_run", bdev_name=bdev, duration_ms=duration_ms, warm_up_ms=0, **params)


class Volumes(RaidCase):
    def test_a_mirror_is_made_serves_and_is_deleted(self):
        self.ram("a", "b")
        self.assertTrue(self.create())
        volume = self.volume()
        self.assertEqual((volume["state"], volume["raid_level"], volume["strip_size_kb"]), ("online", "raid1", 0))
        self.assertEqual((volume["num_base_bdevs"], volume["num_base_bdevs_operational"]), (2, 2))
        self.assertEqual(volume["base_bdevs_list"][1]["name"], "b")
        self.assertTrue(volume["base_bdevs_list"][1]["is_configured"])
        bdev = self.rpc.bdev_get_bdevs(name="r")[0]
        self.assertEqual((bdev["product_name"], bdev["num_blocks"]), ("Raid Volume", 16384))
        self.assertEqual(bdev["driver_specific"]["raid"]["state"], "online")
        load = self.load(read_percent=50)
        self.assertGreater(load["ios"], 0)
        self.assertTrue(self.rpc.bdev_raid_delete(name="r"))
        self.assertEqual(self.rpc.bdev_raid_get_bdevs(category="all"), [])
        self.assertTrue(self.create(name="again"), "the base bdevs are free")

    def test_missing_base_bdevs_are_waited_for(self):
        self.ram("a")
        self.assertTrue(self.create())
        self.assertEqual(self.volume(category="configuring")["num_base_bdevs_discovered"], 1)
        self.assertIsNone(self.volume(category="online"))
        self.fails(-19, "bdev_get_bdevs", name="r")
        self.ram("b")
        wait_until(lambda: self.volume(category="online"), 10, "the volume to come online")

    def test_what_cannot_be_a_mirror_is_refused_and_leaves_nothing(self):
        self.ram("a", "b", "c")
        self.rpc.bdev_malloc_create(name="wide", num_blocks=2048, block_size=4096)
        create = lambda code, bases, level="raid1", name="r", **more: self.fails(
            code, "bdev_raid_create", name=name, raid_level=level, base_bdevs=bases, **more)
        create(-22, ["a"])
        create(-22, ["a", "a"])
        create(-22, ["a", ""])
        create(-22, ["a", "b"], strip_size_kb=64)
        create(-22, ["a", "b"], name="n" * 64)
        self.assertIn("only raid1", create(-22, ["a", "b"], level="raid0"))
        create(-32602, ["a", "b"], level="raid9")
        self.assertIn("block size", create(-22, ["a", "wide"]))
        create(-17, ["a", "b"], name="c")
        self.assertTrue(self.create())
        create(-17, ["c", "wide"])
        self.assertIn("claimed by r", create(-16, ["c", "b"], name="other"))
        self.assertEqual(len(self.rpc.bdev_raid_get_bdevs(category="all")), 1)
        self.fails(-19, "bdev_raid_delete", name="missing")
        self.fails(-19, "bdev_raid_add_base_bdev", raid_bdev="missing", base_bdev="c")
        self.fails(-19, "bdev_raid_remove_base_bdev", name="c")
        self.fails(-22, "bdev_raid_add_base_bdev", raid_bdev="r", base_bdev="c")
        self.fails(-22, "bdev_raid_set_options", process_window_size_kb=0)

    def test_a_failing_base_bdev_leaves_under_load_and_the_volume_goes_on(self):
        self.ram("a", "b")
        self.rpc.bdev_error_create(base_name="b")
        self.create(bases=("a", "EE_b"))
        self.rpc.bdev_error_inject_error(name="EE_b", io_type="write", error_type="failure", num=1000)
        load = self.load(read_percent=0, duration_ms=500)  # the leg gets its second tries
        self.assertGreater(load["ios"], 0)
        self.assertEqual(self.states(), ["in_sync", "empty"])
        volume = self.volume()
        self.assertEqual((volume["state"], volume["num_base_bdevs_operational"]), ("online", 1))
        self.assertIn("write failed", volume["base_bdevs_list"][1]["reason"])

    def test_removing_the_bdev_below_degrades_and_removing_the_last_ends_the_volume(self):
        self.ram("a", "b")
        self.create()
        self.assertTrue(self.rpc.bdev_malloc_delete(name="a"))
        self.assertEqual(self.states(), ["empty", "in_sync"])
        self.assertGreater(self.load(read_percent=50)["ios"], 0)
        self.assertTrue(self.rpc.bdev_malloc_delete(name="b"))
        wait_until(lambda: self.volume() is None, 10, "the volume to go")


class Rebuild(RaidCase):
    def test_a_replacement_is_rebuilt_under_load_and_then_holds_the_same(self):
        for name in ("a", "b", "c"):
            path = self.make_file(name, 16 * MIB)
            self.rpc.bdev_uring_create(name=name, filename=path, block_size=512)
        self.create()
        self.assertTrue(self.rpc.bdev_raid_remove_base_bdev(name="a"))
        self.assertGreater(self.load(read_percent=0)["ios"], 0)
        self.assertTrue(self.rpc.bdev_raid_add_base_bdev(raid_bdev="r", base_bdev="c"))
        while "process" in self.volume():
            self.assertGreater(self.load(read_percent=0)["ios"], 0)
        self.assertEqual(self.states(), ["in_sync", "in_sync"])
        self.rpc.bdev_raid_delete(name="r")
        with open(self.path("b"), "rb") as b, open(self.path("c"), "rb") as c:
            self.assertEqual(b.read(), c.read())

    def test_progress_limit_and_cancellation(self):
        self.ram("a", "b", "c")
        self.rpc.bdev_raid_set_options(process_window_size_kb=64, process_max_bandwidth_mb_sec=2)
        self.create()
        self.rpc.bdev_raid_remove_base_bdev(name="b")
        self.rpc.bdev_raid_add_base_bdev(raid_bdev="r", base_bdev="c")
        process = wait_until(lambda: (self.volume().get("process") or {}) if
                             (self.volume().get("process") or {}).get("progress", {}).get("percent", 0) >= 5 else None,
                             10, "progress")
        self.assertEqual((process["type"], process["target"]), ("rebuild", "c"))
        self.assertLess(process["progress"]["blocks"], 16384)
        self.assertGreater(process["eta_seconds"], 0)
        self.assertLess(process["mb_per_sec"], 4)
        self.ram("d")
        self.fails(-1, "bdev_raid_add_base_bdev", raid_bdev="r", base_bdev="d")
        self.assertTrue(self.rpc.bdev_raid_remove_base_bdev(name="c"))
        self.assertNotIn("process", self.volume())
        self.assertEqual(self.states(), ["in_sync", "empty"])
        self.assertTrue(self.rpc.bdev_raid_delete(name="r"))


class Scrubs(RaidCase):
    def status(self):
        return self.rpc.diskengine_raid_scrub_status(name="r")

    def scrub(self):
        self.assertTrue(self.rpc.diskengine_raid_scrub_start(name="r"))
        wait_until(lambda: self.status()["state"] == "done", 30, "the scrub to end")
        return self.status()

    def test_a_scrub_under_load_finds_nothing_and_a_flipped_bit_is_named(self):
        for name in ("a", "b"):
            path = self.make_file(name, 32 * MIB)
            self.rpc.bdev_uring_create(name=name, filename=path, block_size=512)
        self.create()
        self.assertEqual(self.status(), {"state": "none"})
        self.rpc.diskengine_raid_scrub_start(name="r", max_bandwidth_mb_sec=64)
        self.fails(-17, "diskengine_raid_scrub_start", name="r")
        self.load(read_percent=30, duration_ms=600)
        wait_until(lambda: self.status()["state"] == "done", 30, "the scrub to end")
        status = self.status()
        self.assertEqual((status["differing_blocks"], status["progress"]["percent"]), (0, 100))
        with open(self.path("b"), "r+b") as file:
            file.seek(9 * MIB + 7)
            file.write(b"\x5a")
        status = self.scrub()
        self.assertEqual(status["differing_blocks"], 1)
        self.assertEqual((status["differences"][0]["lba"], status["differences"][0]["blocks"]), (9 * MIB // 512, 1))
        types = [event["type"] for event in self.rpc.diskengine_raid_wait_events(timeout_ms=0)["events"]]
        self.assertEqual(types[-2:], ["legs_differ", "scrub_ended"])

    def test_what_a_leg_cannot_read_is_rewritten(self):
        self.ram("a", "b")
        self.rpc.bdev_error_create(base_name="b")
        self.create(bases=("a", "EE_b"))
        self.rpc.bdev_error_inject_error(name="EE_b", io_type="read", error_type="failure", num=1)
        status = self.scrub()
        self.assertGreater(status["healed_blocks"], 0)
        self.assertEqual((status["unreadable_blocks"], self.states()), (0, ["in_sync", "in_sync"]))
        self.rpc.bdev_error_inject_error(name="EE_b", io_type="read", error_type="failure", num=1)
        self.load(read_percent=100)
        wait_until(lambda: self.volume()["repairs"]["blocks"] > 0, 10, "the repair")

    def test_a_scrub_is_stopped_and_goes_with_its_volume(self):
        self.ram("a", "b")
        self.create()
        self.rpc.diskengine_raid_scrub_start(name="r", max_bandwidth_mb_sec=1)
        self.assertTrue(self.rpc.diskengine_raid_scrub_stop(name="r"))
        self.fails(-2, "diskengine_raid_scrub_stop", name="r")
        self.assertEqual(self.status()["state"], "stopped")
        self.assertIn("on request", self.status()["reason"])
        self.assertTrue(self.rpc.diskengine_raid_scrub_start(name="r", max_bandwidth_mb_sec=1))
        self.assertTrue(self.rpc.bdev_raid_delete(name="r"))


class DiskCase(RaidCase):
    """Disks in files, which a process that is started anew finds as they were."""

    def files(self, *names):
        for name in names:
            self.make_file(name, 8 * MIB)

    def disks(self, *names):
        for name in names:
            uuid = f"00000000-0000-4000-8000-{ord(name):012x}"
            self.rpc.bdev_uring_create(name=name, filename=self.path(name), block_size=4096, uuid=uuid)

    def restart(self):
        self.io.terminate()
        self.io = self.start_io()
        self.rpc = self.io.rpc

    def crash(self):
        """The process dies without a word, and another one is started."""
        self.io.kill()
        self.io = self.start_io()
        self.rpc = self.io.rpc

    def alike(self, one, other):
        with open(self.path(one), "rb") as a, open(self.path(other), "rb") as b:
            self.assertTrue(a.read()[MIB:] == b.read()[MIB:], f"{one} and {other} differ")


class Superblocks(DiskCase):
    def test_a_mirror_assembles_when_its_base_bdevs_appear(self):
        self.files("a", "b")
        self.disks("a", "b")
        self.create(superblock=True)
        uuid = self.volume()["uuid"]
        self.assertEqual(self.volume()["base_bdevs_list"][0]["data_offset"], 256)
        self.assertEqual(self.rpc.bdev_get_bdevs(name="r")[0]["num_blocks"], 2048 - 256)
        with open(self.path("a"), "rb") as file:
            self.assertEqual(file.read(8), b"SPDKRAID")
        self.restart()
        self.disks("a")
        wait_until(lambda: self.volume(category="configuring"), 10, "the first leg to be examined")
        self.disks("b")
        wait_until(lambda: self.volume(category="online"), 10, "the volume to assemble")
        self.assertEqual(self.volume()["uuid"], uuid)

    def test_a_leg_that_left_does_not_come_back_as_it_was_but_is_rebuilt(self):
        self.files("a", "b")
        self.disks("a", "b")
        self.create(superblock=True)
        self.rpc.bdev_raid_remove_base_bdev(name="a")
        self.load(read_percent=0)
        self.restart()
        self.disks("a", "b")
        wait_until(lambda: self.volume(category="online"), 10, "the volume to assemble from the newer leg")
        wait_until(lambda: self.states() == ["in_sync", "in_sync"], 20, "the older leg to be rebuilt")
        self.rpc.bdev_raid_delete(name="r")
        with open(self.path("a"), "rb") as a, open(self.path("b"), "rb") as b:
            self.assertEqual(a.read()[MIB:], b.read()[MIB:])

    def test_a_deleted_mirror_stays_away_only_if_its_superblocks_are_cleared(self):
        self.files("a", "b", "c")
        self.disks("a", "b", "c")
        self.create(superblock=True)
        self.assertTrue(self.rpc.bdev_raid_delete(name="r"))
        self.assertIn("holds a leg", self.fails(-17, "bdev_raid_create", name="s", raid_level="1", base_bdevs=["a", "c"]))
        self.restart()
        self.disks("a", "b")
        wait_until(lambda: self.volume(category="online"), 10, "the volume to assemble")
        self.assertTrue(self.rpc.bdev_raid_delete(name="r", clear_sb=True))
        with open(self.path("a"), "rb") as file:
            self.assertEqual(file.read(8), bytes(8))
        self.assertTrue(self.create(name="s"))

    def test_a_damaged_superblock_is_no_leg_and_disturbs_nothing(self):
        self.files("a", "b")
        self.disks("a", "b")
        self.create(superblock=True)
        self.io.terminate()
        with open(self.path("a"), "r+b") as file:
            file.seek(200)
            file.write(b"\xff")
        self.io = self.start_io()
        self.rpc = self.io.rpc
        self.disks("a", "b")
        wait_until(lambda: self.volume(category="configuring"), 10, "the good leg to be examined")
        self.assertEqual(self.volume()["num_base_bdevs_discovered"], 1)
        self.assertEqual([base["is_configured"] for base in self.volume()["base_bdevs_list"]], [False, True])


class Assembly(DiskCase):
    def assemble(self, *bases, epoch=1, **more):
        return self.rpc.diskengine_raid_assemble(name="r", epoch=epoch, base_bdevs=list(bases), **more)

    def refused(self, code, *bases, epoch=1, **more):
        return self.fails(code, "diskengine_raid_assemble", name="r", epoch=epoch, base_bdevs=list(bases), **more)

    def test_after_a_crash_only_the_record_puts_a_volume_together_and_a_leg_comes_back_by_delta(self):
        self.files("a", "b")
        self.disks("a", "b")
        uuid = "00000000-0000-4000-8000-00000000beef"
        self.assertTrue(self.assemble("a", "b", epoch=4, uuid=uuid))
        self.assertTrue(self.assemble("a", "b", epoch=4, uuid=uuid), "the same again")
        self.assertEqual(self.volume()["epoch"], 4)
        self.load(read_percent=0)
        self.crash()
        self.disks("a", "b")
        waiting = wait_until(lambda: (self.volume(category="configuring") or {}).get("num_base_bdevs_discovered") == 2
                             and self.volume(), 10, "both legs to be examined")
        self.assertIn("diskengine_raid_assemble", waiting["reason"])
        self.assertEqual(waiting["epoch"], 4)
        self.assertIn("epoch 3 is over", self.refused(-116, "a", epoch=3))
        self.assertTrue(self.assemble("a", epoch=5))
        self.assertEqual((self.volume()["uuid"], self.states()), (uuid, ["in_sync", "empty"]))
        self.load(read_percent=0)
        self.rpc.bdev_raid_add_base_bdev(raid_bdev="r", base_bdev="b")
        wait_until(lambda: self.states() == ["in_sync", "in_sync"], 20, "the leg to be copied to")
        self.rpc.bdev_raid_delete(name="r")
        self.alike("a", "b")

    def test_a_volume_begins_with_a_place_free_and_gets_its_leg_later(self):
        self.files("a", "b")
        self.disks("a", "b")
        self.assertTrue(self.assemble("a", num_base_bdevs=2))
        self.assertEqual(self.states(), ["in_sync", "empty"])
        self.load(read_percent=0)
        self.rpc.bdev_raid_add_base_bdev(raid_bdev="r", base_bdev="b")
        wait_until(lambda: self.states() == ["in_sync", "in_sync"], 20, "the new leg to be copied to")
        self.rpc.bdev_raid_delete(name="r")
        self.alike("a", "b")

    def test_what_does_not_belong_there_is_refused(self):
        self.files("a", "b", "c")
        with open(self.path("c"), "r+b") as file:
            file.seek(1080)
            file.write(b"\x53\xef")  # as a file system begins
        self.disks("a", "b", "c")
        self.assertIn("somebody else's data", self.refused(-17, "a", "c"))
        self.refused(-19, "a", "missing")
        self.refused(-22, "a")
        self.refused(-32602, "a", "b", epoch=0)
        self.create(name="other", bases=("a", "b"), superblock=True)
        self.assertIn("claimed by other", self.refused(-16, "a", num_base_bdevs=2))
        self.rpc.bdev_raid_delete(name="other")
        self.assertIn("'other'", self.refused(-17, "a", num_base_bdevs=2))
        self.assertEqual(self.rpc.bdev_raid_get_bdevs(category="all"), [])


class Epochs(RaidCase):
    def test_a_dead_leg_is_told_at_once_and_writes_wait_for_the_word(self):
        self.ram("a", "b")
        self.rpc.bdev_error_create(base_name="b")
        self.create(bases=("a", "EE_b"))
        self.assertTrue(self.rpc.diskengine_raid_set_epoch(name="r", epoch=3))
        heard, refused = [], []

        def agent():
            rpc = RpcClient(self.io.rpc.path)
            batch = rpc.diskengine_raid_wait_events(after=0, timeout_ms=20000)
            heard.append((time.monotonic(), batch))
            event = batch["events"][0]
            try:
                rpc.diskengine_raid_confirm_exclusion(name="r", epoch=2, leg=event["leg"])
            except RpcError as error:
                refused.append(error.code)
            time.sleep(0.3)  # the database commits
            rpc.diskengine_raid_confirm_exclusion(name=event["volume"], epoch=event["epoch"], leg=event["leg"])

        thread = threading.Thread(target=agent)
        thread.start()
        self.rpc.bdev_error_inject_error(name="EE_b", io_type="write", error_type="failure", num=100000)
        began = time.monotonic()
        load = self.load(read_percent=0, duration_ms=800)
        thread.join()
        self.assertGreater(load["ios"], 0)
        self.assertLess(heard[0][0] - began, 1.5, "the event is pushed")
        self.assertEqual(refused, [-116], "an old epoch's word")
        event = heard[0][1]["events"][0]
        self.assertEqual((event["type"], event["volume"], event["epoch"], event["leg"]), ("exclusion_wanted", "r", 3, "EE_b"))
        held = self.volume()["held_writes"]
        self.assertGreater(held["total"], 0)
        self.assertEqual(held["now"], 0)
        self.assertGreater(held["max_ms"], 300)
        self.assertLess(held["max_ms"], 2000)
        self.assertEqual(self.states(), ["in_sync", "empty"])

    def test_a_fenced_volume_acknowledges_nothing_and_takes_no_epoch(self):
        self.ram("a", "b")
        self.create()
        self.rpc.diskengine_raid_set_epoch(name="r", epoch=3)
        self.fails(-116, "diskengine_raid_set_epoch", name="r", epoch=2)
        self.fails(-116, "diskengine_raid_fence", name="r", epoch=3)
        self.assertTrue(self.rpc.diskengine_raid_fence(name="r", epoch=4))
        self.assertTrue(self.volume()["fenced"])
        self.fails(-116, "diskengine_raid_set_epoch", name="r", epoch=5)
        refused = self.fails(-5, "diskengine_perf_run", bdev_name="r", duration_ms=100, warm_up_ms=0, read_percent=0)
        self.assertIn("fenced", refused)
        batch = self.rpc.diskengine_raid_wait_events(timeout_ms=0)
        self.assertEqual(batch["events"][-1]["type"], "fenced")
        self.assertTrue(self.rpc.bdev_raid_delete(name="r"))
