"""A cluster of real processes on this machine: storage nodes, compute nodes, and a control plane that serves them."""

import json
import os
import subprocess

from .blobstore import Blobstore
from .deadline import scaled, wait_until
from .process import Process, program

MIB = 1 << 20
SUPERBLOCK_ROOM = MIB  # before the volume's data on a replica with a superblock
CLI_TIMEOUT_S = 60


class Cluster:
    """Its processes belong to `case`, a TestCase. Every node has a data plane of its own; one control plane serves all.

    Names: storage nodes s1, s2, ..., compute nodes c1, c2, ...; a volume's data plane objects are looked up through
    volume() and attachment(), what the command line answers as JSON.
    """

    def __init__(self, case, storage=2, compute=1, disk_bytes=64 * MIB, interval="1s"):
        self.case = case
        self.storage = [f"s{i + 1}" for i in range(storage)]
        self.compute = [f"c{i + 1}" for i in range(compute)]
        self.interval = interval
        self.addresses = {node: f"127.0.0.1:{case.free_port()}" for node in self.storage}
        self.disks = {node: case.make_file(f"{node}.disk", disk_bytes) for node in self.storage}
        self.db = case.path("state.db")
        self.api = case.path("api.sock")
        self.planes = {}
        self.records = {}  # by volume: which file its guests keep what they know in
        self.serve = None

    def start(self):
        for node in self.storage + self.compute:
            self.start_plane(node)
        self.start_control()
        for node in self.storage:
            self.cli("disk", "add", "--node", node, "--path", self.disks[node])
        return self

    def start_plane(self, node):
        """The node's data plane, with nothing configured, as after a restart of the machine."""
        number = (self.storage + self.compute).index(node)
        self.planes[node] = self.case.start_io(node, core_mask=hex(1 << (number % os.cpu_count())))
        return self.planes[node]

    def rpc(self, node):
        return self.planes[node].rpc

    def serve_command(self, *more):
        command = [program("diskengine"), "--api", self.api, "serve", "--db", self.db, "--interval", self.interval]
        for node in self.storage:
            command += ["--storage-node", f"{node}={self.planes[node].rpc_path},address={self.addresses[node]}"]
        for node in self.compute:
            command += ["--compute-node", f"{node}={self.planes[node].rpc_path},vhost-dir={self.planes[node].vhost_dir}"]
        return command + list(more)

    def start_control(self):
        self.serve = self.case.start(self.serve_command(), "serve")
        wait_until(lambda: self._run("status").returncode == 0, 20, "the control plane to answer")

    def _run(self, *arguments):
        command = [program("diskengine"), "--api", self.api, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=scaled(CLI_TIMEOUT_S))

    def cli(self, *arguments):
        """What the command line prints; the test fails if it does."""
        run = self._run(*arguments)
        self.case.assertEqual(run.returncode, 0, f"diskengine {' '.join(arguments)}: {run.stdout}{run.stderr}")
        return run.stdout

    def refused(self, *arguments):
        """The error of a command that must fail."""
        run = self._run(*arguments)
        self.case.assertNotEqual(run.returncode, 0, f"diskengine {' '.join(arguments)}: {run.stdout}")
        return run.stderr

    def query(self, *arguments):
        return json.loads(self.cli("-o", "json", *arguments))

    def make_volume(self, name="v", size="16MiB", node=None):
        """A volume that is attached and ready."""
        self.cli("volume", "create", name, "--size", size)
        self.cli("attachment", "create", name, *(["--node", node] if node else []))
        self.cli("attachment", "wait", name)

    def volume(self, name="v"):
        return self.query("volume", "show", name)

    def attachment(self, name="v"):
        return self.query("attachment", "show", name)

    def in_sync(self, name="v"):
        """The storage nodes whose replicas hold the current data, as recorded."""
        return [replica["node"] for replica in self.volume(name)["replicas"] if replica["in_sync"]]

    def raid(self, name="v", node="c1"):
        """The volume's mirror as the data plane describes it, or None."""
        wanted = self.volume(name)["raid"]
        return next((r for r in self.rpc(node).bdev_raid_get_bdevs(category="all") if r["name"] == wanted), None)

    def replica_data(self, name="v"):
        """By storage node: the volume's bytes on its disk, as a stranger finds them there. Without I/O under way."""
        volume = self.volume(name)
        room = SUPERBLOCK_ROOM if volume["superblock"] else 0
        data = {}
        for replica in volume["replicas"]:
            lvol = Blobstore(self.disks[replica["node"]]).lvol(replica["lvol_alias"].split("/")[1])
            data[replica["node"]] = lvol.read(room, volume["size_bytes"])
        return data

    def check_identical(self, name="v"):
        """Once every replica is in sync: one that is on its way back may lack what was written meanwhile."""
        wait_until(lambda: all(replica["in_sync"] for replica in self.volume(name)["replicas"]), 40, "all to be in sync")
        self.wait_state("ready", name)
        data = self.replica_data(name)
        self.case.assertEqual(len(set(data.values())), 1, f"the replicas of {name} on {', '.join(data)} differ")

    def wait_state(self, state, name="v", timeout_s=30):
        wait_until(lambda: self.attachment(name)["state"] == state, timeout_s, f"attachment of {name} to be {state}")

    def forget_record(self, name="v"):
        """Guests to come know nothing of what was written before: it must not be read."""
        self.records[name] = self.records.get(name, 0) + 1

    def start_load(self, name="v", blocks=1024, **options):
        """A guest that writes, reads and checks what it reads, until it is stopped. `options` are its further ones."""
        record = self.case.path(f"{name}.record{self.records.get(name, 0)}")
        return self.case.track(FaultGuest(self.case, self.attachment(name), blocks, record=record, **options))


class FaultGuest(Process):
    """tests/fault/guest.cpp on an attachment; every guest of a volume in one test shares what is known of it."""

    EXIT_CODES_ON_SIGTERM = (0,)
    count = 0

    def __init__(self, case, attachment, blocks, **options):
        FaultGuest.count += 1
        self.epoch = attachment["epoch"]
        self.node = attachment["node"]
        arguments = [program("../test/fault_guest"), "--socket", attachment["socket"], "--blocks", str(blocks)]
        arguments += ["--writer", str(FaultGuest.count), "--epoch", str(self.epoch)]
        for option, value in options.items():
            arguments += [f"--{option.replace('_', '-')}"] + ([] if value is True else [str(value)])
        super().__init__(arguments, case.path(f"guest{FaultGuest.count}.log"))

    def result(self, timeout_s=40):
        """What it saw: waits for its end by itself."""
        self.wait(timeout_s)
        return self.last_line()

    def stop(self, timeout_s=40):
        """Ends it and returns what it saw; fails if a read was wrong."""
        self.terminate(timeout_s)
        return self.last_line()

    def last_line(self):
        with open(self.log_path) as log:
            return json.loads(log.read().strip().splitlines()[-1])
