"""The write-safety protocol by machine: Spin goes through every state of tests/model/write_safety.pml. What we do holds
everywhere; each variant that is known to be wrong is found to be wrong. By hand it prints the number of states."""

import concurrent.futures
import os
import re
import subprocess

from diskengine_test import TestCase
from diskengine_test.deadline import scaled

MODEL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "model", "write_safety.pml")
RIGHT = {
    "ours": ["WRITES=3"],
    "two agents on a node, and a target that keeps the highest epoch": ["WRITES=2", "CUTS=1", "TWO_AGENTS", "TARGET_EPOCH"],
}
WRONG = {
    "acknowledges before the exclusion is on record": ["ACK_FIRST"],
    "admits the new host without removing the old one": ["NO_FENCE"],
    "does not wait until the old host's I/O is drained": ["NO_DRAIN"],
    "assembles what it can reach instead of what is in sync": ["STALE_LEG"],
    "reads after an unclean stop before the legs are alike": ["NO_RESYNC"],
    "takes a commit whose answer was lost for done": ["ASSUME_COMMIT"],
    "records a leg as in sync before it is copied": ["EARLY_SYNC"],
    "lets a stale agent admit the host of an old epoch again": ["TWO_AGENTS"],
}
STEPS_MAX = 100_000  # depth of the search; the deepest path has under 300
MEMORY_MB = 4096


class ProtocolModel(TestCase):
    TEST_TIMEOUT_S = 240  # about half a minute on two idle cores

    def explore(self, name, switches):
        """Builds the checker of one variant and runs it; returns (violations, states)."""
        directory = self.path(re.sub(r"\W+", "-", name))
        os.mkdir(directory)
        defines = [f"-D{switch}" for switch in switches]
        self.run_in(directory, "spin", "-a", *defines, MODEL)
        memory = f"-DMEMLIM={MEMORY_MB}"
        self.run_in(directory, "gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", memory, "-o", "pan", "pan.c")
        # -E: processes that wait for ever are no error here, a host may be cut off for good.
        report = self.run_in(directory, "./pan", "-E", f"-m{STEPS_MAX}", "-w22")
        self.assertNotIn("max search depth too small", report, name)
        self.assertNotIn("out of memory", report, name)
        violations = int(re.search(r"errors: (\d+)", report)[1])
        states = int(float(re.search(r"([\d.e+]+) states, stored", report)[1]))
        if violations:
            self.assertIn("assertion violated", report, name)
        return violations, states

    @staticmethod
    def run_in(directory, *command):
        run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=scaled(200))
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
        return run.stdout

    def explore_all(self, variants):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found = {name: pool.submit(self.explore, name, switches) for name, switches in variants.items()}
            found = {name: result.result() for name, result in found.items()}
        for name, (violations, states) in found.items():
            print(f"  {states:>10,} states, {'violated' if violations else 'holds':8}  {name}")
        return found

    def test_no_state_of_the_protocol_shows_a_stale_read(self):
        for name, (violations, states) in self.explore_all(RIGHT).items():
            self.assertEqual(violations, 0, name)
            self.assertGreater(states, 1_000_000, f"{name}: the search was cut short")

    def test_each_known_wrong_variant_is_found(self):
        variants = {name: ["WRITES=2", *switches] for name, switches in WRONG.items()}
        missed = [name for name, (violations, _) in self.explore_all(variants).items() if not violations]
        self.assertEqual(missed, [])
