"""Traces: what single I/Os did on their way over two processes, and where their time went."""

import json
import subprocess
import time

from diskengine_test import RpcError, TestCase, program, wait_until

HOST_NQN = "nqn.2026-01.io.diskengine:host:7:1"
NQN = "nqn.2024-01.io.diskengine:traced-{}"
MIB = 1 << 20


class Traces(TestCase):
    """A guest's load on a mirror over two namespaces, each a thin lvol on a file."""

    def setUp(self):
        super().setUp()
        self.target = self.start_io("target")
        self.compute = self.start_io("compute")
        port = self.free_port()
        self.target.rpc.nvmf_create_transport(trtype="TCP")
        self.lvols = []
        for name in ("a", "b"):
            self.make_file(name, 64 * MIB)
            self.target.rpc.bdev_uring_create(name=name, filename=self.path(name), block_size=512)
            self.target.rpc.bdev_lvol_create_lvstore(bdev_name=name, lvs_name=f"lvs-{name}", clear_method="none")
            lvol = self.target.rpc.bdev_lvol_create(lvs_name=f"lvs-{name}", lvol_name="l", size_in_mib=32, thin_provision=True)
            self.lvols.append(lvol)
            self.namespace(name, lvol, port)
        self.compute.rpc.bdev_raid_create(name="raid_1", raid_level="raid1", base_bdevs=["an1", "bn1"])
        self.compute.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="raid_1")

    def namespace(self, name, bdev, port):
        nqn = NQN.format(name)
        self.target.rpc.nvmf_create_subsystem(nqn=nqn, allow_any_host=True)
        self.target.rpc.nvmf_subsystem_add_ns(nqn=nqn, namespace={"bdev_name": bdev})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        self.target.rpc.nvmf_subsystem_add_listener(nqn=nqn, listen_address=address)
        self.compute.rpc.bdev_nvme_attach_controller(name=name, trtype="TCP", adrfam="IPv4", traddr="127.0.0.1",
                                                     trsvcid=str(port), subnqn=nqn, hostnqn=HOST_NQN)

    def load(self, kind="randwrite", seconds=1.0, depth=1):
        """The guest's load in the background."""
        command = [program("vhost_load"), "--socket", self.compute.vhost_socket("vhost1"), "--rw", kind, "--sleep"]
        return subprocess.Popen([*command, "--qd", str(depth), "--seconds", str(seconds)], stdout=subprocess.PIPE)

    def traced(self, rpc, count=1, **wanted):
        return wait_until(lambda: self.some(rpc, count, **wanted), 10, f"{count} traces of {wanted}")

    @staticmethod
    def some(rpc, count, **wanted):
        found = rpc.diskengine_trace_get_recent(limit=500, **wanted)
        return found if len(found) >= count else None

    def adds_up(self, trace):
        self.assertAlmostEqual(sum(stage["us"] for stage in trace["stages"]), trace["total_us"], delta=0.5)

    def test_a_volume_whose_guest_does_nothing_is_probed_with_a_read_that_changes_nothing(self):
        before = self.compute.rpc.bdev_get_iostat(names=["raid_1"])["bdevs"][0]
        probe = self.compute.rpc.diskengine_trace_probe(name="raid_1")
        self.assertEqual((probe["op"], probe["blocks"], probe["layer"]), ("read", 1, "other"))
        self.assertEqual([visit["layer"] for visit in probe["visits"]], ["other", "raid", "nvme"])
        self.adds_up(probe)
        leg = probe["visits"][2]
        there = self.target.rpc.diskengine_trace_get_recent(
            host_nqn=HOST_NQN, queue_id=leg["queue_id"], command_id=leg["command_id"], limit=100)
        self.assertIn(("read", leg["lba"]), [(one["op"], one["lba"]) for one in there])
        after = self.compute.rpc.bdev_get_iostat(names=["raid_1"])["bdevs"][0]
        self.assertEqual(after["num_write_ops"], before["num_write_ops"])
        with self.assertRaises(RpcError) as refused:
            self.compute.rpc.diskengine_trace_probe(name="none")
        self.assertEqual(refused.exception.code, -19)
        self.compute.rpc.diskengine_trace_set_options(enabled=False)
        with self.assertRaises(RpcError) as refused:
            self.compute.rpc.diskengine_trace_probe(name="raid_1")
        self.assertEqual(refused.exception.code, -11)

    def test_a_write_is_followed_from_the_guest_to_both_disks(self):
        load = self.load()
        [write, *_] = self.traced(self.compute.rpc, 20, name="raid_1", op="write")
        self.assertEqual(write["layer"], "vhost")
        self.assertEqual([visit["layer"] for visit in write["visits"]], ["vhost", "raid", "nvme", "nvme"])
        self.assertEqual({visit["name"] for visit in write["visits"][2:]}, {"an1", "bn1"})
        self.assertEqual(sum(visit["waited_for"] for visit in write["visits"][2:]), 1)
        self.adds_up(write)
        names = [stage["stage"] for stage in write["stages"]]
        for stage in ("vhost_submit", "raid_submit", "network_target", "vhost_complete"):
            self.assertIn(stage, names)
        for leg in write["visits"][2:]:
            lvol = self.lvols[("an1", "bn1").index(leg["name"])]
            there = self.target.rpc.diskengine_trace_get_recent(
                name=lvol, host_nqn=HOST_NQN, queue_id=leg["queue_id"], command_id=leg["command_id"], limit=100)
            same = [one for one in there if one["lba"] == leg["lba"] and one["blocks"] == leg["blocks"]]
            self.assertTrue(same, (leg, there))
            self.assertEqual([visit["layer"] for visit in same[0]["visits"]][:2], ["nvmf", "lvol"])
            self.assertLess(same[0]["total_us"], leg["answered_us"] - leg["sent_us"])
            self.adds_up(same[0])
        load.wait()

    def test_a_first_write_shows_its_allocation_and_a_write_after_a_snapshot_the_copy(self):
        self.load_traced_from_its_beginning()
        first = [t for t in self.target.rpc.diskengine_trace_get_recent(limit=1000) if "allocated" in t["visits"][1]["notes"]]
        self.assertTrue(first)
        self.assertFalse(any("copied" in trace["visits"][1]["notes"] for trace in first))
        self.assertIn("lvol_allocate", [stage["stage"] for stage in first[0]["stages"]])
        for lvol in self.lvols:
            self.target.rpc.bdev_lvol_snapshot(lvol_name=lvol, snapshot_name=f"snap-{lvol}")
        self.load_traced_from_its_beginning()
        notes = [trace["visits"][1]["notes"] for trace in self.target.rpc.diskengine_trace_get_recent(limit=1000)]
        self.assertTrue(any("copied" in of for of in notes))

    def load_traced_from_its_beginning(self):
        """Only its first I/Os: what is kept then reaches back to them."""
        self.target.rpc.diskengine_trace_set_options(budget_per_s=1000, sample_every=1_000_000)
        self.load(seconds=0.3).wait()

    def test_sums_say_where_the_time_goes_and_slow_ones_are_kept(self):
        self.compute.rpc.diskengine_trace_set_options(sample_every=1)  # every one: whichever the stop meets
        load = self.load(seconds=60)
        usual = wait_until(self.usual, 15, "what is usual")
        self.assertGreater(usual["total"]["p50_us"], 1)
        self.assertAlmostEqual(sum(stage["share_percent"] for stage in usual["stages"]), 100, delta=2)
        # Every write waits for its slower leg: stopping the target for a moment is seen as time beyond the wire.
        self.target.signal(19)
        time.sleep(0.3)
        self.target.signal(18)
        time.sleep(0.3)
        load.terminate()
        load.wait()
        slow = self.compute.rpc.diskengine_trace_get_slow(name="raid_1", limit=100)
        slowest = max(slow, key=lambda trace: trace["total_us"])
        self.assertGreater(slowest["total_us"], 200_000)
        parts = {stage["stage"]: stage["us"] for stage in slowest["stages"]}
        self.assertEqual(max(parts, key=parts.get), "network_target")
        self.compute.rpc.diskengine_trace_reset()
        self.assertEqual(self.compute.rpc.diskengine_trace_get_slow(), [])

    def usual(self):
        found = self.compute.rpc.diskengine_trace_get_stages(name="raid_1")
        return found[0] if found and "slow_over_us" in found[0] else None

    def test_tracing_can_be_switched_off_and_thinned_out(self):
        options = {"enabled": False, "budget_per_s": 2000, "sample_every": 512}
        self.assertEqual(self.compute.rpc.diskengine_trace_set_options(enabled=False), options)
        self.load(seconds=0.3).wait()
        self.assertEqual(self.compute.rpc.diskengine_trace_get_recent(), [])
        self.compute.rpc.diskengine_trace_set_options(enabled=True, budget_per_s=0, sample_every=10)
        load = self.load(seconds=1, depth=8)
        done = json.loads(load.communicate()[0])
        traced = len(self.compute.rpc.diskengine_trace_get_recent(limit=1000))
        self.assertGreater(traced, 0)
        self.assertLessEqual(traced, 512)
        self.assertGreater(done["iops"], 0)
