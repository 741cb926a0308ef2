"""Which errors a guest may see. A mirror of two serves on while one leg does. So an error is explained only if the volume
was given away before, or if a disk failed it, or had no room for it, while the other storage node's leg was out of sync, or
its disk failed as well. Everything else is waited for, or served by the other leg.

All times are monotonic."""

import contextlib
import time
from dataclasses import dataclass

AFTER_S = 3  # an error may come so long after its reason: what was sent before is still repeated
BEFORE_S = 3  # since a leg that has just left, or is about to come back, may be seen late


@dataclass
class Trouble:
    node: str
    begin: float
    end: float

    def covers(self, moment):
        return self.begin <= moment <= self.end + AFTER_S


class Blame:
    def __init__(self, storage):
        self.storage = storage
        self.troubles = []
        self.absences = []  # a leg was seen out of sync

    @contextlib.contextmanager
    def disk(self, node):
        """While the node's disk fails requests, or its store has no room."""
        trouble = Trouble(node, time.monotonic(), float("inf"))
        self.troubles.append(trouble)
        try:
            yield
        finally:
            trouble.end = time.monotonic()

    def saw(self, in_sync):
        """These storage nodes' legs are in sync now."""
        now = time.monotonic()
        self.absences += [Trouble(node, now - BEFORE_S, now) for node in self.storage if node not in in_sync]

    def explains(self, moment):
        return any(
            self._is_in(self.troubles, node, moment)
            and all(self._is_in(self.troubles, other, moment) or self._is_in(self.absences, other, moment)
                    for other in self.storage if other != node)
            for node in self.storage
        )

    @staticmethod
    def _is_in(troubles, node, moment):
        return any(trouble.node == node and trouble.covers(moment) for trouble in troubles)
