"""What is measured: each scenario starts its processes, runs any of the cases it has, and says which processes count."""

import json
import os
import subprocess
import threading
import time

from processes import BACK, FRONT, RpcClient, Stage, free_port, program

DISK_MIB = 16  # stays in the processor's cache: the path is measured, not the machine's memory
LVOL_CLUSTER_BYTES = 1 << 20
TARGET_NQN = "nqn.2016-06.io.spdk:bench{}"
WARM_UP_S = 0.2


class Case:
    """One kind of work at one queue depth."""

    def __init__(self, work, size, depth):
        self.work, self.size, self.depth = work, size, depth
        self.read = work.endswith("read")
        self.sequential = work.startswith("seq")

    @property
    def key(self):
        return f"{self.work} {self.size // 1024}k qd{self.depth}"


SMALL = [Case(work, 4096, depth) for work in ("randwrite", "randread") for depth in (1, 32, 128)]
LARGE = [Case(work, 128 * 1024, 8) for work in ("seqwrite", "seqread")]


class Scenario:
    """Subclasses fill in start() and run(). `processes` are those whose CPU time and system calls are counted."""

    cases = SMALL + LARGE
    limit = None  # the scenario that is this one's limit

    def __init__(self, stage):
        self.stage = stage
        self.processes = {}

    def start(self):
        raise NotImplementedError

    def run(self, case, seconds):
        """Blocks; returns {"iops", "p50_us", "p99_us", "p999_us"} and, where the load counts them itself,
        "cpu_us_per_io" and "calls_per_io" by process."""
        raise NotImplementedError

    def pids(self):
        return {name: process.pid for name, process in self.processes.items()}


def perf_run(io, bdev, case, seconds):
    """The load generator inside a data plane."""
    result = io.rpc.call(
        "diskengine_perf_run",
        _timeout_s=seconds + 30,
        bdev_name=bdev,
        read_percent=100 if case.read else 0,
        sequential=case.sequential,
        queue_depth=case.depth,
        io_size=case.size,
        warm_up_ms=int(WARM_UP_S * 1000),
        duration_ms=int(seconds * 1000),
    )
    latency = result["latency_us"]
    return {"iops": result["iops"], **{f"{name}_us": latency[name] for name in ("p50", "p99", "p999")}}


def make_ram(io, name, mib=DISK_MIB):
    io.rpc.bdev_malloc_create(name=name, block_size=512, num_blocks=mib * 2048)
    return name


def make_file(stage, io, name, mib=DISK_MIB):
    path = os.path.join(stage.directory, name)
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    io.rpc.bdev_uring_create(name=name, filename=path, block_size=4096)
    return name


def fill(io, bdev):
    """Writes the whole disk once, so that its memory is there."""
    io.rpc.diskengine_perf_run(bdev_name=bdev, read_percent=0, sequential=True, io_size=1 << 20, queue_depth=8,
                               duration_ms=200, warm_up_ms=0)


def export(io, bdevs):
    """NVMe/TCP subsystems over the bdevs, one each; returns [(nqn, port)]."""
    port = free_port()
    io.rpc.nvmf_create_transport(trtype="TCP")
    places = []
    for index, bdev in enumerate(bdevs):
        nqn = TARGET_NQN.format(f"-{io.name}-{index}")
        io.rpc.nvmf_create_subsystem(nqn=nqn, allow_any_host=True, serial_number=f"BENCH{index}")
        io.rpc.nvmf_subsystem_add_ns(nqn=nqn, namespace={"bdev_name": bdev})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        io.rpc.nvmf_subsystem_add_listener(nqn=nqn, listen_address=address)
        places.append((nqn, port))
    return places


def attach(io, name, place):
    """Connects to an export; returns the bdev."""
    nqn, port = place
    bdevs = io.rpc.bdev_nvme_attach_controller(
        name=name, trtype="TCP", adrfam="IPv4", traddr="127.0.0.1", trsvcid=str(port), subnqn=nqn
    )
    return bdevs[0]


