"""A PostgreSQL server of a test's own, on a unix socket in a directory of its own."""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile

from .deadline import wait_until

INITDB = "/usr/lib/postgresql/*/bin/initdb"
OWNER = "postgres"  # the server refuses to be root
USER = "diskengine"


class Postgres:
    """Started with new data; kill() is kill -9 of every process of it, start() goes on with what was on disk."""

    @staticmethod
    def is_possible():
        """It is installed, and root can become somebody else here (not in a user namespace that knows one user)."""
        with open("/proc/self/uid_map") as users:
            many = sum(int(line.split()[2]) for line in users) > 1
        return bool(glob.glob(INITDB)) and (os.geteuid() != 0 or many)

    def __init__(self, case):
        self.case = case
        self.programs = os.path.dirname(sorted(glob.glob(INITDB))[-1])
        self.directory = tempfile.mkdtemp(prefix="de-pg-", dir="/tmp")
        case.addCleanup(self._end)
        self.prefix = []
        self.server = None
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
            self.prefix = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        initdb = [os.path.join(self.programs, "initdb"), "-D", self.data, "-U", USER, "-A", "trust", "--no-sync"]
        subprocess.run([*self.prefix, *initdb], check=True, capture_output=True, cwd="/")
        self.start()

    def _end(self):
        if self.server is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def data(self):
        return os.path.join(self.directory, "data")

    @property
    def conninfo(self):
        return f"host={self.directory} user={USER} dbname=postgres"

    def start(self):
        command = [os.path.join(self.programs, "postgres"), "-D", self.data, "-k", self.directory]
        command += ["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=60"]
        self.server = self.case.start([*self.prefix, *command], "postgres")
        ready = [os.path.join(self.programs, "pg_isready"), "-h", self.directory, "-U", USER, "-q"]

        def is_ready():
            if self.server.exit_code() is not None:  # the memory of the one that was killed was still in use
                self.case.untrack(self.server)
                self.server = self.case.start([*self.prefix, *command], "postgres")
            return subprocess.run(ready, check=False).returncode == 0

        wait_until(is_ready, 30, "PostgreSQL to answer")

    def kill(self):
        if self.server.exit_code() is not None:
            return
        self.server.signal(signal.SIGSTOP)  # so that no child is missed
        with open(f"/proc/{self.server.pid}/task/{self.server.pid}/children") as children:
            pids = [int(child) for child in children.read().split()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.server.kill()
