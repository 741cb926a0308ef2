#!/usr/bin/env python3
"""Runs random histories of faults in a cluster (history.py) for a time: `./dev fault --minutes N [--seed S]`.

Each history has a seed of its own and runs in namespaces of its own; one that fails ends the run, and its seed and the
command that replays it are printed."""

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_history(seed, faults):
    """What it saw (History.judge), or None if it failed; it has printed why."""
    test = os.path.join(TESTS, "integration", "test_cluster_faults.py")
    with tempfile.TemporaryDirectory() as directory:
        summary = os.path.join(directory, "summary")
        environment = {**os.environ, "DISKENGINE_FAULT_SEED": str(seed), "DISKENGINE_FAULT_COUNT": str(faults),
                       "DISKENGINE_FAULT_SUMMARY": summary}
        run = subprocess.run([sys.executable, os.path.join(TESTS, "run_file.py"), test, "-k", "ClusterFaults"],
                             env=environment, check=False)
        if run.returncode != 0:
            return None
        with open(summary) as file:
            return json.load(file)


def tell(seen):
    """The sum over all histories."""
    total, faults = collections.Counter(), collections.Counter()
    for one in seen:
        faults.update(one.pop("faults"))
        total.update({name: value for name, value in one.items() if name != "longest_ms"})
    print(f"faults: {', '.join(f'{number} {kind}' for kind, number in faults.most_common())}")
    print(f"{total['writes']} writes acknowledged, {total['reads']} reads right, {total['flushes']} flushes, "
          f"{total['epochs']} epochs; {total['errors_explained']} errors for the guest, each while a disk failed or was full "
          f"and the other leg was away or failed too; {total['resumed_by_hand']} stopped mirrors told to go on; "
          f"the longest request took {max((one['longest_ms'] for one in seen), default=0) / 1000:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long to go on beginning histories")
    parser.add_argument("--seed", type=int, help="of the first history; the others follow from it")
    parser.add_argument("--faults", type=int, default=12, help="faults in each history")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    seeds = random.Random(first)
    seed = first
    began = time.monotonic()
    seen = []
    while not seen or time.monotonic() - began < options.minutes * 60:
        print(f"[{time.monotonic() - began:6.0f} s] history {len(seen) + 1}, seed {seed}", flush=True)
        one = run_history(seed, options.faults)
        if one is None:
            print(f"failed after {len(seen)} histories; replay with ./dev fault --minutes 0 --seed {seed} "
                  f"--faults {options.faults}", flush=True)
            return 1
        seen.append(one)
        seed = seeds.randrange(1 << 32)
    print(f"{len(seen)} histories of {options.faults} faults in {(time.monotonic() - began) / 60:.1f} min, all held")
    tell(seen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
