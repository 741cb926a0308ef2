"""A PostgreSQL server of a test's own, on a unix socket in a directory of its own, or at an address of another machine."""

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
    """Started with new data; kill() is kill -9 of every process of it, stop_at_once() what an impatient administrator
    does; start() goes on with what was on disk. With `address` clients come by TCP; `machine` is the command that runs a
    program there, and `env` more of the server's environment."""

    @staticmethod
    def is_possible():
        """It is installed, and root can become somebody else here (not in a user namespace that knows one user)."""
        with open("/proc/self/uid_map") as users:
            many = sum(int(line.split()[2]) for line in users) > 1
        return bool(glob.glob(INITDB)) and (os.geteuid() != 0 or many)

    def __init__(self, case, address=None, machine=(), env=None):
        self.case = case
        self.address = address
        self.env = env
        self.programs = os.path.dirname(sorted(glob.glob(INITDB))[-1])
        self.directory = tempfile.mkdtemp(prefix="de-pg-", dir="/tmp")
        case.addCleanup(self._end)
        self.prefix = [*machine]
        self.server = None
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
            self.prefix += ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        initdb = [os.path.join(self.programs, "initdb"), "-D", self.data, "-U", USER, "-A", "trust", "--no-sync"]
        subprocess.run([*self.prefix, *initdb], check=True, capture_output=True, cwd="/")
        if address is not None:
            with open(os.path.join(self.data, "pg_hba.conf"), "a") as rules:
                rules.write("host all all samenet trust\n")
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
        return f"host={self.address or self.directory} user={USER} dbname=postgres"

    def start(self):
        command = [os.path.join(self.programs, "postgres"), "-D", self.data, "-k", self.directory]
        command += ["-c", f"listen_addresses={self.address or ''}", "-c", "shared_buffers=16MB", "-c", "max_connections=60"]
        self.server = self.case.start([*self.prefix, *command], "postgres", env=self.env)
        ready = [os.path.join(self.programs, "pg_isready"), "-h", self.directory, "-U", USER, "-q"]

        def is_ready():
            if self.server.exit_code() is not None:  # the memory of the one that was killed was still in use
                self.case.untrack(self.server)
                self.server = self.case.start([*self.prefix, *command], "postgres", env=self.env)
            return subprocess.run(ready, check=False).returncode == 0

        wait_until(is_ready, 30, "PostgreSQL to answer")

    def stop_at_once(self):
        """An immediate shutdown: every session is cut, nothing is written, and it recovers when it starts."""
        self.server.signal(signal.SIGQUIT)
        self.server.wait()

    def processes(self):
        """Of the whole server, its first one before the others."""
        with open(f"/proc/{self.server.pid}/task/{self.server.pid}/children") as children:
            return [self.server.pid, *(int(child) for child in children.read().split())]

    def kill(self):
        if self.server.exit_code() is not None:
            return
        self.server.signal(signal.SIGSTOP)  # so that no child is missed
        for pid in self.processes()[1:]:
            os.kill(pid, signal.SIGKILL)
        self.server.kill()
