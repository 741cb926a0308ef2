#!/usr/bin/env python3
"""Builds and runs the tests; './dev test' calls it. One line per test, then 'N passed, N failed'.

Parts, in the order they run: tidy, unit, integration, vm (all on the release build), asan, tsan (each builds with the
sanitizer and runs the unit and integration tests again), fuzz (each target for a few seconds).
"""

import argparse
import concurrent.futures
import glob
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PARTS = ["tidy", "unit", "integration", "vm", "asan", "tsan", "fuzz"]

UNIT_TIMEOUT_S = 300  # for one test program of the release build
FILE_TIMEOUT_S = 600  # for one Python file
FUZZ_SECONDS = int(os.environ.get("DISKENGINE_FUZZ_SECONDS", "10"))  # for one target
TIME_SCALE = {"release": 1, "asan": 3, "tsan": 6}
DETAIL_LINES = 60
# Whole systems judged by how long they take to notice and mend something: slowed down six times they would show the
# sanitizer's speed. They run on the release build; DISKENGINE_SANITIZE_SYSTEMS=1 runs them with sanitizers as well.
SYSTEMS = {"checklist", "cluster_faults", "disk_add", "doctor", "fault_matrix", "history", "move", "protocol_model",
           "raid_reach", "recover", "restarts", "support", "top", "two_agents", "write_safety"}
# Random histories run on one thread or two turned by hand: more of them show the thread sanitizer nothing new.
FEWER_HISTORIES = {"DISKENGINE_CRASH_STATES": "20", "DISKENGINE_LVOL_HISTORIES": "1", "DISKENGINE_LVOL_DAMAGES": "10"}

SANITIZER_ENVIRONMENT = {
    "ASAN_OPTIONS": "abort_on_error=0:detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


class Results:
    """Counts outcomes and prints each as it comes."""

    def __init__(self):
        self.count = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures = []
        self.lock = threading.Lock()

    def add(self, name, outcome, seconds, detail=""):
        with self.lock:
            self.print(name, outcome, seconds, detail)

    def print(self, name, outcome, seconds, detail):
        self.count[outcome] += 1
        word = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}[outcome]
        print(f"{word:8}{seconds:8.2f} s  {name}" + (f"  ({detail})" if outcome == "skipped" else ""), flush=True)
        if outcome == "failed":
            self.failures.append(name)
            for line in detail.rstrip().splitlines()[-DETAIL_LINES:]:
                print(f"          | {line}")
            sys.stdout.flush()

    def summary(self):
        if self.failures:
            print("\nfailed:")
            for name in self.failures:
                print(f"  {name}")
        line = f"{self.count['passed']} passed, {self.count['failed']} failed"
        if self.count["skipped"]:
            line += f", {self.count['skipped']} skipped"
        print(line, flush=True)
        return 0 if not self.count["failed"] and self.count["passed"] else 1


def environment(preset):
    path = os.path.join(ROOT, "build", preset, "bin")
    inherited = {key: value for key, value in os.environ.items() if key != "DISKENGINE_TEST_NAMESPACE"}
    fewer = FEWER_HISTORIES if preset == "tsan" else {}
    return {**fewer, **inherited, **SANITIZER_ENVIRONMENT, "DISKENGINE_BIN_DIR": path,
            "DISKENGINE_TIME_SCALE": str(TIME_SCALE.get(preset, 1)), "PYTHONDONTWRITEBYTECODE": "1"}


def stream(arguments, env, timeout_s, on_line, fd=None):
    """Runs a program and hands each line of its output (or of descriptor `fd`) to on_line as it comes.

    Returns (exit code or None when the time ran out, everything else it printed).
    """
    read_end, write_end = os.pipe()
    pass_fds = [write_end] if fd else []
    arguments = [*arguments, fd, str(write_end)] if fd else arguments
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(arguments, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, pass_fds=pass_fds,
                                 stdout=log if fd else write_end, stderr=log if fd else subprocess.STDOUT,
                                 start_new_session=True)
        os.close(write_end)
        try:
            in_time = read_lines(read_end, time.monotonic() + timeout_s, on_line)
            code = child.wait(30) if in_time else None
        except subprocess.TimeoutExpired:
            code = None
        finally:
            os.close(read_end)
            end_session(child)
        log.seek(0)
        text = log.read().decode(errors="replace")
    return code, text


