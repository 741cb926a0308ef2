"""A mirror none of whose legs can be reached: a guest's I/O waits and goes on by itself, fails after the limit, and never
keeps the data plane from ending in time."""

import os
import shutil
import signal
import time

from diskengine_test import TestCase, scaled, wait_until
from diskengine_test.cluster import Cluster, FaultGuest

MIB = 1 << 20
SIZE = 24 * MIB
BLOCKS = 2048
END_S = 8  # 3 s for what is well, and a few turns for what is not


def nqn(name):
    return f"nqn.2024-01.io.diskengine:{name}"


class Reach(TestCase):
    TEST_TIMEOUT_S = 120

    def setUp(self):
        super().setUp()
        self.ports, self.targets = {}, {}
        for name in ("a", "b"):
            self.ports[name] = self.free_port()
            self.make_file(name, SIZE)
            self.start_target(name)
        self.io = self.start_io("host", core_mask="0x2")
        self.rpc = self.io.rpc
        for name in ("a", "b"):
            self.rpc.bdev_nvme_attach_controller(
                name=name, trtype="TCP", adrfam="ipv4", traddr="127.0.0.1", trsvcid=str(self.ports[name]),
                subnqn=nqn(name), ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1, fast_io_fail_timeout_sec=1)
        self.rpc.diskengine_raid_assemble(name="r", epoch=1, confirm_exclusions=False, base_bdevs=["an1", "bn1"])
        self.rpc.vhost_create_blk_controller(ctrlr="v", dev_name="r")

    def start_target(self, name):
        target = self.start_io(f"target_{name}")
        target.rpc.bdev_uring_create(name="disk", filename=self.path(name), block_size=512)
        target.rpc.nvmf_create_transport(trtype="TCP")
        target.rpc.nvmf_create_subsystem(nqn=nqn(name), allow_any_host=True, serial_number="SN", model_number="Test")
        uuid = f"00000000-0000-4000-8000-{ord(name):012x}"
        target.rpc.nvmf_subsystem_add_ns(nqn=nqn(name), namespace={"bdev_name": "disk", "uuid": uuid})
        self.targets[name] = target
        self.mend(name)

    def address(self, name):
        return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.ports[name])}

    def cut(self, name):
        """Its connections end and no new one is taken, as when the network to it is gone; it lives on."""
        self.targets[name].rpc.nvmf_subsystem_remove_listener(nqn=nqn(name), listen_address=self.address(name))

    def mend(self, name):
        self.targets[name].rpc.nvmf_subsystem_add_listener(nqn=nqn(name), listen_address=self.address(name))

    def start_load(self, **options):
        where = {"epoch": 1, "node": "host", "socket": self.io.vhost_socket("v")}
        return self.track(FaultGuest(self, where, BLOCKS, record=self.path("record"), **options))

    def volume(self):
        return self.rpc.bdev_raid_get_bdevs(category="all")[0]

    def wait_until_it_waits(self):
        wait_until(lambda: "waiting" in self.volume(), 20, "the mirror to wait for its legs")
        waiting = self.volume()["waiting"]
        self.assertIn("no leg in sync can be reached", self.volume()["reason"])
        self.assertLess(abs(waiting["since_unix_ms"] + waiting["for_ms"] - time.time() * 1000), 5000)
        return waiting

    def finish(self, load):
        """No request failed, nothing acknowledged is lost, and both legs hold the same again."""
        seen = load.stop()
        print(f"the longest request took {seen['longest_ms']:.0f} ms", flush=True)
        self.assertEqual((seen["errors"], seen["unanswered"]), (0, 0))
        self.assertGreater(seen["writes"], 0)
        again = self.start_load(verify=True).result()
        self.assertEqual((again["reads"], again["wrong"], again["errors"]), (BLOCKS, False, 0))
        out = [name for name in ("an1", "bn1") if name not in str(self.volume()["base_bdevs_list"])]
        self.assertEqual(len(out), 1, "the last leg in sync stayed, the other one left")
        self.rpc.bdev_raid_add_base_bdev(raid_bdev="r", base_bdev=out[0])
        states = lambda: [base["state"] for base in self.volume()["base_bdevs_list"]]
        wait_until(lambda: states() == ["in_sync", "in_sync"], 30, "the leg that left to be copied to")
        self.io.terminate()
        with open(self.path("a"), "rb") as a, open(self.path("b"), "rb") as b:
            self.assertTrue(a.read()[MIB:] == b.read()[MIB:], "the legs differ")
        return seen

    def events(self):
        return [event["type"] for event in self.rpc.diskengine_raid_wait_events(timeout_ms=0)["events"]]

    def test_a_guest_waits_while_both_targets_are_cut_off_and_goes_on_by_itself(self):
        load = self.start_load()
        time.sleep(1)
        for name in ("a", "b"):
            self.cut(name)
        self.wait_until_it_waits()
        wait_until(lambda: self.volume()["waiting"]["for_ms"] > 4000, 20, "it to wait for a while")
        for name in ("a", "b"):
            self.mend(name)
        wait_until(lambda: "waiting" not in self.volume(), 20, "it to go on")
        time.sleep(1)
        self.assertEqual([e for e in self.events() if e in ("waiting", "reached", "gave_up", "stopped")],
                         ["waiting", "reached"])
        self.assertGreater(self.finish(load)["longest_ms"], 4000)

    def test_a_guest_waits_while_both_targets_are_dead_and_goes_on_by_itself(self):
        load = self.start_load()
        time.sleep(1)
        for name in ("a", "b"):
            self.targets[name].kill()
        self.wait_until_it_waits()
        time.sleep(2)
        for name in ("a", "b"):
            self.start_target(name)
        # What they had not flushed is with the machine, which did not end.
        wait_until(lambda: "waiting" not in self.volume(), 20, "it to go on")
        time.sleep(1)
        self.assertNotIn("stopped", self.events())
        self.finish(load)

    def test_after_the_limit_io_fails_until_a_leg_is_back(self):
        self.rpc.bdev_raid_set_options(no_leg_timeout_sec=3)
        load = self.start_load()
        time.sleep(0.5)
        for name in ("a", "b"):
            self.cut(name)
        self.wait_until_it_waits()
        wait_until(lambda: self.volume()["waiting"]["gave_up"], 20, "it to give up")
        for name in ("a", "b"):
            self.mend(name)
        wait_until(lambda: "waiting" not in self.volume(), 20, "it to go on")
        time.sleep(0.5)
        seen = load.stop()
        self.assertGreater(seen["errors"], 0)
        again = self.start_load(verify=True).result()
        self.assertEqual((again["reads"], again["wrong"], again["errors"]), (BLOCKS, False, 0))

    def end_in_time(self):
        begun = time.monotonic()
        self.io.terminate(60)
        took = time.monotonic() - begun
        print(f"it ended after {took:.1f} s", flush=True)
        self.assertLess(took, scaled(END_S))

    def test_the_data_plane_ends_in_time_though_its_targets_are_gone(self):
        load = self.start_load()
        time.sleep(0.5)
        for name in ("a", "b"):
            self.targets[name].kill()
        self.wait_until_it_waits()
        self.end_in_time()
        load.kill()

    def test_the_data_plane_ends_in_time_though_its_targets_went_this_moment(self):
        load = self.start_load()
        time.sleep(0.5)
        for name in ("a", "b"):
            self.targets[name].kill()
        self.end_in_time()
        load.kill()

    def test_the_data_plane_ends_in_time_though_its_targets_do_not_answer(self):
        load = self.start_load()
        time.sleep(0.5)
        for name in ("a", "b"):
            self.targets[name].signal(signal.SIGSTOP)
        self.end_in_time()
        load.kill()
        for name in ("a", "b"):
            self.targets[name].signal(signal.SIGCONT)

    def test_the_data_plane_ends_in_time_though_nobody_confirms_an_exclusion(self):
        self.rpc.diskengine_raid_set_epoch(name="r", epoch=2, confirm_exclusions=True)
        load = self.start_load()
        time.sleep(0.5)
        self.targets["a"].kill()
        wait_until(lambda: self.volume()["held_writes"]["now"] > 0, 20, "writes to be held")
        self.end_in_time()
        load.kill()


