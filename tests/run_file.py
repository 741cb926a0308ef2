#!/usr/bin/env python3
"""Runs one Python test file and reports each test as a line of JSON on a pipe; by hand it prints them.

It re-executes itself inside fresh network, process and mount namespaces (loopback up) where the machine allows, so that
fixed ports never clash and no process can outlive the file. A process that a test left behind is itself a failure.
"""

import argparse
import faulthandler
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import unittest

TESTS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(TESTS, "lib"))

from diskengine_test.deadline import scaled  # noqa: E402

IN_NAMESPACE = "DISKENGINE_TEST_NAMESPACE"
DEFAULT_TEST_TIMEOUT_S = 60
LEFT_GRACE_S = 1


def unshare_command():
    """The prefix that puts a command into namespaces of its own, or None where that is not allowed."""
    prefix = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        prefix.insert(1, "--map-root-user")
    try:
        allowed = subprocess.run([*prefix, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return prefix if allowed.returncode == 0 else None


def enter_namespaces(report_fd):
    """Returns when already inside, or when there are no namespaces to be had; otherwise does not return."""
    if os.environ.get(IN_NAMESPACE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    prefix = unshare_command()
    if prefix is None:
        return
    os.environ[IN_NAMESPACE] = "1"
    if report_fd is not None:
        os.set_inheritable(report_fd, True)
    os.execvp(prefix[0], [*prefix, sys.executable, *sys.argv])


class Reporter(unittest.TestResult):
    def __init__(self, report_fd):
        super().__init__()
        self._out = os.fdopen(report_fd, "w") if report_fd is not None else None
        self._started = 0.0
        self._outcome = None
        self.bad = False

    def startTest(self, test):
        super().startTest(test)
        self._outcome = ("passed", "")
        self._started = time.monotonic()
        limit = scaled(getattr(test, "TEST_TIMEOUT_S", DEFAULT_TEST_TIMEOUT_S))

        def too_long(*_):
            raise TimeoutError(f"the test took over {limit:.0f} s")

        signal.signal(signal.SIGALRM, too_long)
        signal.setitimer(signal.ITIMER_REAL, limit)

    def _bad(self, error):
        before = self._outcome[1] + "\n" if self._outcome[0] == "failed" else ""  # the test itself, then its clean-up
        self._outcome = ("failed", before + "".join(traceback.format_exception(*error)))

    def addError(self, test, err):
        super().addError(test, err)
        if self._outcome is None:  # setUpClass or import, outside any test
            self.line(str(test), "failed", 0.0, "".join(traceback.format_exception(*err)))
        else:
            self._bad(err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._bad(err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._outcome = ("failed", f"{subtest}\n" + "".join(traceback.format_exception(*err)))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._outcome = ("skipped", reason)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._outcome = ("failed", "passed although it is marked as an expected failure")

    def stopTest(self, test):
        signal.setitimer(signal.ITIMER_REAL, 0)
        super().stopTest(test)
        name = f"{type(test).__name__}.{test._testMethodName}"
        self.line(name, self._outcome[0], time.monotonic() - self._started, self._outcome[1])
        self._outcome = None

    def line(self, name, outcome, seconds, detail):
        self.bad = self.bad or outcome == "failed"
        if self._out is None:
            print(f"{outcome:8} {seconds:7.2f} s  {name}" + (f"\n{detail}" if detail else ""), flush=True)
            return
        record = {"name": name, "outcome": outcome, "seconds": seconds, "detail": detail}
        self._out.write(json.dumps(record) + "\n")
        self._out.flush()


def processes_left():
    """What else runs in our process namespace: every process that a test forgot."""
    left = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/stat") as stat:
                state = stat.read().rpartition(")")[2].split()[0]
            with open(f"/proc/{pid}/cmdline") as line:
                command = line.read().replace("\0", " ").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            left.append(f"{pid}: {command}")
    return left


def processes_left_for_good():
    """The same, when they have had the time to end that a signal takes."""
    deadline = time.monotonic() + LEFT_GRACE_S
    while (left := processes_left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def load(path):
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return unittest.defaultTestLoader.loadTestsFromModule(module)


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("-k", metavar="TEXT", default="", help="only the tests whose name holds TEXT")
    parser.add_argument("--report-fd", type=int, help="write a line of JSON for each test to this descriptor")
    options = parser.parse_args()
    enter_namespaces(options.report_fd)
    if options.report_fd is not None:
        os.set_inheritable(options.report_fd, False)
    faulthandler.enable()

    reporter = Reporter(options.report_fd)
    try:
        tests = list(flatten(load(os.path.abspath(options.file))))
    except Exception:
        reporter.line("the file loads", "failed", 0.0, traceback.format_exc())
        return 1
    unittest.TestSuite(test for test in tests if options.k in test.id()).run(reporter)
    if os.environ.get(IN_NAMESPACE) and (left := processes_left_for_good()):
        reporter.line("no process is left behind", "failed", 0.0, "\n".join(left))
    return 1 if reporter.bad else 0


if __name__ == "__main__":
    sys.exit(main())
