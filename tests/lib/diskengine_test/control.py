"""A whole small fleet: two storage nodes, a compute node, and a control plane whose loops can be ended one by one."""

import json
import os
import shutil
import subprocess

from .deadline import scaled, wait_until
from .process import DataPlane, program

STORAGE = ("s1", "s2")
COMPUTE = "c1"
NODES = (*STORAGE, COMPUTE)
MIB = 1 << 20
CLI_TIMEOUT_S = 60
READY_TIMEOUT_S = 30


class Fleet:
    """Belongs to a TestCase, which ends its processes. One `diskengine serve` for each node and one for the API, all on
    one database, so that each can be lost alone. Every storage node's disk is a file under an error and a delay device,
    so that it can be told to misbehave: RPC names `EE_raw` and `NvmeDisk<id>n1`."""

    def __init__(self, case, disk_bytes=256 * MIB, addresses=("127.0.0.1", "127.0.0.1"), prefixes=None):
        """`prefixes`: by node, the command that becomes its data plane, such as nsenter."""
        self.case = case
        self.prefixes = prefixes or {}
        self.addresses = dict(zip(STORAGE, addresses))
        self.ports = {node: case.free_port() for node in STORAGE}
        self.disk_bytes = disk_bytes
        self.planes = {}
        self.loops = {}
        self.api = case.path("api.sock")

    def start(self):
        for node in NODES:
            self.start_plane(node)
        for node in STORAGE:
            self._make_disk(node)
        self.loops["api"] = self._serve("api", "--role", "api")
        for node in NODES:
            self.start_loop(node)
        wait_until(lambda: self.run("status").returncode == 0, READY_TIMEOUT_S, "the API to answer")
        for node in STORAGE:
            wait_until(lambda node=node: self.add_disk(node), READY_TIMEOUT_S, f"{node} to be recorded")
        return self

    def start_plane(self, node):
        prefix = self.prefixes.get(node, ())
        core = hex(1 << (NODES.index(node) % os.cpu_count()))
        self.planes[node] = self.case.track(DataPlane(self.case.directory, node, core_mask=core, prefix=prefix))
        return self.planes[node]

    def _make_disk(self, node):
        path = self.case.make_file(f"{node}.disk", self.disk_bytes)
        rpc = self.planes[node].rpc
        rpc.bdev_uring_create(name="raw", filename=path, block_size=512)
        rpc.bdev_error_create(base_name="raw")
        none = {f"{kind}_{op}_latency": 0 for kind in ("avg", "p99") for op in ("read", "write")}
        rpc.bdev_delay_create(base_bdev_name="EE_raw", name=self.disk_bdev(node), **none)

    def lose_cache(self, node):
        """The killed data plane of the node comes back, as on a machine that was started anew: its disk is another file. The
        node's loop sees to the rest; the disk cannot be told to misbehave any more."""
        path = self.case.path(f"{node}.disk")
        shutil.copyfile(path, f"{path}.anew")
        os.replace(f"{path}.anew", path)
        self.start_plane(node)

    @staticmethod
    def disk_bdev(node):
        return f"NvmeDisk{STORAGE.index(node) + 1}n1"

    def add_disk(self, node):
        return self.run("disk", "add", "--node", node, "--path", self.case.path(f"{node}.disk")).returncode == 0

    def _serve(self, name, *arguments):
        command = [program("diskengine"), "--api", self.api, "serve", "--db", self.case.path("state.db")]
        return self.case.start([*command, "--interval", "200ms", *arguments], f"serve-{name}")

    def start_loop(self, node):
        plane = self.planes[node]
        where = ["--node", node, "--data-plane", plane.rpc_path]
        if node == COMPUTE:
            where += ["--role", "baremetal", "--vhost-dir", plane.vhost_dir]
        else:
            where += ["--role", "storagenode", "--address", f"{self.addresses[node]}:{self.ports[node]}"]
        self.loops[node] = self._serve(node, *where)

    def rpc(self, node):
        return self.planes[node].rpc

    def run(self, *arguments, timeout_s=CLI_TIMEOUT_S):
        command = [program("diskengine"), "--api", self.api, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=scaled(timeout_s))

    def cli(self, *arguments):
        """The command must succeed; returns its output."""
        done = self.run(*arguments)
        self.case.assertEqual(done.returncode, 0, f"diskengine {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def query(self, *arguments, expect=(0,)):
        """What the command says with -o json."""
        done = self.run("-o", "json", *arguments)
        self.case.assertIn(done.returncode, expect, f"diskengine {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def volume(self, name="v", size="64MiB"):
        self.cli("volume", "create", name, "--size", size)

    def attach(self, name="v"):
        self.cli("attachment", "create", name)
        return self.query("attachment", "show", name)

    def node_state(self, node):
        return next(row["state"] for row in self.query("node", "list") if row["name"] == node)

    def replica(self, node, volume="v"):
        """The replica of the volume on that node, as `volume show` has it."""
        replicas = self.query("volume", "show", volume)["replicas"]
        return next(replica for replica in replicas if replica["node"] == node)

    def load(self, socket, *arguments, name="load", depth=2):
        """A guest that writes until it is ended, and sleeps until it is notified."""
        command = [program("vhost_load"), "--socket", socket, "--rw", "randwrite", "--qd", str(depth), "--sleep"]
        load = self.case.start([*command, "--seconds", "600", *arguments], name)
        load.judged = True
        return load

    def moves(self, bdev, node=COMPUTE, timeout_s=10):
        """Waits until the bdev completes writes."""

        def writes():
            return self.rpc(node).bdev_get_iostat(names=[bdev])["bdevs"][0]["num_write_ops"]

        begin = writes()
        wait_until(lambda: writes() > begin + 10, timeout_s, f"{bdev} on {node} to complete writes")