class ClusterReach(TestCase):
    TEST_TIMEOUT_S = 120

    def test_a_volume_whose_storage_nodes_are_all_dead_waits_says_so_and_loses_nothing(self):
        cluster = Cluster(self).start()
        cluster.make_volume()
        load = cluster.start_load()
        time.sleep(1)
        for node in ("s1", "s2"):
            cluster.planes[node].kill()
        reason = lambda: cluster.attachment()["reason"]
        wait_until(lambda: "no replica with the current data can be reached since" in reason(), 20, "it to be said")
        self.assertEqual(cluster.attachment()["state"], "down")
        self.assertIn("I/O waits, at most 300 s", reason())
        wait_until(lambda: "no replica with the current data" in cluster.volume()["reason"], 10, "the volume to say so")
        self.assertIn("no replica with the current data", cluster.cli("volume", "list"))
        self.assertEqual(len(cluster.in_sync()), 1, "the last one in sync stays that on record")
        config = cluster.rpc("c1").framework_get_config(name="bdev")
        given_up_s = [call["params"]["ctrlr_loss_timeout_sec"] for call in config if "attach_controller" in call["method"]]
        self.assertEqual(given_up_s, [-1, -1], "the mirror's own limit counts")
        time.sleep(2)
        for node in ("s1", "s2"):
            cluster.start_plane(node)
        cluster.wait_state("ready", timeout_s=40)
        time.sleep(0.5)
        seen = load.stop()
        print(f"the longest request took {seen['longest_ms']:.0f} ms", flush=True)
        self.assertEqual((seen["errors"], seen["unanswered"]), (0, 0))
        again = cluster.start_load(verify=True).result()
        self.assertEqual((again["reads"], again["wrong"]), (1024, False))
        cluster.check_identical()

    def test_a_volume_whose_storage_nodes_lost_their_caches_stops_until_a_person_resumes_it(self):
        cluster = Cluster(self).start()
        cluster.make_volume()
        self.assertIn("volume v is not stopped", cluster.refused("volume", "resume", "v", "--yes"))
        load = cluster.start_load()
        time.sleep(1)
        for node in ("s1", "s2"):
            cluster.planes[node].kill()
        for node in ("s1", "s2"):
            # Another file, as after a restart of the machine; nothing is lost in truth.
            disk = cluster.disks[node]
            shutil.copyfile(disk, f"{disk}.new")
            os.replace(f"{disk}.new", disk)
            cluster.start_plane(node)
        reason = lambda: cluster.attachment()["reason"]
        wait_until(lambda: "diskengine volume resume v" in reason(), 40, "the next step to be named")
        self.assertEqual(cluster.attachment()["state"], "down")
        refusal = cluster.refused("volume", "resume", "v")
        for part in ("every leg may have lost writes", "MiB of it", "--yes"):
            self.assertIn(part, refusal)
        self.assertIn("would", cluster.cli("volume", "resume", "v", "--dry-run"))
        self.assertTrue(cluster.raid()["stopped"], "nothing was done yet")
        self.assertIn("goes on with what its replicas hold", cluster.cli("volume", "resume", "v", "--yes"))
        cluster.wait_state("ready", timeout_s=40)
        time.sleep(0.5)
        seen = load.stop()
        self.assertEqual((seen["errors"], seen["unanswered"]), (0, 0))
        cluster.check_identical()