def read_lines(fd, deadline, on_line):
    """Reads lines until the end of the pipe; False when the deadline came first."""
    pending = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return False
        chunk = os.read(fd, 65536)
        if not chunk:
            if pending:
                on_line(pending.decode(errors="replace"))
            return True
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            on_line(line.decode(errors="replace"))


def end_session(child):
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


class Tests:
    def __init__(self, results, only):
        self.results = results
        self.only = only
        self.built = {}

    def wanted(self, name):
        return self.only in name

    def build(self, preset, *targets):
        """Builds once per run; a failed build is a failed test."""
        if preset not in self.built:
            print(f"-- building {preset}", flush=True)
            started = time.monotonic()
            arguments = [os.path.join(ROOT, "dev"), "build", preset, *targets]
            code = subprocess.run(arguments, cwd=ROOT, check=False).returncode
            outcome = "passed" if code == 0 else "failed"
            self.results.add(f"build.{preset}", outcome, time.monotonic() - started, "see the compiler's output above")
            self.built[preset] = code == 0
        return self.built[preset]

    def unit(self, preset):
        """The programs side by side, one for each core, the largest first: those take longest."""
        if not self.build(preset):
            return
        paths = glob.glob(os.path.join(ROOT, "build", preset, "test", "*_test"))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda path: self.googletest(preset, path), sorted(paths, key=os.path.getsize, reverse=True)))

    def googletest(self, preset, path):
        """One line per test case; a program that dies fails the case it was in."""
        part = f"{preset}.unit.{os.path.basename(path).removesuffix('_test')}"
        state = {"running": None, "output": [], "failed": False}

        def on_line(line):
            if match := re.match(r"\[ RUN      \] (\S+)", line):
                state["running"], state["output"] = match[1], []
            elif match := re.match(r"\[       OK \] (\S+) \((\d+) ms\)", line):
                self.case(part, match[1], "passed", int(match[2]), "", state)
            elif match := re.match(r"\[  SKIPPED \] (\S+) \((\d+) ms\)", line):
                self.case(part, match[1], "skipped", int(match[2]), " ".join(state["output"])[:200], state)
            elif (match := re.match(r"\[  FAILED  \] (\S+?),? .*\((\d+) ms\)", line)) and state["running"]:
                self.case(part, match[1], "failed", int(match[2]), "\n".join(state["output"]), state)
            else:
                state["output"].append(line)

        arguments = [path, "--gtest_color=no"]
        if self.only and not self.wanted(part):
            arguments.append(f"--gtest_filter=*{self.only}*")
        started = time.monotonic()
        timeout_s = UNIT_TIMEOUT_S * TIME_SCALE.get(preset, 1)
        code, _ = stream(arguments, environment(preset), timeout_s, on_line)
        seconds = time.monotonic() - started
        if state["running"]:
            how = "took too long" if code is None else f"ended the program with {code}"
            self.results.add(f"{part}.{state['running']}", "failed", seconds, "\n".join([*state["output"], how]))
        elif code != 0 and not state["failed"]:
            output = "\n".join([*state["output"], f"exit code {code}"])
            self.results.add(f"{part} ends with 0", "failed", seconds, output)

    def case(self, part, name, outcome, milliseconds, detail, state):
        state["running"] = None
        state["failed"] = state["failed"] or outcome == "failed"
        self.results.add(f"{part}.{name}", outcome, milliseconds / 1000, detail)

    def python(self, folder, preset):
        """Runs tests/<folder>/test_*.py, each file in a process and namespaces of its own."""
        for path in sorted(glob.glob(os.path.join(ROOT, "tests", folder, "test_*.py"))):
            name = os.path.basename(path).removeprefix("test_").removesuffix(".py")
            if preset != "release" and name in SYSTEMS and "DISKENGINE_SANITIZE_SYSTEMS" not in os.environ:
                continue
            part = f"{folder}.{name}"
            part = part if folder == "tidy" else f"{preset}.{part}"
            self.python_file(part, path, preset)

    def python_file(self, part, path, preset):
        seen = {"failed": False}

        def on_line(line):
            record = json.loads(line)
            seen["failed"] = seen["failed"] or record["outcome"] == "failed"
            self.results.add(f"{part}.{record['name']}", record["outcome"], record["seconds"], record["detail"])

        arguments = [sys.executable, os.path.join(ROOT, "tests", "run_file.py"), path]
        if self.only and not self.wanted(part):
            arguments += ["-k", self.only]
        started = time.monotonic()
        timeout_s = FILE_TIMEOUT_S * TIME_SCALE.get(preset, 1)
        code, output = stream(arguments, environment(preset), timeout_s, on_line, fd="--report-fd")
        if code != 0 and not seen["failed"]:
            how = "took too long" if code is None else f"exit code {code}"
            self.results.add(f"{part} ends well", "failed", time.monotonic() - started, f"{output}\n{how}")

    def integration(self, preset):
        if self.build(preset):
            self.python("integration", preset)

    def fuzz(self):
        if not self.build("fuzz", "-t", "fuzz_targets"):
            return
        crashes = os.path.join(ROOT, "build", "fuzz", "crashes")
        os.makedirs(crashes, exist_ok=True)
        paths = sorted(glob.glob(os.path.join(ROOT, "build", "fuzz", "fuzz", "*_fuzz")))
        paths = [path for path in paths if self.wanted(f"fuzz.{os.path.basename(path).removesuffix('_fuzz')}")]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda path: self.fuzz_target(path, crashes), paths))

    def fuzz_target(self, path, crashes):
        name = os.path.basename(path).removesuffix("_fuzz")
        corpus = os.path.join(ROOT, "build", "fuzz", "corpus", name)
        os.makedirs(corpus, exist_ok=True)
        seeds = os.path.join(ROOT, "fuzz", "corpus", name)
        output = []
        arguments = [path, f"-max_total_time={FUZZ_SECONDS}", "-timeout=10", "-rss_limit_mb=2048", corpus]
        arguments += [f"-artifact_prefix={crashes}/{name}-", *([seeds] if os.path.isdir(seeds) else [])]
        started = time.monotonic()
        code, _ = stream(arguments, environment("fuzz"), FUZZ_SECONDS + 120, output.append)
        outcome = "passed" if code == 0 else "failed"
        self.results.add(f"fuzz.{name}", outcome, time.monotonic() - started, "\n".join(output))

    def run(self, part):
        if part == "tidy":
            self.python("tidy", "release")
        elif part == "unit":
            self.unit("release")
        elif part == "integration":
            self.integration("release")
        elif part == "vm":
            if self.build("release"):
                self.python("vm", "release")
        elif part in ("asan", "tsan"):
            self.unit(part)
            self.integration(part)
        elif part == "fuzz":
            self.fuzz()


def main():
    parser = argparse.ArgumentParser(prog="./dev test", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("-k", metavar="TEXT", default="", help="only the tests whose name holds TEXT")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)

    results = Results()
    tests = Tests(results, options.k)
    started = time.monotonic()
    for part in PARTS:
        if not options.parts or part in options.parts:
            print(f"== {part} (at {time.monotonic() - started:.0f} s)", flush=True)
            tests.run(part)
    print(f"== done in {time.monotonic() - started:.0f} s")
    return results.summary()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
