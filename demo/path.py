"""The path of a write, drawn with the time spent in each layer.

Each layer's device counts its writes and the time from submit to completion (bdev_get_iostat). What a layer spends
itself is its time less that of the slowest device below it.
"""


class WriteTimes:
    """Mean write times of some devices of one data plane, between construction and means_us()."""

    def __init__(self, rpc, devices):
        self._rpc = rpc
        self._devices = devices
        self._before = self._read()

    def _read(self):
        answer = self._rpc.bdev_get_iostat()
        self._ticks_per_us = answer["tick_rate"] / 1e6
        by_name = {bdev["name"]: bdev for bdev in answer["bdevs"]}
        return {name: (by_name[name]["num_write_ops"], by_name[name]["write_latency_ticks"]) for name in self._devices}

    def means_us(self):
        """{device: mean microseconds of the writes that completed meanwhile}."""
        after = self._read()
        means = {}
        for name in self._devices:
            count = after[name][0] - self._before[name][0]
            ticks = after[name][1] - self._before[name][1]
            means[name] = ticks / count / self._ticks_per_us if count else 0.0
        return means


LEG_COLUMNS = 34


def draw(guest_us, raid_us, replicas):
    """The picture. replicas: two of (node, microseconds at the mirror, at its lvol and at its disk, lvol)."""
    slowest_us = max(at_mirror for _, (at_mirror, _, _), _ in replicas)

    def time(microseconds):
        return f"{max(0, microseconds):7.0f} us"

    def legs(*texts):
        return "     " + "".join(f"{text:<{LEG_COLUMNS}}" for text in texts)

    lines = [
        f"   guest  /dev/vda             one 4 KiB write: {guest_us:.0f} us",
        f"     | {time(guest_us - raid_us)}             guest kernel, virtio-blk queue, vhost-user",
        "   compute node, RAID1",
        f"     | {time(raid_us - slowest_us)}             the mirror itself; it waits for the slower leg",
        "     +" + "-" * (LEG_COLUMNS - 1) + "+",
        legs(*(f"| {time(at_mirror - at_lvol)}  NVMe/TCP" for _, (at_mirror, at_lvol, _), _ in replicas)),
        legs(*(node for node, _, _ in replicas)),
        legs(*(f"| {time(at_lvol - at_disk)}  {lvol}" for _, (_, at_lvol, at_disk), lvol in replicas)),
        legs(*(f"| {time(at_disk)}  disk" for _, (_, _, at_disk), _ in replicas)),
    ]
    return "\n".join(line.rstrip() for line in lines)