class RawTcp(Scenario):
    """The limit: messages of the same sizes between two processes with nothing behind them."""

    title = "raw loopback TCP"

    def start(self):
        pass

    def run(self, case, seconds):
        command = [program("raw_tcp"), "--op", "read" if case.read else "write", "--qd", str(case.depth)]
        command += ["--size", str(case.size), "--seconds", str(seconds), "--cores", f"{FRONT},{BACK}"]
        result = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)
        for amount in ("cpu_us_per_io", "calls_per_io"):
            result[amount] = dict(zip(("initiator", "target"), result[amount]))
        return result


class Ram(Scenario):
    """The block layer alone: a load on a RAM disk in the same process."""

    title = "RAM disk, in process"

    def start(self):
        self.io = self.processes["io"] = self.stage.data_plane("io", FRONT)
        fill(self.io, make_ram(self.io, "ram"))

    def run(self, case, seconds):
        return perf_run(self.io, "ram", case, seconds)


class FileDisk(Scenario):
    """A file-backed disk under direct I/O, in the same process."""

    title = "file disk, in process"
    cases = SMALL + LARGE

    def start(self):
        self.io = self.processes["io"] = self.stage.data_plane("io", FRONT)
        fill(self.io, make_file(self.stage, self.io, "file"))

    def run(self, case, seconds):
        return perf_run(self.io, "file", case, seconds)


def make_lvol(io, bdev):
    """A thin lvol of half the disk, all of it allocated; returns its name."""
    io.rpc.bdev_lvol_create_lvstore(bdev_name=bdev, lvs_name="lvs", cluster_sz=LVOL_CLUSTER_BYTES, clear_method="none")
    io.rpc.bdev_lvol_create(lvs_name="lvs", lvol_name="lvol", size_in_mib=DISK_MIB, thin_provision=True)
    fill(io, "lvs/lvol")
    return "lvs/lvol"


class LvolOnRam(Scenario):
    """A thin lvol, allocated, on a RAM disk, in the same process: what its map costs."""

    title = "thin lvol on RAM disk"
    cases = SMALL
    limit = "ram"

    def start(self):
        self.io = self.processes["io"] = self.stage.data_plane("lvol", FRONT)
        self.bdev = make_lvol(self.io, make_ram(self.io, "ram", mib=2 * DISK_MIB))

    def run(self, case, seconds):
        return perf_run(self.io, self.bdev, case, seconds)


class LvolOnFile(LvolOnRam):
    """The same on a file."""

    title = "thin lvol on file disk"
    limit = "file"

    def start(self):
        self.io = self.processes["io"] = self.stage.data_plane("lvol", FRONT)
        self.bdev = make_lvol(self.io, make_file(self.stage, self.io, "lvol_disk", mib=2 * DISK_MIB))


class NvmeTcp(Scenario):
    """Host and target, one core each, over loopback TCP onto a RAM disk."""

    title = "NVMe/TCP, RAM disk"
    limit = "raw"

    def start(self):
        target = self.processes["target"] = self.stage.data_plane("target", BACK)
        self.host = self.processes["host"] = self.stage.data_plane("host", FRONT)
        fill(target, make_ram(target, "ram"))
        self.bdev = attach(self.host, "Nvme0", export(target, ["ram"])[0])

    def run(self, case, seconds):
        return perf_run(self.host, self.bdev, case, seconds)


class Raid1(Scenario):
    """A mirror over two NVMe/TCP namespaces: host on one core, both targets on the other."""

    title = "RAID1 over 2 x NVMe/TCP"

    def start(self):
        target = self.processes["target"] = self.stage.data_plane("target", BACK)
        self.host = self.processes["host"] = self.stage.data_plane("host", FRONT)
        for name in ("a", "b"):
            fill(target, make_ram(target, name))
        legs = [attach(self.host, f"Leg{i}", place) for i, place in enumerate(export(target, ["a", "b"]))]
        self.host.rpc.bdev_raid_create(name="mirror", raid_level="raid1", base_bdevs=legs)

    def run(self, case, seconds):
        return perf_run(self.host, "mirror", case, seconds)


