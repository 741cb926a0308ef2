"""Waiting with a bound. Sanitizer builds are slower: DISKENGINE_TIME_SCALE stretches every bound."""

import os
import time

POLL_INTERVAL_S = 0.02


def scaled(seconds):
    """The given time, stretched for the build under test."""
    return seconds * float(os.environ.get("DISKENGINE_TIME_SCALE", "1"))


def wait_until(condition, timeout_s, what):
    """Calls condition() until it returns something true, and returns that.

    Raises TimeoutError naming `what` after timeout_s (stretched). An AssertionError raised by the condition counts as
    "not yet"; the last one is shown when time runs out.
    """
    deadline = time.monotonic() + scaled(timeout_s)
    last = ""
    while True:
        try:
            value = condition()
            if value:
                return value
            last = f"last value: {value!r}"
        except AssertionError as error:
            last = f"last failure: {error}"
        if time.monotonic() >= deadline:
            raise TimeoutError(f"after {scaled(timeout_s):.0f} s still waiting for {what} ({last})")
        time.sleep(POLL_INTERVAL_S)
