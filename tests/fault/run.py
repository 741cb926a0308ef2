#!/usr/bin/env python3
"""Runs random histories of faults in a cluster (world.py) for a time: `./dev fault --minutes N [--seed S]`.

Each history has a seed of its own and runs in namespaces of its own; one that fails ends the run, and its seed and the
command that replays it are printed."""

import argparse
import os
import random
import subprocess
import sys
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
    done = 0
    while done == 0 or time.monotonic() - began < options.minutes * 60:
        print(f"[{time.monotonic() - began:6.0f} s] history {done + 1}, seed {seed}", flush=True)
        environment = {**os.environ, "DISKENGINE_FAULT_SEED": str(seed), "DISKENGINE_FAULT_COUNT": str(options.faults)}
        test = os.path.join(TESTS, "integration", "test_cluster_faults.py")
        run = subprocess.run([sys.executable, os.path.join(TESTS, "run_file.py"), test], env=environment, check=False)
        if run.returncode != 0:
            print(f"failed after {done} histories; replay with ./dev fault --minutes 0 --seed {seed} "
                  f"--faults {options.faults}", flush=True)
            return 1
        done += 1
        seed = seeds.randrange(1 << 32)
    print(f"{done} histories of {options.faults} faults in {(time.monotonic() - began) / 60:.1f} min, all held",
          flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
