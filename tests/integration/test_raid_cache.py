"""A mirror over two storage targets that are killed between a write and its flush. With a disk that has lost what its cache
held, nothing acknowledged is read in its older state, and when no target has it the volume waits to be told to go on. With one
that has not, nothing happens."""

import os
import shutil
import threading

from diskengine_test import Namespace, TestCase, wait_until

MIB = 1 << 20
SIZE = 16 * MIB
BLOCK = 4096
OLD, NEW = b"\x11" * BLOCK, b"\x22" * BLOCK


def nqn(name):
    return f"nqn.2024-01.io.diskengine:{name}"


def serve(rpc, name, bdev, port):
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    rpc.nvmf_create_transport(trtype="TCP")
    rpc.nvmf_create_subsystem(nqn=nqn(name), allow_any_host=True, serial_number="SN", model_number="Test")
    uuid = f"00000000-0000-4000-8000-{int.from_bytes(name.encode(), 'big') & 0xFFFFFFFFFFFF:012x}"
    rpc.nvmf_subsystem_add_ns(nqn=nqn(name), namespace={"bdev_name": bdev, "uuid": uuid})
    rpc.nvmf_subsystem_add_listener(nqn=nqn(name), listen_address=address)


class LostCaches(TestCase):
    TEST_TIMEOUT_S = 120

    def setUp(self):
        super().setUp()
        self.ports, self.targets = {}, {}
        for name in ("a", "b"):
            self.ports[name] = self.free_port()
            self.make_file(name, SIZE)
            self.start_target(name)
        self.start_host()

    def start_host(self):
        self.io = self.start_io("host")
        self.rpc = self.io.rpc
        for name in ("a", "b"):
            self.rpc.bdev_nvme_attach_controller(
                name=name, trtype="TCP", adrfam="ipv4", traddr="127.0.0.1", trsvcid=str(self.ports[name]),
                subnqn=nqn(name), ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)

    def start_target(self, name):
        target = self.start_io(f"target_{name}")
        target.rpc.bdev_uring_create(name="disk", filename=self.path(name), block_size=512)
        serve(target.rpc, name, "disk", self.ports[name])
        self.targets[name] = target

    def prepare(self):
        """Old data everywhere and flushed; then new data in one place, acknowledged and not flushed."""
        self.rpc.diskengine_raid_assemble(name="r", epoch=1, confirm_exclusions=False, base_bdevs=["an1", "bn1"])
        port = self.free_port()
        serve(self.rpc, "guest", "r", port)
        disk = Namespace(port, nqn("guest"))
        self.addCleanup(disk.close)
        for at in range(0, 8 * MIB, MIB):
            disk.write(at, OLD * (MIB // BLOCK))
        disk.flush()
        for name in ("a", "b"):
            shutil.copyfile(self.path(name), self.path(f"{name}.flushed"))
        disk.write(3 * MIB, NEW)
        return disk

    def lose(self, name):
        """The target dies, and its disk as far as it was not flushed: it is another file, as after a restart of the machine."""
        self.targets[name].kill()
        shutil.copyfile(self.path(f"{name}.flushed"), self.path(f"{name}.new"))
        os.replace(self.path(f"{name}.new"), self.path(name))
        self.start_target(name)

    def test_processes_that_were_started_anew_on_machines_that_were_not_have_lost_nothing(self):
        disk = self.prepare()
        for names in (["a"], ["b", "a"]):
            for name in names:
                self.targets[name].kill()
            for name in names:
                self.start_target(name)
            for _ in range(5):
                self.assertEqual(disk.read(3 * MIB, BLOCK), NEW)
        controllers = lambda: str(self.rpc.bdev_nvme_get_controllers()).count("'state': 'enabled'")
        wait_until(lambda: controllers() == 2, 20, "both targets to be connected")
        self.assertEqual(disk.read(3 * MIB, BLOCK), NEW)
        self.assertEqual([e for e in self.events() if e in ("cache_lost", "excluded", "stopped")], [])
        self.assertEqual(self.states(), ["in_sync", "in_sync"])
        self.io.terminate()

    def lose_with_the_host(self, names, assembled):
        """The data plane that serves the volume is started anew as well, and puts it together from these legs."""
        self.io.kill()
        for name in names:
            self.lose(name)
        self.start_host()
        self.rpc.diskengine_raid_assemble(name="r", epoch=1, confirm_exclusions=False, base_bdevs=assembled)

    def read_new_process(self, offset):
        port = self.free_port()
        serve(self.rpc, "guest", "r", port)
        disk = Namespace(port, nqn("guest"))
        self.addCleanup(disk.close)
        return disk.read(offset, BLOCK)

    def test_a_cache_lost_while_the_data_plane_was_started_anew_too_is_noticed(self):
        self.prepare()
        for name in ("a", "b"):
            self.lose_with_the_host([name], ["an1", "bn1"])
            self.assertEqual(self.read_new_process(3 * MIB), NEW)
            self.assertIn("cache_lost", self.events())
            wait_until(lambda: self.states() == ["in_sync", "in_sync"], 30, "the leg to be copied to")
        self.io.terminate()
        with open(self.path("a"), "rb") as a, open(self.path("b"), "rb") as b:
            self.assertTrue(a.read()[MIB:] == b.read()[MIB:])

    def test_when_both_were_lost_with_the_data_plane_the_volume_is_stopped_until_it_is_told(self):
        self.prepare()
        self.lose_with_the_host(["a", "b"], ["an1", "bn1"])
        self.assertTrue(self.volume()["stopped"])
        self.assertIn("every leg may have lost", self.volume()["reason"])
        self.rpc.diskengine_raid_resume(name="r")
        self.assertEqual(self.read_new_process(3 * MIB), OLD)

    def volume(self):
        return self.rpc.bdev_raid_get_bdevs(category="all")[0]

    def states(self):
        return [base["state"] for base in self.volume()["base_bdevs_list"]]

    def events(self):
        return [event["type"] for event in self.rpc.diskengine_raid_wait_events(timeout_ms=0)["events"]]

    def test_a_target_that_lost_its_cache_gets_it_back_before_it_is_read(self):
        disk = self.prepare()
        for name in ("a", "b", "a"):
            before = len(self.events())
            self.lose(name)
            wait_until(lambda: "cache_lost" in self.events()[before:], 30, "the loss to be noticed")
            for _ in range(20):
                self.assertEqual(disk.read(3 * MIB, BLOCK), NEW)
            wait_until(lambda: self.states() == ["in_sync", "in_sync"], 30, "the leg to be copied to")
            self.assertEqual(disk.read(2 * MIB, BLOCK), OLD)
        self.io.terminate()
        with open(self.path("a"), "rb") as a, open(self.path("b"), "rb") as b:
            self.assertTrue(a.read()[MIB:] == b.read()[MIB:])

    def test_when_both_lost_their_caches_the_volume_waits_to_be_told(self):
        disk = self.prepare()
        for name in ("a", "b"):
            self.targets[name].kill()
        for name in ("a", "b"):
            self.lose(name)
        wait_until(lambda: self.volume().get("stopped"), 30, "the volume to stop")
        self.assertIn("every leg may have lost", self.volume()["reason"])
        read = []
        reader = threading.Thread(target=lambda: read.append(disk.read(3 * MIB, BLOCK)))
        reader.start()
        reader.join(1)
        self.assertEqual(read, [], "a read waits")
        self.assertTrue(self.rpc.diskengine_raid_resume(name="r"))
        reader.join(20)
        self.assertEqual(read, [OLD], "what the legs hold")
        self.assertEqual([event for event in self.events() if event in ("stopped", "resumed")], ["stopped", "resumed"])
        wait_until(lambda: self.states().count("in_sync") == 2, 30, "both legs to be in sync")
        self.io.terminate()


class RamDisks(TestCase):
    """Targets that have their data in their own memory: what ends with them is all of it."""

    TEST_TIMEOUT_S = 60

    def start_target(self, name):
        self.targets[name] = self.start_io(f"target_{name}")
        self.targets[name].rpc.bdev_malloc_create(name="disk", num_blocks=SIZE // 512, block_size=512)
        serve(self.targets[name].rpc, name, "disk", self.ports[name])

    def setUp(self):
        super().setUp()
        self.targets, self.ports = {}, {name: self.free_port() for name in ("a", "b")}
        for name in ("a", "b"):
            self.start_target(name)
        self.rpc = self.start_io("host").rpc
        for name in ("a", "b"):
            self.rpc.bdev_nvme_attach_controller(
                name=name, trtype="TCP", adrfam="ipv4", traddr="127.0.0.1", trsvcid=str(self.ports[name]),
                subnqn=nqn(name), ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
        self.rpc.diskengine_raid_assemble(name="r", epoch=1, confirm_exclusions=False, base_bdevs=["an1", "bn1"])
        port = self.free_port()
        serve(self.rpc, "guest", "r", port)
        self.disk = Namespace(port, nqn("guest"))
        self.addCleanup(self.disk.close)
        self.disk.write(3 * MIB, NEW)
        self.disk.flush()
        wait_until(lambda: self.volume()["dirty_log"]["marked"] == 0, 30, "everything to be flushed")

    def volume(self):
        return self.rpc.bdev_raid_get_bdevs(category="all")[0]

    def restart(self, *names):
        for name in names:
            self.targets[name].kill()
        for name in names:
            self.start_target(name)

    def test_one_that_was_started_anew_is_filled_again_whatever_was_flushed(self):
        self.restart("a")
        for _ in range(20):
            self.assertEqual(self.disk.read(3 * MIB, BLOCK), NEW)
        states = lambda: [base["state"] for base in self.volume()["base_bdevs_list"]]
        wait_until(lambda: "cache_lost" in str(self.rpc.diskengine_raid_wait_events(timeout_ms=0)), 30, "it to be noticed")
        wait_until(lambda: states() == ["in_sync", "in_sync"], 30, "the leg to be copied to")
        self.restart("b")
        self.assertEqual(self.disk.read(3 * MIB, BLOCK), NEW)

    def test_when_both_were_started_anew_the_volume_stops(self):
        self.restart("a", "b")
        wait_until(lambda: self.volume().get("stopped"), 30, "the volume to stop")
        self.assertIn("every leg may have lost", self.volume()["reason"])
