"""`volume diagnose` names the layer and the cause of each fault of the matrix, and calls no wrong one certain.

Real processes throughout: three data planes, a control plane whose loops end one by one, and a front end that waits for
its interrupts as a guest does. By default the quick faults run; all of them, with the score at the end:

    DISKENGINE_FAULTS=all python3 tests/run_file.py tests/integration/test_fault_matrix.py
    DISKENGINE_FAULTS=a_disk_is_slow,a_kick_is_missed python3 tests/run_file.py tests/integration/test_fault_matrix.py
"""

import json
import os
import time

from diskengine_test import TestCase
from diskengine_test.faults import ANY, FAULTS, Scene, in_namespace, partition

LEAST_SHARE = 0.95
FAR_ADDRESS = "10.77.0.1"


def matches(named, wanted):
    return all(want in (ANY, have) for want, have in zip(wanted, named))


def any_of(named, wanted):
    return any(matches(named, want) for want in wanted)


class Verdict:
    """What one diagnosis is worth."""

    @classmethod
    def failed(cls, error):
        verdict = cls.__new__(cls)
        verdict.problems, verdict.wrong_certain = [f"{type(error).__name__}: {error}"], False
        return verdict

    def __init__(self, expect, answer):
        self.problems = []
        self.wrong_certain = False
        if answer.returncode not in expect.exit_codes:
            self.problems.append(f"exit code {answer.returncode}: {answer.stderr.strip()}")
        try:
            causes = json.loads(answer.stdout)["causes"]
        except ValueError:
            self.problems.append(f"no diagnosis: {answer.stdout} {answer.stderr}")
            return
        named = [(found["layer"], found["code"], found["node"]) for found in causes]
        self.named = named
        for wanted in expect.causes:
            if not any_of_names(named, wanted):
                self.problems.append(f"does not name {wanted}")
        if expect.causes and named and not any_of(named[0], expect.causes):
            self.problems.append(f"names {named[0]} first")
        for found, name in zip(causes, named):
            if found["certainty"] == "certain" and not any_of(name, (*expect.causes, *expect.also)):
                self.wrong_certain = True
                self.problems.append(f"is certain of {name}: {found['summary']}")
        if not expect.causes:
            self.problems += [
                f"names {name}"
                for found, name in zip(causes, named)
                if found["certainty"] != "possible" and not any_of(name, expect.also)
            ]
        if self.problems:
            self.problems.append(f"named: {[(*name, found['certainty']) for name, found in zip(named, causes)]}")


def any_of_names(named, wanted):
    return any(matches(name, wanted) for name in named)


def chosen():
    wanted = os.environ.get("DISKENGINE_FAULTS", "")
    if wanted == "all":
        return list(FAULTS)
    if wanted:
        return wanted.split(",")
    return [name for name, (_, _, quick) in FAULTS.items() if quick]


class FaultMatrix(TestCase):
    TEST_TIMEOUT_S = 900

    def test_each_fault_is_named_and_nothing_wrong_is_certain(self):
        names = chosen()
        good = 0
        certain_and_wrong = []
        report = []
        for name in names:
            verdict, seconds = self.run_one(name)
            good += not verdict.problems
            if verdict.wrong_certain:
                certain_and_wrong.append(name)
            line = f"{'right' if not verdict.problems else 'WRONG':6} {seconds:6.1f} s  {name.replace('_', ' ')}"
            report.append("\n          ".join([line, *verdict.problems]))
            if os.environ.get("DISKENGINE_FAULTS"):
                print(report[-1], flush=True)
        score = f"fault matrix: {good} of {len(names)} right, {len(certain_and_wrong)} times certain and wrong"
        print(score, flush=True)
        self.assertEqual(certain_and_wrong, [], "\n".join(report))
        self.assertGreaterEqual(good / len(names), LEAST_SHARE, "\n".join([score, *report]))

    def run_one(self, name):
        inject, options, _ = FAULTS[name]
        started = time.monotonic()
        far = FAR_ADDRESS in options.get("addresses", ())
        if far and not in_namespace():
            self.skipTest("cutting a network needs a namespace of its own")
        if far:
            partition(FAR_ADDRESS, False)
        scene = Scene(self, **options)
        try:
            verdict = Verdict(inject(scene), scene.diagnose())
        except Exception as error:  # what cannot be injected counts as not found
            verdict = Verdict.failed(error)
        finally:
            scene.end()
            self.start_anew()
        return verdict, time.monotonic() - started
