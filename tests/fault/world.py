"""The cluster of the fault tests: two storage nodes and two compute nodes, each with a data plane and an agent of its own on
a machine (network namespace) of its own; the API on one more, and PostgreSQL, if that is the database, on the last."""

import json
import os
import shutil
import struct
import tempfile
import time

from diskengine_test import ProcessFailed, RpcClient, program, scaled
from diskengine_test.cluster import MIB, Cluster
from diskengine_test.deadline import wait_until
from diskengine_test.postgres import Postgres
from network import Network

API = "api"
DATABASE = "db"
LATENCIES = ("avg_read", "p99_read", "avg_write", "p99_write")
CLOCK_LIBRARY = "../test/libclock_jump.so"
ASK_TIMEOUT_S = 1
RESTART_S = 20
RESTART_PAUSE_S = 0.2
STILL_LOCKED = "was just killed and whose I/O has not ended"


class Clocks:
    """The wall clock of each process (clock_jump.cpp). With sanitizers, whose runtime must be loaded first, none jumps."""

    def __init__(self, case):
        self.are_possible = scaled(1) == 1 and os.path.exists(program(CLOCK_LIBRARY))
        self.names = []
        if self.are_possible:  # where PostgreSQL's user may read too
            self.directory = tempfile.mkdtemp(prefix="de-clocks-", dir="/tmp")
            case.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
            os.chmod(self.directory, 0o755)
            self.library = shutil.copy(program(CLOCK_LIBRARY), self.directory)

    def environment(self, name):
        """With what a process is started so that it has the clock of this name."""
        if not self.are_possible:
            return None
        if name not in self.names:
            self.names.append(name)
            self.jump(name, 0)
        return {"LD_PRELOAD": self.library, "DISKENGINE_CLOCK_FILE": os.path.join(self.directory, name)}

    def jump(self, name, offset_s):
        """To so far from the machine's time."""
        with open(os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.write(struct.pack("q", int(offset_s * 1e9)))


class FaultCluster(Cluster):
    """Every storage node's disk is a file under an error and a delay device, so that it can be told to misbehave."""

    def __init__(self, case, on_postgres):
        super().__init__(case, storage=2, compute=2, interval="300ms")
        has_server = on_postgres and Postgres.is_possible()
        self.nodes = self.storage + self.compute
        self.network = Network(case, [*self.nodes, API, *([DATABASE] if has_server else [])])
        self.clocks = Clocks(case)
        self.postgres = None
        if has_server:
            machine = self.network[DATABASE]
            self.postgres = Postgres(case, machine.address, machine.prefix, self.clocks.environment(DATABASE))
            self.db = self.postgres.conninfo
        self.addresses = {node: f"{self.network[node].address}:4420" for node in self.storage}
        self.agents = {}

    # --- processes

    def start_plane(self, node):
        options = {"core_mask": hex(1 << (self.nodes.index(node) % os.cpu_count())), "prefix": self.network[node].prefix,
                   "env": self.clocks.environment(f"plane-{node}")}
        if node in self.storage:
            options["extra_arguments"] = ["--json", self._disk_config(node)]
        until = time.monotonic() + RESTART_S
        while True:  # as its supervisor does: what a killed one had under way may hold the disk's lock for a moment
            try:
                self.planes[node] = self.case.start_io(node, **options)
                return self.planes[node]
            except ProcessFailed as failure:
                if STILL_LOCKED not in str(failure) or time.monotonic() > until:
                    raise
                time.sleep(RESTART_PAUSE_S)

    def disk_bdev(self, node):
        """What the control plane calls the first disk that was added, the second, and so on."""
        return f"NvmeDisk{self.storage.index(node) + 1}n1"

    def _disk_config(self, node):
        """A start-up file that opens the disk, before the node's agent does."""
        none = {f"{kind}_latency": 0 for kind in LATENCIES}
        calls = [  # what is in the middle is not to be taken for the disk
            {"method": "bdev_set_options", "params": {"bdev_auto_examine": False}},
            {"method": "bdev_uring_create", "params": {"name": "raw", "filename": self.disks[node], "block_size": 512}},
            {"method": "bdev_error_create", "params": {"base_name": "raw"}},
            {"method": "bdev_delay_create", "params": {"base_bdev_name": "EE_raw", "name": self.disk_bdev(node), **none}},
            {"method": "bdev_examine", "params": {"name": self.disk_bdev(node)}},
        ]
        path = self.case.path(f"{node}.json")
        with open(path, "w") as file:
            json.dump({"subsystems": [{"subsystem": "bdev", "config": calls}]}, file)
        return path

    def start_control(self):
        """The API, and an agent for each node; all on one database."""
        self.start_api()
        wait_until(lambda: self._run("status").returncode == 0, 20, "the control plane to answer")
        for node in self.nodes:
            self.start_agent(node)

    def start_api(self):
        command = [*self.network[API].prefix, *self.serve_command("--role", "api")]
        self.serve = self.case.start(command, "serve", env=self.clocks.environment(API))

    def start_agent(self, node):
        role = "storagenode" if node in self.storage else "baremetal"
        command = [*self.network[node].prefix, program("diskengine"), "serve", "--db", self.db, "--interval", self.interval,
                   "--role", role, "--node", node]
        self.agents[node] = self.case.start(command, f"agent-{node}", env=self.clocks.environment(f"agent-{node}"))

    def processes(self):
        """Every one of ours that runs."""
        all_of_them = [*self.planes.values(), *self.agents.values(), self.serve]
        return [process for process in all_of_them if process.exit_code() is None]

    def database_pids(self):
        """Of every process of the PostgreSQL server, if there is one and it runs."""
        is_running = self.postgres is not None and self.postgres.server.exit_code() is None
        return self.postgres.processes() if is_running else []

    # --- what a data plane is told and asked; OSError when it is gone or does not answer

    def ask(self, node, method, timeout_s=ASK_TIMEOUT_S, **parameters):
        """On a connection of its own, so that an answer that came too late is nobody's."""
        with RpcClient(self.planes[node].rpc_path, timeout_s=timeout_s) as client:
            return client.call(method, **parameters)

    def set_latency(self, node, latency_us):
        for kind in LATENCIES:
            self.ask(node, "bdev_delay_update_latency", delay_bdev_name=self.disk_bdev(node), latency_type=kind,
                     latency_us=latency_us)

    def inject(self, node, io_type, error_type="failure", count=1):
        self.ask(node, "bdev_error_inject_error", name="EE_raw", io_type=io_type, error_type=error_type, num=count)

    def end_errors(self, node):
        self.inject(node, "clear")
        self.ask(node, "bdev_error_resume_pending", name="EE_raw")

    def store(self, node):
        """The node's lvol store, or None while it is not loaded."""
        stores = self.ask(node, "bdev_lvol_get_lvstores")
        return stores[0] if stores else None

    def fill_store(self, node, name):
        """Takes every free cluster for a lvol of this name; false if there is none."""
        store = self.store(node)
        free_mib = store["free_clusters"] * store["cluster_size"] // MIB if store else 0
        if free_mib == 0:
            return False
        self.ask(node, "bdev_lvol_create", timeout_s=10, lvs_name=store["name"], lvol_name=name, size_in_mib=free_mib,
                 thin_provision=False)
        return True

    def lvols_named(self, node, prefix):
        """The aliases of the node's lvols whose name begins so."""
        aliases = [alias for bdev in self.ask(node, "bdev_get_bdevs") for alias in bdev["aliases"]]
        return [alias for alias in aliases if "/" in alias and alias.split("/")[1].startswith(prefix)]
