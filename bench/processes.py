"""The processes under measurement: started on given cores, watched for CPU time and system calls."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
os.environ.setdefault("DISKENGINE_BIN_DIR", os.path.join(ROOT, "build", "release", "bin"))

from diskengine_test.process import DataPlane, program  # noqa: E402
from diskengine_test.rpc import RpcClient  # noqa: E402

CORES = sorted(os.sched_getaffinity(0))
FRONT, BACK = CORES[0], CORES[min(1, len(CORES) - 1)]  # one core for each side


def cpu_seconds(pid):
    """User and system time of all threads, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
                total += int(stat.read().split()[0])
    return total / 1e9


def system_calls_during(pids, seconds):
    """How many system calls the processes make in this time, counted by the kernel; None where perf cannot."""
    if shutil.which("perf") is None:
        time.sleep(seconds)
        return None
    command = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", ",".join(map(str, pids))]
    done = subprocess.run([*command, "--", "sleep", str(seconds)], capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith("raw_syscalls") and fields[0].isdigit():
            return int(fields[0])
    return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage(contextlib.ExitStack):
    """A directory and processes that end with it."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="debench-", dir="/tmp")
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)

    def data_plane(self, name, core=None):
        """A running diskengine-io on one core, or wherever the kernel puts it."""
        io = DataPlane(self.directory, name, core_mask=None if core is None else hex(1 << core))
        self.callback(io.terminate)
        return io


__all__ = ["BACK", "FRONT", "ROOT", "Stage", "cpu_seconds", "free_port", "program", "system_calls_during"]
