"""The one table that './dev bench' prints."""

import statistics


def human(value):
    if value >= 999_500:
        return f"{value / 1e6:.2f} M"
    if value >= 9_995:
        return f"{value / 1e3:.0f} k"
    return f"{value / 1e3:.1f} k" if value >= 1000 else f"{value:.0f}"


def parts(values, digits):
    """The sum, and what it consists of."""
    if not values:
        return "-"
    text = f"{sum(values.values()):.{digits}f}"
    if len(values) > 1:
        text += " (" + " ".join(f"{value:.{digits}f}" for value in values.values()) + ")"
    return text


COLUMNS = [
    ("", lambda r: r["case"]),
    ("IOPS", lambda r: human(r["iops"])),
    ("min - max", lambda r: f"{human(r['iops_min'])} - {human(r['iops_max'])}"),
    ("p50 us", lambda r: f"{r['p50_us']:.1f}"),
    ("p99 us", lambda r: f"{r['p99_us']:.1f}"),
    ("p99.9 us", lambda r: f"{r['p999_us']:.1f}"),
    ("CPU us/IO", lambda r: parts(r["cpu_us_per_io"], 2)),
    ("calls/IO", lambda r: parts(r["calls_per_io"], 2)),
    ("cores ns", lambda r: f"{r['core_distance_ns']:.0f}"),
    ("of limit", lambda r: f"{100 * r['of_limit']:.0f} %" if r["of_limit"] else ""),
    ("min - max", lambda r: f"{100 * r['of_limit_min']:.0f} - {100 * r['of_limit_max']:.0f}" if r["of_limit"] else ""),
    ("pairs", lambda r: str(r["compared"]) if r["of_limit"] else ""),
]


def print_table(rows, first_writes, rebuilds, idle):
    cells = [[column(row) for _, column in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in [[title for title, _ in COLUMNS], *cells]) for i in range(len(COLUMNS))]
    show = lambda line: "  ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths)))
    last = None
    for row, line in zip(rows, cells):
        if row["title"] != last:
            last = row["title"]
            print(f"\n{last}  (CPU and calls: {', '.join(row['cpu_us_per_io'] or ['-'])})")
            print(show([title for title, _ in COLUMNS]))
        print(show(line))
    for disk, sizes in first_writes.items():
        print(f"\nfirst 4 KiB write to a cluster of a thin lvol on a {disk}, us")
        print(f"{'cluster KiB':>12} {'new':>10} {'after snapshot':>16}")
        for one in sizes:
            print(f"{one['cluster_bytes'] // 1024:>12} {one['fresh_us']:>10.0f} {one['after_snapshot_us']:>16.0f}")
    print_rebuilds(rebuilds)
    if idle:
        print("\nidle")
        for volumes, percent in idle.items():
            print(f"{volumes:4} attached volume{'s' if volumes > 1 else ' '}  {percent:.3f} % of a core")


def print_rebuilds(rebuilds):
    """Shares are formed within a round, of those during which the cores stayed at the same distance."""
    counted = [one for one in rebuilds if not one["cores_moved"]]
    if not rebuilds:
        return
    print("\nmirror over 2 x NVMe/TCP, a leg copied to beside random writes of 4 KiB at depth 32")
    if not counted:
        print("  the cores moved during every round: nothing can be compared")
        return
    print(f"{'':>12} {'alone':>10} {'together':>10} {'share':>7}  {'min - max':<11} rounds")
    for what, alone, beside in (("IOPS", "iops_alone", "iops_beside_rebuild"),
                                ("copy MiB/s", "copy_mib_s_alone", "copy_mib_s_beside_load")):
        shares = [one[beside] / one[alone] for one in counted]
        middle = [statistics.median(one[key] for one in counted) for key in (alone, beside)]
        spread = f"{100 * min(shares):.0f} - {100 * max(shares):.0f} %"
        print(f"{what:>12} {middle[0]:>10.0f} {middle[1]:>10.0f} {statistics.median(shares):>7.0%}  {spread:<11} {len(counted):>6}")
