"""Two control planes for the same nodes: one serves them, the other stands by, says so, and takes over."""

import os
import signal
import sqlite3
import time

from diskengine_test import TestCase, program, wait_until
from diskengine_test.cluster import Cluster


class TwoAgents(TestCase):
    TEST_TIMEOUT_S = 90

    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self).start()

    def start_second(self):
        command = self.cluster.serve_command()
        command[2] = self.path("second.sock")
        return self.start(command, "second")

    def owners(self):
        return {node["served_by"].split(" on ")[0] for node in self.cluster.query("node", "list")}

    def test_the_second_stands_by_and_takes_over_at_once_when_the_first_is_killed(self):
        self.cluster.make_volume()
        second = self.start_second()
        second.wait_for_output(f"is served by pid {self.cluster.serve.pid} on ", 20)
        second.wait_for_output("standing by", 5)
        self.assertEqual(self.owners(), {f"pid {self.cluster.serve.pid}"})
        self.cluster.serve.kill()
        self.cluster.api = self.path("second.sock")
        wait_until(lambda: self.owners() == {f"pid {second.pid}"}, 10, "the second to take over")
        self.cluster.make_volume("w")

    def test_one_that_was_stopped_for_a_while_stands_by_when_it_goes_on(self):
        first = self.cluster.serve
        second = self.start_second()
        second.wait_for_output("standing by", 20)
        os.kill(first.pid, signal.SIGSTOP)
        self.cluster.api = self.path("second.sock")
        try:
            wait_until(lambda: self.owners() == {f"pid {second.pid}"}, 20, "the second to take over")
        finally:
            os.kill(first.pid, signal.SIGCONT)
        first.wait_for_output(f"is served by pid {second.pid} on ", 20)
        self.cluster.make_volume()


class Start(TestCase):
    TEST_TIMEOUT_S = 90

    def test_many_that_start_at_once_on_a_new_database_wait_for_whoever_has_it_locked(self):
        """For longer than SQLite is told to wait for others (10 s)."""
        path = self.path("state.db")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN EXCLUSIVE")
        serves = [self.start([program("diskengine"), "--api", self.path(f"api{i}.sock"), "serve", "--db", path], f"serve{i}")
                  for i in range(6)]
        serves[0].wait_for_output("waiting for the database", 30)
        time.sleep(1)
        self.assertEqual([serve.exit_code() for serve in serves], [None] * len(serves))
        other.execute("ROLLBACK")
        other.close()
        for serve in serves:
            serve.wait_for_output("diskengine is ready", 30)
