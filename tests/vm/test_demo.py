"""What `./dev demo` shows is so: it ends with 0, having drawn the path, and leaves no file behind."""

import glob
import os
import subprocess
import sys

from diskengine_test import TestCase
from diskengine_test.process import ROOT

LEFT_BEHIND = "/tmp/diskengine-demo-*"


class Demo(TestCase):
    TEST_TIMEOUT_S = 300

    def test_the_demo_runs_to_its_end_and_cleans_up(self):
        before = set(glob.glob(LEFT_BEHIND))
        command = [sys.executable, os.path.join(ROOT, "demo", "demo.py")]
        demo = subprocess.run(command, capture_output=True, text=True, timeout=self.TEST_TIMEOUT_S, check=False)
        self.assertEqual(demo.returncode, 0, demo.stdout + demo.stderr)
        self.assertIn("are identical on both", demo.stdout)
        self.assertIn("network, both ways", demo.stdout)
        self.assertEqual(set(glob.glob(LEFT_BEHIND)) - before, set())
