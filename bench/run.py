#!/usr/bin/env python3
"""Measures the data plane with real processes; './dev bench' builds release and calls it.

Scenarios run in alternating rounds, because a machine's speed changes from minute to minute: what counts is the median
over the rounds. A scenario that has a limit is measured case by case beside it, and ratios are formed between
neighbours. docs/bench.md explains the table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time

from processes import BACK, CORES, FRONT, ROOT, Stage, cpu_seconds, program, system_calls_during
from report import print_table
from scenarios import SCENARIOS, WARM_UP_S, first_write_latencies, idle_cpu_percent, rebuild_beside_load

IDLE_VOLUMES = (1, 100)
CORES_MOVED = 2  # a distance that changed by this factor is another one
SPECIAL = ("first_write", "rebuild", "idle")  # measured in their own way


class Sampler(threading.Thread):
    """Looks at the processes in the middle of a load: CPU time over half of it, then system calls if asked."""

    def __init__(self, pids, seconds, count_calls):
        super().__init__()
        self.pids, self.seconds, self.count_calls = pids, seconds, count_calls
        self.cpu_s, self.elapsed_s, self.calls, self.calls_elapsed_s = {}, 0.0, None, 0.0

    def run(self):
        time.sleep(WARM_UP_S + self.seconds * 0.2)
        if self.count_calls:
            self.calls_elapsed_s = self.seconds * 0.4
            self.calls = {name: system_calls_during([pid], self.calls_elapsed_s / len(self.pids))
                          for name, pid in self.pids.items()}
            return
        before, start = {name: cpu_seconds(pid) for name, pid in self.pids.items()}, time.monotonic()
        time.sleep(self.seconds * 0.5)
        self.cpu_s = {name: cpu_seconds(pid) - before[name] for name, pid in self.pids.items()}
        self.elapsed_s = time.monotonic() - start


def core_distance_ns():
    """The round trip of a cache line between the two cores. It jumps when the machine's host moves them."""
    if FRONT == BACK:
        return 0.0  # all on one core
    command = [program("core_distance"), str(FRONT), str(BACK)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)


def placed(run):
    """One run of a case with the distance of the cores during it; nothing is said of a run in which that changed."""
    before = core_distance_ns()
    result = run()
    after = core_distance_ns()
    result["core_distance_ns"] = max(before, after)
    result["cores_moved"] = max(before, after) > CORES_MOVED * min(before, after)
    return result


def comparable(one, other):
    """Whether two runs were measured with the cores at the same distance."""
    distances = [run["core_distance_ns"] for run in (one, other)]
    return not (one["cores_moved"] or other["cores_moved"]) and max(distances) <= CORES_MOVED * min(distances)


def measure(scenario, case, seconds, count_calls=False):
    """One run of one case: the load's own figures and what the processes spent on each I/O."""
    pids = scenario.pids()
    sampler = Sampler(pids, seconds, count_calls)
    if pids:
        sampler.start()
    result = scenario.run(case, seconds)
    if not pids:
        return result
    sampler.join()
    iops = result["iops"]
    if iops and sampler.elapsed_s:
        result["cpu_us_per_io"] = {name: 1e6 * s / sampler.elapsed_s / iops for name, s in sampler.cpu_s.items()}
    if iops and sampler.calls and None not in sampler.calls.values():
        each = sampler.calls_elapsed_s / len(pids)
        result["calls_per_io"] = {name: calls / each / iops for name, calls in sampler.calls.items()}
    return result


