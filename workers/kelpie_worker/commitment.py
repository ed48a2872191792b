"""Up to when the work of one attempt is durable: what came later, the end of its node would lose."""

from __future__ import annotations

SETTLED_S = 10.0
"""A checkpoint said so long ago, with nothing older on its way, had been stored before it was said."""


class Commitment:
    """Follows one attempt, by what is seen of it from time to time. Times are monotonic, in seconds.

    A command that says when a checkpoint is written is believed as soon as what it had written then is
    stored. Of one that never says so, every upload may be a checkpoint.
    """

    def __init__(self, *, uploads: bool) -> None:
        """``uploads``: whether the node stores what the command writes; else the command does so itself."""
        self.at_s = 0.0  # up to when its work is durable
        self._uploads = uploads
        self._waiting: float | None = None  # the oldest checkpoint that may not be stored yet
        self._taken = 0.0  # the last that was looked at

    def look(
        self, now: float, *, checkpoint_s: float | None, last_upload_s: float, oldest_change_s: float | None
    ) -> None:
        """Take note of the last checkpoint that was said, the last upload that ended, and the oldest change
        that waits for its upload; None: there is none."""
        if checkpoint_s is None:
            self.at_s = max(self.at_s, last_upload_s)
            return
        if not self._uploads:
            self.at_s = checkpoint_s
            return
        if self._waiting is None and checkpoint_s > self._taken:
            self._waiting = self._taken = checkpoint_s
        if self._waiting is None:
            return
        stored = oldest_change_s is None or oldest_change_s > self._waiting
        if stored and (last_upload_s >= self._waiting or now - self._waiting >= SETTLED_S):
            self.at_s = self._waiting
            self._waiting = None
