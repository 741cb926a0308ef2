"""The test runner tells the truth: a failing, crashing, hanging or leaking test is counted and named."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import unittest

from tree import ROOT

sys.path.insert(0, os.path.join(ROOT, "tests"))
import run  # noqa: E402

OUTCOMES = """
import subprocess, time, unittest

class Outcomes(unittest.TestCase):
    TEST_TIMEOUT_S = 1
    def test_good(self): pass
    def test_bad(self): self.fail("on purpose")
    def test_slow(self): time.sleep(20)
    def test_skipped(self): self.skipTest("on purpose")
"""
LEAK = """
import subprocess, unittest

class Leak(unittest.TestCase):
    def test_leaves_a_process(self): subprocess.Popen(["sleep", "1000"])
"""
GOOGLETEST = """#!/bin/sh
echo '[ RUN      ] Suite.Good'
echo '[       OK ] Suite.Good (12 ms)'
echo '[ RUN      ] Suite.Bad'
echo 'what went wrong'
echo '[  FAILED  ] Suite.Bad (3 ms)'
echo '[ RUN      ] Suite.Dies'
exit 139
"""


class Runner(unittest.TestCase):
    def setUp(self):
        os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)
        self.directory = self.enterContext(tempfile.TemporaryDirectory(dir=os.path.join(ROOT, "build")))
        self.results = run.Results()
        self.printed = io.StringIO()

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path

    def quietly(self, function, *arguments):
        with contextlib.redirect_stdout(self.printed):
            return function(*arguments)

    def run_python(self, text):
        path = self.write("test_sample.py", text)
        self.quietly(run.Tests(self.results, "").python_file, "sample", path, "release")

    def test_python_outcomes_are_counted(self):
        self.run_python(OUTCOMES)
        self.assertEqual(self.results.count, {"passed": 1, "failed": 2, "skipped": 1})
        self.assertIn("on purpose", self.printed.getvalue())
        self.assertEqual(self.quietly(self.results.summary), 1)
        self.assertEqual(self.printed.getvalue().splitlines()[-1], "1 passed, 2 failed, 1 skipped")

    def test_a_file_that_does_not_load_or_dies_fails(self):
        self.run_python("import nothing_of_this_name\n")
        self.run_python("import os\nos._exit(0 + 3)\n")
        self.assertEqual(self.results.count["failed"], 2)

    @unittest.skipUnless(os.environ.get("DISKENGINE_TEST_NAMESPACE"), "needs a process namespace")
    def test_a_process_left_behind_fails_the_file_and_is_ended(self):
        path = self.write("test_sample.py", LEAK)
        environment = {key: value for key, value in os.environ.items() if key != "DISKENGINE_TEST_NAMESPACE"}
        command = [sys.executable, os.path.join(ROOT, "tests", "run_file.py"), path]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("no process is left behind", ran.stdout)
        self.assertIn("sleep 1000", ran.stdout)

    def test_a_googletest_program_that_dies_fails_the_case_it_was_in(self):
        path = self.write("sample_test", GOOGLETEST)
        self.quietly(run.Tests(self.results, "").googletest, "release", path)
        self.assertEqual(self.results.count, {"passed": 1, "failed": 2, "skipped": 0})
        self.assertIn("what went wrong", self.printed.getvalue())
        self.assertEqual(self.results.failures[1], "release.unit.sample.Suite.Dies")

    def test_nothing_run_is_not_a_success(self):
        self.assertEqual(self.quietly(self.results.summary), 1)