def run_round(names, seconds, results, index, cases):
    """Each scenario once; a failed one is reported and left out, the others go on."""
    for name in names:
        limit = SCENARIOS[name].limit
        together = [limit, name] if limit else [name]
        with Stage() as stage:
            try:
                scenarios = {each: SCENARIOS[each](stage) for each in together}
                for scenario in scenarios.values():
                    scenario.start()
                for case in scenarios[name].cases:
                    if cases and case.key not in cases:
                        continue
                    for each in together if index % 2 == 0 else reversed(together):
                        progress(f"{each}: {case.key}")
                        scenario = scenarios[each]
                        runs = results.setdefault(each, {}).setdefault(case.key, [])
                        runs.append(placed(lambda: measure(scenario, case, seconds)))
                        if index == 0 and scenario.processes:
                            sample = measure(scenario, case, max(0.5, seconds / 2), count_calls=True)
                            runs[-1]["calls_per_io"] = sample.get("calls_per_io")
            except Exception as error:  # noqa: BLE001  the other scenarios are still worth measuring
                print(f"\nbench: {name} failed: {error}", file=sys.stderr)
                results.setdefault("failed", {})[name] = str(error)


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def summary(results):
    """Medians, spreads and ratios: [{scenario, case, ...}] in table order."""
    rows = []
    for name, scenario in SCENARIOS.items():
        for case in scenario.cases:
            runs = results.get(name, {}).get(case.key)
            if not runs:
                continue
            row = {"scenario": name, "title": scenario.title, "case": case.key, "work": case.work, "size": case.size,
                   "depth": case.depth, "rounds": len(runs)}
            for value in ("iops", "p50_us", "p99_us", "p999_us"):
                row[value] = statistics.median(run[value] for run in runs)
            row["core_distance_ns"] = statistics.median(run["core_distance_ns"] for run in runs)
            row["iops_min"], row["iops_max"] = (f(run["iops"] for run in runs) for f in (min, max))
            for amount in ("cpu_us_per_io", "calls_per_io"):
                seen = [run[amount] for run in runs if run.get(amount)]
                row[amount] = {key: statistics.median(one[key] for one in seen) for key in seen[0]} if seen else None
            limits = results.get(scenario.limit, {}).get(case.key, []) if scenario.limit else []
            pairs = [(run, limit) for run, limit in zip(runs, limits) if limit["iops"] and comparable(run, limit)]
            ratios = [run["iops"] / limit["iops"] for run, limit in pairs]
            row["compared"] = len(ratios)
            row["of_limit"] = statistics.median(ratios) if ratios else None
            row["of_limit_min"], row["of_limit_max"] = (min(ratios), max(ratios)) if ratios else (None, None)
            rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measures the data plane.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under three minutes")
    parser.add_argument("--only", help="comma list of scenarios: " + ", ".join([*SCENARIOS, *SPECIAL]))
    parser.add_argument("--case", action="append", help='only this case, as in "randwrite 4k qd32"; repeatable')
    parser.add_argument("--rounds", type=int, help="how often each scenario runs")
    parser.add_argument("--seconds", type=float, help="how long each case is measured")
    parser.add_argument("--json", default=os.path.join(ROOT, "build", "bench", "bench.json"), help="where results go")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (0.5 if options.quick else 1.5)
    wanted = options.only.split(",") if options.only else [*SCENARIOS, *SPECIAL]
    unknown = set(wanted) - set(SCENARIOS) - set(SPECIAL)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}")
    names = [name for name in SCENARIOS if name in wanted]
    # A limit is measured beside what it limits.
    limits = {SCENARIOS[name].limit for name in names}
    names = [name for name in names if name not in limits]

    results = {}
    for index in range(rounds):
        run_round(names, seconds, results, index=index, cases=options.case)
    first_writes = {}
    if "first_write" in wanted:
        progress("first writes to clusters of lvols")
        try:
            first_writes = first_write_latencies()
        except Exception as error:  # noqa: BLE001
            print(f"\nbench: first_write failed: {error}", file=sys.stderr)
            results.setdefault("failed", {})["first_write"] = str(error)
    rebuilds = []
    for index in range(rounds if "rebuild" in wanted else 0):
        progress(f"a rebuild beside a load: round {index + 1} of {rounds}")
        try:
            rebuilds.append(placed(lambda: rebuild_beside_load(max(1, seconds))))
        except Exception as error:  # noqa: BLE001
            print(f"\nbench: rebuild failed: {error}", file=sys.stderr)
            results.setdefault("failed", {})["rebuild"] = str(error)
    idle = {}
    if "idle" in wanted:
        for volumes in IDLE_VOLUMES:
            progress(f"idle with {volumes} volumes")
            try:
                idle[volumes] = idle_cpu_percent(volumes, 2 if options.quick else 5)
            except Exception as error:  # noqa: BLE001
                print(f"\nbench: idle failed: {error}", file=sys.stderr)
                results.setdefault("failed", {})["idle"] = str(error)
    progress("")
    rows = summary(results)
    print_table(rows, first_writes, rebuilds, idle)
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    with open(options.json, "w") as file:
        machine = {"cores": len(CORES), "kernel": platform.release(), "load_at_end": os.getloadavg()[0]}
        json.dump({"machine": machine, "rows": rows, "first_writes": first_writes, "rebuilds": rebuilds, "idle_cpu_percent": idle, "raw": results}, file, indent=1)
    print(f"\nall figures: {os.path.relpath(options.json)}")
    return 1 if results.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
