"""The cluster of the demo: two storage nodes, one compute node, the control plane, one guest; all on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))

from diskengine_test import BLOCK_MODULES, Blobstore, DataPlane, Guest, Process, program, wait_until  # noqa: E402

STORAGE_NODES = ("storage1", "storage2")
COMPUTE_NODE = "compute1"
DISK_BYTES = 1 << 30  # of each storage node, sparse
CLI_TIMEOUT_S = 120


def free_ports(count):
    """TCP ports of 127.0.0.1 that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def core_mask(number):
    """One core for each data plane, as far as there are cores."""
    return hex(1 << (number % os.cpu_count()))


class Cluster:
    """A context manager: whatever happens inside, nothing is left afterwards, neither process nor file."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="diskengine-demo-", dir="/tmp")
        self.api = os.path.join(self.directory, "api.sock")
        self.ports = dict(zip(STORAGE_NODES, free_ports(len(STORAGE_NODES))))
        self.data_planes = {}
        self.control_plane = None
        self.guest = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self._processes():
            process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _processes(self):
        guest = [self.guest.process] if self.guest is not None and self.guest.process is not None else []
        control = [self.control_plane] if self.control_plane is not None else []
        return [*guest, *control, *self.data_planes.values()]

    def path(self, name):
        return os.path.join(self.directory, name)

    def start_data_plane(self, node):
        """A new diskengine-io for the node; after a loss the control plane gives it its configuration again."""
        number = [*STORAGE_NODES, COMPUTE_NODE].index(node)
        self.data_planes[node] = DataPlane(self.directory, node, core_mask=core_mask(number))
        return self.data_planes[node]

    def make_disk(self, node):
        """An empty file for the node's disk; returns its path."""
        path = self.path(f"{node}.disk")
        with open(path, "wb") as file:
            file.truncate(DISK_BYTES)
        return path

    def start_control_plane(self):
        command = self.command("serve", "--db", self.path("state.db"), "--interval", "200ms")
        for node in STORAGE_NODES:
            command += ["--storage-node", f"{node}={self.path(node)}.sock,address=127.0.0.1:{self.ports[node]}"]
        vhost_dir = self.data_planes[COMPUTE_NODE].vhost_dir
        command += ["--compute-node", f"{COMPUTE_NODE}={self.path(COMPUTE_NODE)}.sock,vhost-dir={vhost_dir}"]
        self.control_plane = Process(command, self.path("serve.log"))
        wait_until(self._control_plane_answers, 20, "the control plane to answer")

    def _control_plane_answers(self):
        if self.control_plane.exit_code() is not None:
            self.control_plane.fail(f"ended with {self.control_plane.exit_code()}")
        asked = subprocess.run(self.command("status"), capture_output=True, check=False, timeout=CLI_TIMEOUT_S)
        return asked.returncode == 0

    def command(self, *arguments):
        return [program("diskengine"), "--api", self.api, *arguments]

    def cli(self, *arguments):
        """Runs the command line as a person would, its output shown and returned; raises when it fails."""
        print(f"  $ diskengine {' '.join(arguments)}", flush=True)
        command = self.command(*arguments)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            lines = []
            for line in run.stdout:
                lines.append(line)
                print(f"    {line.rstrip()}", flush=True)
        if run.returncode != 0:
            raise RuntimeError(f"`diskengine {' '.join(arguments)}` ended with {run.returncode}")
        return "".join(lines)

    def query(self, *arguments):
        """What the command line answers with -o json."""
        command = self.command("-o", "json", *arguments)
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=CLI_TIMEOUT_S)
        return json.loads(run.stdout)

    def start_guest(self, vhost_socket):
        self.guest = Guest(self.directory, modules=BLOCK_MODULES, programs=["fio"])
        self.guest.add_vhost_user_disk(vhost_socket)
        self.guest.start()
        return self.guest

    def stop(self):
        """Ends everything in order; raises if a process does not end well. Returns how many were ended."""
        processes = self._processes()
        if self.guest is not None and self.guest.process.exit_code() is None:
            self.guest.power_off()
        for process in processes:
            if process.exit_code() is None:
                process.terminate()
        return len(processes)
