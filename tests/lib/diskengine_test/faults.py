"""The fault matrix: what is done to a fleet with a working guest, and which cause `volume diagnose` has to name for it.

A fault is a function of a Scene. It injects, waits until the injection has taken hold (never for a diagnosis), and
returns what must be named. `Expect.causes` are the (layer, code, node) that must be there, the first place among them
included; any of `Expect.also` may be there too, as they follow from the fault or belong to how it was injected.
"""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from .control import COMPUTE, MIB, STORAGE, Fleet
from .deadline import wait_until
from .rpc import RpcClient

VOLUME = "v"
ANY = "*"


@dataclass
class Expect:
    causes: tuple = ()
    also: tuple = ()
    exit_codes: tuple = (1,)


def cause(layer, code, node=ANY):
    return (layer, code, node)


class Scene:
    """A fleet with an attached volume and a guest that writes to it."""

    def __init__(self, case, disk_bytes=256 * MIB, addresses=("127.0.0.1", "127.0.0.1"), size="64MiB"):
        self.fleet = Fleet(case, disk_bytes, addresses).start()
        self.case = case
        self.size = size

    def attach(self, *load_arguments, load=True):
        self.fleet.volume(VOLUME, self.size)
        self.attachment = self.fleet.attach(VOLUME)
        self.raid = self.attachment["raid"]
        self.replicas = {node: self.fleet.replica(node) for node in STORAGE}
        if load:
            self.load = self.fleet.load(self.attachment["socket"], *load_arguments)
            self.fleet.moves(self.raid)
        return self

    def rpc(self, node):
        return self.fleet.rpc(node)

    def nqn(self, node):
        return self.replicas[node]["nqn"]

    def base(self, node):
        return self.replicas[node]["base_bdev"]

    def end_loop(self, node):
        """So that what is broken next is not repaired at once."""
        self.fleet.loops[node].terminate()

    def signal(self, node, number):
        self.fleet.planes[node].signal(number)

    def disk_delay(self, node, latency_us):
        for kind in ("avg_write", "p99_write"):
            self.rpc(node).bdev_delay_update_latency(
                delay_bdev_name=self.fleet.disk_bdev(node), latency_type=kind, latency_us=latency_us
            )

    def disk_fault(self, node, error_type, io_type="write", num=1_000_000):
        self.rpc(node).bdev_error_inject_error(name="EE_raw", io_type=io_type, error_type=error_type, num=num)

    def oldest_us(self, node, bdev):
        return max((one["age_us"] for one in self.rpc(node).diskengine_outstanding(name=bdev)), default=0)

    def wait_stuck(self, node, bdev):
        wait_until(lambda: self.oldest_us(node, bdev) > 1_000_000, 15, f"{bdev} to stand still")

    def wait_leg_out(self, node):
        """Until the mirror runs without that node's leg."""

        def out():
            raid = self.rpc(COMPUTE).bdev_raid_get_bdevs(category="all")[0]
            return not any(leg["name"] == self.base(node) and leg["is_configured"] for leg in raid["base_bdevs_list"])

        wait_until(out, 20, f"the leg on {node} to leave the mirror")

    def wait_raid(self, says, timeout_s=30):
        wait_until(
            lambda: self.rpc(COMPUTE).bdev_raid_get_bdevs(category="all")[0].get(says), timeout_s, f"{says} of the mirror"
        )

    def exclude(self, node):
        """Takes the node's leg out, in the place of the control plane, for whose record the mirror would wait."""
        epoch = self.rpc(COMPUTE).bdev_raid_get_bdevs(category="all")[0]["epoch"]
        self.rpc(COMPUTE).diskengine_raid_confirm_exclusion(name=self.raid, epoch=epoch, leg=self.base(node))
        self.wait_leg_out(node)

    def saturate(self, node):
        """A neighbour that leaves the node's reactor no time: large copies on a RAM disk, many at once."""
        self.rpc(node).bdev_malloc_create(name="neighbour", num_blocks=64 * MIB // 512, block_size=512)
        client = RpcClient(self.fleet.planes[node].rpc_path)

        def run():
            try:
                client.diskengine_perf_run(
                    bdev_name="neighbour", read_percent=100, queue_depth=64, io_size=256 * 1024, duration_ms=60_000
                )
            except OSError:
                pass  # it ends with the data plane

        threading.Thread(target=run, daemon=True).start()

        def reads():
            return self.rpc(node).bdev_get_iostat(names=["neighbour"])["bdevs"][0]["num_read_ops"]

        wait_until(lambda: reads() > 1000, 20, "the neighbour to read")

    def end(self):
        for node in (*STORAGE, COMPUTE):
            plane = self.fleet.planes[node]
            if plane.exit_code() is None:
                plane.signal(signal.SIGCONT)
        for loop in self.fleet.loops.values():
            if loop.exit_code() is None:
                loop.signal(signal.SIGCONT)

    def diagnose(self):
        return self.fleet.run("-o", "json", "volume", "diagnose", VOLUME)


def loop(node):
    return cause("control-plane", "loop-stopped", node)


NOT_READY = cause("control-plane", "not-ready")
REBUILD = cause("raid", "rebuilding")
LEG_OUT = cause("raid", "leg-out")
WAITING = cause("raid", "mirror-waiting", COMPUTE)
FAULTS = {}


def fault(quick=False, **scene):
    def add(function):
        FAULTS[function.__name__] = (function, scene, quick)
        return function

    return add


# --- nothing is wrong: nothing may be named ---------------------------------------------------------------------------


@fault(quick=True)
def a_sound_volume_under_load(scene):
    scene.attach()
    return Expect(exit_codes=(0, 1))  # 1: on a busy machine its writes may be slow


@fault()
def a_sound_volume_whose_guest_is_idle(scene):
    scene.attach()
    # The guest stops asking; it keeps its disk.
    scene.load.signal(signal.SIGSTOP)
    time.sleep(0.3)
    return Expect(also=(cause("vhost", "completion-not-seen"),), exit_codes=(0, 1))


# --- control plane ----------------------------------------------------------------------------------------------------


@fault(quick=True)
def the_api_is_killed(scene):
    scene.attach(load=False)
    scene.fleet.loops["api"].kill()
    return Expect((cause("control-plane", "api-down", ""),), exit_codes=(6,))


@fault()
def the_api_is_stopped(scene):
    scene.attach(load=False)
    scene.fleet.loops["api"].signal(signal.SIGSTOP)
    return Expect((cause("control-plane", "api-down", ""),), exit_codes=(5, 6))


@fault()
def the_loop_of_a_storage_node_is_stopped(scene):
    scene.attach()
    scene.fleet.loops["s1"].signal(signal.SIGSTOP)
    time.sleep(13)
    return Expect((loop("s1"),))


@fault()
def the_loop_of_the_compute_node_is_killed(scene):
    scene.attach()
    scene.fleet.loops[COMPUTE].kill()
    time.sleep(13)
    return Expect((loop(COMPUTE),))


@fault(quick=True)
def the_volume_is_not_attached(scene):
    scene.fleet.volume(VOLUME, scene.size)
    return Expect((cause("control-plane", "not-attached"),))


@fault()
def a_vm_is_started_before_its_disk_is_ready(scene):
    """Nothing is broken; the compute node's loop has not got to it yet."""
    scene.fleet.volume(VOLUME, scene.size)
    scene.end_loop(COMPUTE)
    scene.fleet.cli("attachment", "create", VOLUME, "--no-wait")
    wait_until(lambda: scene.fleet.replica("s1")["admitted_host"], 10, "the export to admit the writer")
    wait_until(lambda: scene.fleet.replica("s2")["admitted_host"], 10, "the export to admit the writer")
    also = (cause("initiator", "controller-missing"), loop(COMPUTE))
    return Expect((NOT_READY,), also)


# --- guest and vhost --------------------------------------------------------------------------------------------------


@fault()
def no_vm_is_connected(scene):
    scene.attach()
    scene.load.kill()
    wait_until(lambda: not scene.rpc(COMPUTE).vhost_get_controllers()[0]["sessions"], 10, "the guest to be gone")
    return Expect((cause("guest", "no-front-end"),))


@fault(quick=True)
def a_completion_comes_without_its_interrupt(scene):
    scene.attach("--deaf-after", "1")
    time.sleep(1.5)
    return Expect((cause("vhost", "completion-not-seen", COMPUTE),))


@fault()
def a_kick_is_missed(scene):
    scene.attach("--mute-after", "1")
    time.sleep(1.5)
    return Expect((cause("vhost", "requests-not-taken", COMPUTE),))


@fault()
def the_vhost_controller_is_deleted(scene):
    scene.attach()
    scene.end_loop(COMPUTE)
    scene.rpc(COMPUTE).vhost_delete_controller(ctrlr=scene.attachment["vhost"])
    return Expect((cause("vhost", "controller-missing", COMPUTE),), (loop(COMPUTE),))


@fault()
def the_compute_nodes_data_plane_is_killed(scene):
    scene.attach()
    scene.fleet.planes[COMPUTE].kill()
    return Expect((cause("vhost", "data-plane-down", COMPUTE),), (NOT_READY,))


@fault(quick=True)
def the_compute_nodes_data_plane_is_stopped(scene):
    scene.attach()
    scene.signal(COMPUTE, signal.SIGSTOP)
    return Expect((cause("vhost", "data-plane-silent", COMPUTE),), (NOT_READY,))


@fault()
def the_compute_nodes_reactor_is_saturated(scene):
    scene.attach()
    scene.saturate(COMPUTE)
    return Expect((cause("vhost", "reactor-saturated", COMPUTE),))


# --- the mirror -------------------------------------------------------------------------------------------------------


@fault(quick=True)
def a_leg_is_taken_out_of_the_mirror(scene):
    scene.attach()
    scene.end_loop(COMPUTE)
    scene.exclude("s2")
    return Expect((LEG_OUT,), (loop(COMPUTE),))


@fault()
def the_mirror_is_deleted(scene):
    scene.attach()
    scene.end_loop(COMPUTE)
    scene.rpc(COMPUTE).bdev_raid_delete(name=scene.raid)
    return Expect((cause("raid", "mirror-missing", COMPUTE),), (loop(COMPUTE), cause("vhost", "bdev-lost")))


@fault()
def the_mirrors_writer_is_fenced(scene):
    scene.attach()
    scene.end_loop(COMPUTE)
    scene.rpc(COMPUTE).diskengine_raid_fence(name=scene.raid, epoch=1_000_000)
    return Expect((cause("raid", "writer-fenced", COMPUTE),), (loop(COMPUTE),))


@fault()
def a_replica_is_rebuilt(scene):
    scene.attach()
    scene.rpc(COMPUTE).bdev_raid_set_options(process_max_bandwidth_mb_sec=1)
    scene.rpc(COMPUTE).bdev_raid_remove_base_bdev(name=scene.base("s2"))
    wait_until(
        lambda: scene.rpc(COMPUTE).bdev_raid_get_bdevs(category="all")[0].get("process"), 15, "the rebuild to begin"
    )
    return Expect((REBUILD,))


# --- initiator and network --------------------------------------------------------------------------------------------


@fault()
def a_controller_is_detached(scene):
    scene.attach()
    scene.end_loop(COMPUTE)
    scene.exclude("s1")
    scene.rpc(COMPUTE).bdev_nvme_detach_controller(name=scene.base("s1")[:-2])
    return Expect((cause("initiator", "controller-missing", COMPUTE),), (loop(COMPUTE),))


def partition(address, cut):
    subprocess.run(["ip", "addr", "del" if cut else "add", f"{address}/32", "dev", "lo"], check=True)


@fault(addresses=("10.77.0.1", "127.0.0.1"))
def the_network_to_a_storage_node_is_cut(scene):
    scene.attach()
    partition("10.77.0.1", True)
    scene.wait_stuck(COMPUTE, scene.base("s1"))
    return Expect((cause("network", ANY, COMPUTE),), (cause("raid", "leg-out"),))


@fault(addresses=("10.77.0.1", "127.0.0.1"))
def the_network_was_cut_and_the_mirror_went_on(scene):
    scene.attach()
    partition("10.77.0.1", True)
    scene.wait_leg_out("s1")
    return Expect((cause("network", ANY, COMPUTE),))


# --- targets ----------------------------------------------------------------------------------------------------------


@fault(quick=True)
def a_storage_nodes_data_plane_is_killed(scene):
    scene.attach()
    scene.fleet.planes["s1"].kill()
    return Expect((cause("target", "data-plane-down", "s1"),))


@fault(quick=True)
def a_storage_nodes_data_plane_is_stopped(scene):
    """Its connections stay: the controller is enabled and the path is dead."""
    scene.attach()
    scene.signal("s1", signal.SIGSTOP)
    time.sleep(1)
    return Expect((cause("target", "data-plane-silent", "s1"),))


@fault(quick=True)
def a_lvol_is_not_exported(scene):
    scene.attach()
    scene.end_loop("s1")
    scene.rpc("s1").nvmf_delete_subsystem(nqn=scene.nqn("s1"))
    return Expect((cause("target", "not-exported", "s1"),), (loop("s1"),))


@fault()
def a_namespace_is_removed(scene):
    scene.attach()
    scene.end_loop("s2")
    scene.rpc("s2").nvmf_subsystem_remove_ns(nqn=scene.nqn("s2"), nsid=1)
    return Expect((cause("target", "namespace-missing", "s2"),), (loop("s2"),))


@fault()
def a_namespace_shows_another_device(scene):
    scene.attach()
    scene.end_loop("s2")
    rpc = scene.rpc("s2")
    rpc.nvmf_subsystem_remove_ns(nqn=scene.nqn("s2"), nsid=1)
    rpc.bdev_malloc_create(name="other", num_blocks=64 * MIB // 512, block_size=512)
    rpc.nvmf_subsystem_add_ns(nqn=scene.nqn("s2"), namespace={"bdev_name": "other", "nsid": 1})
    return Expect((cause("target", "namespace-wrong", "s2"),), (loop("s2"),))


@fault()
def a_host_is_taken_off_the_list(scene):
    scene.attach()
    scene.end_loop("s1")
    scene.rpc("s1").nvmf_subsystem_remove_host(nqn=scene.nqn("s1"), host=scene.attachment["host_nqn"])
    return Expect((cause("target", "host-not-admitted", "s1"),), (loop("s1"),))


@fault()
def a_listener_is_removed(scene):
    scene.attach()
    scene.end_loop("s1")
    address = {"trtype": "TCP", "traddr": scene.fleet.addresses["s1"], "trsvcid": str(scene.fleet.ports["s1"])}
    scene.rpc("s1").nvmf_subsystem_remove_listener(nqn=scene.nqn("s1"), listen_address=address)
    return Expect((cause("target", "listener-missing", "s1"),), (loop("s1"),))


@fault()
def an_export_lets_anybody_in(scene):
    scene.attach()
    scene.end_loop("s1")
    scene.rpc("s1").nvmf_subsystem_allow_any_host(nqn=scene.nqn("s1"), allow_any_host=True)
    return Expect((cause("target", "stranger-admitted", "s1"),), (loop("s1"),))


@fault()
def a_storage_nodes_reactor_is_saturated(scene):
    scene.attach()
    scene.saturate("s1")
    return Expect((cause("target", "reactor-saturated", "s1"),))


@fault()
def an_export_does_not_admit_the_new_writer(scene):
    scene.fleet.volume(VOLUME, scene.size)
    scene.end_loop("s2")
    scene.fleet.cli("attachment", "create", VOLUME, "--no-wait")
    wait_until(lambda: scene.fleet.replica("s1")["admitted_host"], 10, "the other export to admit the writer")
    also = (NOT_READY, loop("s2"), cause("initiator", "controller-missing"), cause("guest", "no-front-end"), LEG_OUT)
    return Expect((cause("target", "host-not-admitted", "s2"),), also)


# --- lvols and disks --------------------------------------------------------------------------------------------------


def fill(scene, node):
    """Leaves the node's store no free cluster; the volume's lvol has not been written to where the guest goes next."""
    rpc = scene.rpc(node)
    store = rpc.bdev_lvol_get_lvstores()[0]
    free_mib = store["free_clusters"] * store["cluster_size"] // MIB
    rpc.bdev_lvol_create(lvs_name=store["name"], lvol_name="hog", size_in_mib=free_mib, thin_provision=False)
    assert rpc.bdev_lvol_get_lvstores()[0]["free_clusters"] == 0


@fault(quick=True)
def a_store_is_full(scene):
    scene.attach(load=False)
    fill(scene, "s1")
    scene.load = scene.fleet.load(scene.attachment["socket"])
    scene.wait_leg_out("s1")
    return Expect((cause("lvol", "store-full", "s1"),), (LEG_OUT, REBUILD))


@fault()
def a_store_is_full_and_writes_wait_for_space(scene):
    scene.attach(load=False)
    scene.rpc("s1").diskengine_lvol_set_pause_when_full(name=scene.replicas["s1"]["lvol"], pause=True)
    fill(scene, "s1")
    scene.load = scene.fleet.load(scene.attachment["socket"])
    scene.wait_stuck("s1", scene.replicas["s1"]["lvol"])
    return Expect((cause("lvol", "store-full", "s1"),))


@fault()
def a_lvol_is_deleted(scene):
    scene.attach()
    scene.end_loop("s1")
    scene.rpc("s1").nvmf_delete_subsystem(nqn=scene.nqn("s1"))
    scene.rpc("s1").bdev_lvol_delete(name=scene.replicas["s1"]["lvol"])
    return Expect((cause("lvol", "lvol-missing", "s1"),), (loop("s1"), cause("target", "not-exported", "s1")))


@fault()
def a_disk_is_removed(scene):
    scene.attach()
    scene.end_loop("s2")
    scene.rpc("s2").bdev_delay_delete(name=scene.fleet.disk_bdev("s2"))
    also = (loop("s2"), cause("target", "namespace-missing", "s2"))
    return Expect((cause("disk", "disk-missing", "s2"),), also)


@fault(quick=True)
def a_disk_is_slow(scene):
    scene.attach()
    scene.disk_delay("s1", 20_000)
    time.sleep(0.5)
    return Expect((cause("disk", "disk-slow", "s1"),))


@fault()
def both_disks_are_slow(scene):
    scene.attach()
    for node in STORAGE:
        scene.disk_delay(node, 20_000)
    time.sleep(0.5)
    return Expect((cause("disk", "disk-slow"),))


@fault(quick=True)
def a_disk_does_not_complete(scene):
    scene.attach()
    scene.disk_fault("s2", "pending")
    scene.wait_stuck("s2", scene.fleet.disk_bdev("s2"))
    return Expect((cause("disk", "disk-stuck", "s2"),))


@fault()
def a_disk_fails_writes(scene):
    scene.attach()
    scene.disk_fault("s1", "failure")
    scene.wait_leg_out("s1")
    return Expect((cause("disk", "disk-errors", "s1"),), (LEG_OUT, REBUILD))


@fault()
def a_disk_fails_everything(scene):
    scene.attach()
    scene.disk_fault("s1", "failure", "all")
    scene.wait_leg_out("s1")
    also = (LEG_OUT, REBUILD, cause("lvol", "store-frozen", "s1"))
    return Expect((cause("disk", "disk-errors", "s1"),), also)


# --- two at once ------------------------------------------------------------------------------------------------------


@fault()
def one_node_is_killed_and_the_other_ones_disk_is_slow(scene):
    scene.attach()
    scene.fleet.planes["s2"].kill()
    scene.disk_delay("s1", 20_000)
    scene.wait_leg_out("s2")
    time.sleep(0.5)
    return Expect((cause("target", "data-plane-down", "s2"), cause("disk", "disk-slow", "s1")))


@fault(quick=True)
def one_lvol_is_not_exported_and_the_guest_misses_an_interrupt(scene):
    scene.attach("--deaf-after", "2")
    scene.end_loop("s1")
    scene.rpc("s1").nvmf_delete_subsystem(nqn=scene.nqn("s1"))
    time.sleep(5)
    return Expect(
        (cause("target", "not-exported", "s1"), cause("vhost", "completion-not-seen", COMPUTE)), (loop("s1"), LEG_OUT)
    )


@fault()
def a_node_is_killed_and_nobody_records_that_its_replica_left(scene):
    scene.attach()
    scene.end_loop(COMPUTE)
    scene.fleet.planes["s1"].kill()

    def held():
        return scene.rpc(COMPUTE).bdev_raid_get_bdevs(category="all")[0]["held_writes"]["now"]

    wait_until(held, 20, "writes to be held")
    scene.wait_stuck(COMPUTE, scene.raid)
    return Expect((cause("target", "data-plane-down", "s1"), cause("raid", "writes-held", COMPUTE)), (loop(COMPUTE),))


@fault()
def both_storage_nodes_are_killed(scene):
    scene.attach()
    for node in STORAGE:
        scene.fleet.planes[node].kill()
    scene.wait_raid("waiting")
    return Expect(
        (cause("target", "data-plane-down", "s1"), cause("target", "data-plane-down", "s2"), WAITING),
        (NOT_READY, cause("raid", "mirror-missing"), cause("vhost", "bdev-lost"), cause("raid", "writes-held")),
    )


@fault(addresses=("10.77.0.1", "10.77.0.1"))
def the_network_to_all_storage_nodes_is_cut(scene):
    scene.attach()
    partition("10.77.0.1", True)
    scene.wait_raid("waiting")
    return Expect((cause("network", ANY, COMPUTE), WAITING), (cause("raid", "leg-out"), NOT_READY))


@fault(quick=True)
def all_storage_nodes_lose_their_caches(scene):
    """Both machines are started anew under a guest that never flushed: nobody has what was acknowledged."""
    scene.attach()
    for node in STORAGE:
        scene.fleet.planes[node].kill()
    for node in STORAGE:
        scene.fleet.lose_cache(node)
    scene.wait_raid("stopped", 60)
    also = (NOT_READY, LEG_OUT, WAITING, cause("network", ANY), cause("target", ANY))
    return Expect((cause("raid", "mirror-stopped", COMPUTE),), also)


def in_namespace():
    return bool(os.environ.get("DISKENGINE_TEST_NAMESPACE"))
