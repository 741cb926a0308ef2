"""`diskengine top`: what volumes, stages and reactors do, once for programs and live in a terminal."""

import os
import pty
import select
import signal
import subprocess
import time

from diskengine_test import TestCase, program, wait_until
from diskengine_test.control import NODES, Fleet


class Top(TestCase):
    TEST_TIMEOUT_S = 120

    def setUp(self):
        super().setUp()
        self.fleet = Fleet(self).start()
        self.fleet.volume()
        self.guest = self.fleet.load(self.fleet.attach()["socket"])
        self.fleet.moves("raid_1")

    def test_programs_get_the_last_second_of_every_volume_and_reactor(self):
        def seen():
            top = self.fleet.query("top")
            whole = [volume for volume in top["volumes"] if volume["iops"] > 50 and volume["stages"]]
            return top if whole and {reactor["node"] for reactor in top["reactors"]} == set(NODES) else None

        top = wait_until(seen, 15, "a second of every node")
        [volume] = top["volumes"]
        self.assertEqual((volume["name"], volume["node"]), ("v", "c1"))
        self.assertGreater(volume["p99_us"], volume["p50_us"] - 1)
        self.assertIn("network_target", [stage["stage"] for stage in volume["stages"]])
        for reactor in top["reactors"]:
            shares = reactor["busy_percent"] + reactor["spinning_percent"] + reactor["asleep_percent"]
            self.assertAlmostEqual(shares, 100, delta=1)
        lines = self.fleet.run("top", "--once").stdout.splitlines()
        self.assertLessEqual(len(lines), 24)
        self.assertLessEqual(max(map(len, lines)), 80)
        self.assertNotIn("\x1b", "".join(lines))

    def test_in_a_terminal_it_goes_on_until_ctrl_c_and_leaves_the_terminal_as_it_was(self):
        ours, its = pty.openpty()
        command = [program("diskengine"), "--api", self.fleet.api, "top"]
        top = subprocess.Popen(command, stdin=its, stdout=its, stderr=its)
        self.addCleanup(top.kill)
        os.close(its)
        shown = b""
        deadline = time.monotonic() + 30
        while shown.count(b"diskengine top") < 3 and time.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 65536)
        self.assertGreaterEqual(shown.count(b"diskengine top"), 3, shown[-2000:])
        self.assertTrue(shown.startswith(b"\x1b[?1049h"), shown[:40])
        top.send_signal(signal.SIGINT)
        self.assertEqual(top.wait(timeout=10), 0)
        rest = os.read(ours, 65536)
        self.assertTrue(rest.endswith(b"\x1b[?25h\x1b[?1049l"), rest)
        os.close(ours)

    def test_a_node_that_cannot_be_asked_is_named(self):
        self.guest.kill()
        wait_until(lambda: not self.fleet.rpc("c1").diskengine_outstanding(), 10, "its writes to end")
        self.fleet.planes["s2"].kill()
        top = self.fleet.query("top")
        self.assertTrue(next(node["trouble"] for node in top["nodes"] if node["name"] == "s2"))