class Mirror(Scenario):
    """A mirror over two RAM disks in the same process, where nothing else takes time."""

    title = "mirror of RAM disks, no log"
    plane = "mirror"
    superblock = False
    cases = [case for case in SMALL if not case.read]

    def start(self):
        self.io = self.processes["io"] = self.stage.data_plane(self.plane, FRONT)
        legs = [make_ram(self.io, name, mib=DISK_MIB + 1) for name in ("a", "b")]
        self.io.rpc.bdev_raid_create(name="mirror", raid_level="raid1", base_bdevs=legs, superblock=self.superblock)
        fill(self.io, "mirror")

    def run(self, case, seconds):
        return perf_run(self.io, "mirror", case, seconds)


class MirrorWithLog(Mirror):
    """The same with superblocks: what the dirty-region log costs steady writes."""

    title = "mirror of RAM disks, dirty-region log"
    plane = "mirror_log"
    superblock = True
    limit = "mirror"


class VhostLoad(Scenario):
    """What runs our vhost-user front end, which polls, on the core beside the data plane's."""

    front_core = BACK

    def run(self, case, seconds):
        command = [] if self.front_core is None else ["taskset", "-c", str(self.front_core)]
        kind = ("" if case.sequential else "rand") + ("read" if case.read else "write")
        command += [program("vhost_load"), "--socket", self.io.vhost_socket("vhost.0"), "--rw", kind]
        command += ["--bs", str(case.size), "--qd", str(case.depth), "--seconds", str(seconds), *self.front_options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"vhost_load failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    front_options = ()


class Vhost(VhostLoad):
    """A virtqueue in shared memory onto a RAM disk."""

    title = "vhost, RAM disk"
    plane = "vhost"
    limit = "vhost_untraced"

    def start(self):
        self.io = self.processes["io"] = self.stage.data_plane(self.plane, FRONT)
        fill(self.io, make_ram(self.io, "ram"))
        self.io.rpc.vhost_create_blk_controller(ctrlr="vhost.0", dev_name="ram")


class VhostUntraced(Vhost):
    """The same with tracing off: what sampling costs."""

    title = "vhost, RAM disk, nothing traced"
    plane = "untraced"
    limit = None

    def start(self):
        super().start()
        self.io.rpc.diskengine_trace_set_options(enabled=False)


class WholePath(VhostLoad):
    """Virtqueue, mirror, NVMe/TCP, two targets: three data planes and a polling front end share the machine's cores."""

    title = "whole path, 2 targets"
    front_core = None
    front_options = ("--sleep",)

    def start(self):
        places = []
        for name in ("a", "b"):
            target = self.processes[f"target_{name}"] = self.stage.data_plane(f"target_{name}")
            fill(target, make_ram(target, "ram"))
            places += export(target, ["ram"])
        self.io = self.processes["host"] = self.stage.data_plane("host")
        legs = [attach(self.io, f"Leg{i}", place) for i, place in enumerate(places)]
        self.io.rpc.bdev_raid_create(name="raid_1", raid_level="raid1", base_bdevs=legs)
        self.io.rpc.vhost_create_blk_controller(ctrlr="vhost.0", dev_name="raid_1")


SCENARIOS = {
    "raw": RawTcp,
    "nvme_tcp": NvmeTcp,
    "raid1": Raid1,
    "mirror": Mirror,
    "mirror_log": MirrorWithLog,
    "vhost_untraced": VhostUntraced,
    "vhost": Vhost,
    "path": WholePath,
    "ram": Ram,
    "file": FileDisk,
    "lvol": LvolOnRam,
    "lvol_file": LvolOnFile,
}


def first_write_latencies():
    """How long the first write to a cluster of a thin lvol takes, by disk and cluster size."""
    with Stage() as stage:
        run = lambda *where: json.loads(
            subprocess.run([program("lvol_first_write"), *where], capture_output=True, check=True, text=True,
                           timeout=120).stdout)
        return {"RAM disk": run(), "file disk": run(os.path.join(stage.directory, "disk"))}


REBUILD_MIB = 1024


class RebuildWatch(threading.Thread):
    """Notes how far the rebuild of "mirror" is until it is over: (seconds, MiB) pairs."""

    def __init__(self, io):
        super().__init__()
        self.rpc = RpcClient(io.rpc.path)
        self.samples = []

    def run(self):
        start = time.monotonic()
        while True:
            volume = self.rpc.bdev_raid_get_bdevs(category="all")[0]
            if "process" not in volume:
                self.samples.append((time.monotonic() - start, REBUILD_MIB))
                return
            self.samples.append((time.monotonic() - start, volume["process"]["progress"]["blocks"] / 2048))
            time.sleep(0.01)

    def rate(self, since_s, until_s):
        """MiB a second between two moments."""
        inside = [sample for sample in self.samples if since_s <= sample[0] <= until_s]
        if len(inside) < 2:
            raise RuntimeError(f"the rebuild was over before it was measured: {self.samples[-1]}")
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def rebuild_beside_load(seconds):
    """A mirror over NVMe/TCP whose leg is copied to in full, alone and beside random writes of 4 KiB at depth 32."""
    with Stage() as stage:
        target = stage.data_plane("target", BACK)
        host = stage.data_plane("host", FRONT)
        places = export(target, [make_ram(target, name, mib=REBUILD_MIB) for name in ("a", "b")])
        legs = [attach(host, f"Leg{i}", place) for i, place in enumerate(places)]
        host.rpc.bdev_raid_create(name="mirror", raid_level="raid1", base_bdevs=legs)
        host.rpc.call("diskengine_perf_run", _timeout_s=60, bdev_name="mirror", read_percent=0, sequential=True,
                      io_size=1 << 20, queue_depth=8, duration_ms=6000, warm_up_ms=0)
        case = Case("randwrite", 4096, 32)
        alone = perf_run(host, "mirror", case, seconds)

        def rebuild():
            host.rpc.bdev_raid_remove_base_bdev(name=legs[1])
            host.rpc.bdev_raid_add_base_bdev(raid_bdev="mirror", base_bdev=legs[1])
            watch = RebuildWatch(host)
            watch.start()
            return watch

        copy = rebuild()
        copy.join()
        both = rebuild()
        beside = perf_run(host, "mirror", case, seconds)
        both.join()
        return {
            "iops_alone": alone["iops"], "iops_beside_rebuild": beside["iops"],
            "copy_mib_s_alone": copy.rate(0, copy.samples[-1][0]),
            "copy_mib_s_beside_load": both.rate(WARM_UP_S, WARM_UP_S + seconds),
        }


def idle_cpu_percent(volumes, seconds):
    """How much of a core a data plane with so many vhost volumes, each with a connected guest, uses while all are idle."""
    from processes import cpu_seconds
    from vhost_idle import IdleFrontEnd

    with Stage() as stage:
        io = stage.data_plane("io", FRONT)
        for index in range(volumes):
            make_ram(io, f"ram{index}", mib=1)
            io.rpc.vhost_create_blk_controller(ctrlr=f"vhost.{index}", dev_name=f"ram{index}")
            stage.enter_context(IdleFrontEnd(io.vhost_socket(f"vhost.{index}")))
        time.sleep(1)
        before, start = cpu_seconds(io.pid), time.monotonic()
        time.sleep(seconds)
        return 100 * (cpu_seconds(io.pid) - before) / (time.monotonic() - start)
