"""How many requests a device has at once under a load."""

import threading
import time


def make_slow(io, name, base, latency_us):
    """A delay device over `base`: whatever is sent to it stays for so long."""
    times = {f"{kind}_{op}_latency": latency_us for kind in ("avg", "p99") for op in ("read", "write")}
    io.rpc.bdev_delay_create(base_bdev_name=base, name=name, **times)


def most_outstanding(io, bdev, load):
    """Calls `load` and looks meanwhile; the load's exceptions are this call's."""
    raised = []

    def run():
        try:
            load()
        except Exception as error:  # noqa: BLE001  raised again below
            raised.append(error)

    most = 0
    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        channels = io.rpc.diskengine_outstanding(name=bdev)
        most = max(most, sum(channel["outstanding"] for channel in channels))
        time.sleep(0.02)
    thread.join()
    if raised:
        raise raised[0]
    return most
