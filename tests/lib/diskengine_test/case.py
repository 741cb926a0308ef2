"""The base class of integration and VM tests: a directory of its own, processes that end with the test."""

import os
import shutil
import socket
import tempfile
import unittest

from .guest import Guest
from .process import DataPlane, Process, ProcessFailed


class TestCase(unittest.TestCase):
    """Every process started through it is terminated after the test, and must end well unless the test killed it or
    waited for it.

    By hand: `python3 tests/run_file.py FILE [-k TEXT]`. Each file runs in network and process namespaces of its own
    with loopback up (where the machine allows), so ports never clash and nothing outlives it.
    """

    TEST_TIMEOUT_S = 60  # for each test method; stretched for sanitizer builds

    maxDiff = None

    def setUp(self):
        super().setUp()
        self.directory = tempfile.mkdtemp(prefix="de-", dir="/tmp")
        self._processes = []
        self._guests = []
        self.addCleanup(self._end)

    def path(self, name):
        """A path in the test's own directory."""
        return os.path.join(self.directory, name)

    def start_io(self, name="io", **options):
        """Starts a diskengine-io and waits until it answers; options are DataPlane's."""
        return self.track(DataPlane(self.directory, name, **options))

    def start(self, arguments, name, **options):
        """Starts any other program."""
        return self.track(Process(arguments, self.path(f"{name}.log"), **options))

    def untrack(self, process):
        """Nobody looks at how it ends any more."""
        self._processes.remove(process)

    def make_guest(self, name="guest", **options):
        """A guest that is killed after the test; add disks and networks to it, then start() it."""
        guest = Guest(self.directory, name, **options)
        self._guests.append(guest)
        return guest

    def start_guest(self, name="guest", disks=(), network=False, **options):
        """Boots a guest with these vhost-user sockets as /dev/vda, ... and waits until it takes commands."""
        guest = self.make_guest(name, **options)
        for disk in disks:
            guest.add_vhost_user_disk(disk)
        if network:
            guest.add_user_network()
        return guest.start()

    def track(self, process):
        self._processes.append(process)
        return process

    def make_file(self, name, size_bytes):
        """A sparse file of the given size."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size_bytes)
        return path

    def free_port(self):
        """A TCP port of 127.0.0.1 that nobody listens on now."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def _end(self):
        failures = []
        for guest in self._guests:
            guest.kill()
        for process in reversed(self._processes):
            try:
                if process.exit_code() is None:
                    process.terminate()
                elif not process.judged and process.exit_code() != 0:
                    process.fail(f"had ended with {process.exit_code()}")
            except ProcessFailed as error:
                failures.append(str(error))
            process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if failures:
            self.fail("\n".join(failures))

    def start_anew(self):
        """Kills every process and begins with an empty directory, within one test."""
        for guest in self._guests:
            guest.kill()
        for process in reversed(self._processes):
            process.kill()
        self._processes, self._guests = [], []
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
