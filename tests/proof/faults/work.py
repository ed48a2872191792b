"""The jobs: short ones with checkpoints, whose every output is known before they begin."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.system.fleet import down, up

HEARTBEAT_S = 1
BIG_BYTES = 6 * 1024 * 1024
"""More than one part: it travels as a multipart upload."""

NO_ROOM, PLANNED, DOOMED = 28, 3, 5
"""Exit codes of a command whose disk is full, that fails once, and that fails always."""

_SCRIPT = r"""
keep() { cat > "$1.tmp" && mv "$1.tmp" "$1"; }
fail_if_told() {
  if [ "$FAIL_AT" -gt 0 ] && [ "$i" -ge "$FAIL_AT" ] && [ "$KELPIE_ATTEMPT" -le "$FAIL_UNTIL" ]; then
    exit "$FAIL_CODE"
  fi
}
mkdir -p ck out || exit 28
rm -f ck/*.tmp  # what an earlier attempt was about to rename
read -r x < in/start || exit 41
i=0
if [ -e ck/state ]; then
  read -r i x end < ck/state
  [ "$end" = . ] || exit 42
  # A checkpoint of two files: the node may have been lost between them.
  if [ "$BIG_AT" -gt 0 ] && [ "$i" -ge "$BIG_AT" ] && [ ! -e ck/big ]; then read -r x < in/start; i=0; fi
fi
echo "$KELPIE_ATTEMPT" | keep ck/by || exit 28
fail_if_told
while [ "$i" -lt "$STEPS" ]; do
  sleep 0.05
  i=$((i + 1)); x=$(( (x * 1103515245 + 12345) % 2147483648 ))
  if [ "$i" = "$BIG_AT" ]; then yes "$x" | head -c "$BIG" | keep ck/big || exit 28; fi
  echo "$i $x ." | keep ck/state || exit 28
  fail_if_told
done
echo "$x" | keep out/result || exit 28
echo "$KELPIE_ATTEMPT" | keep out/by || exit 28
if [ "$BIG_AT" -gt 0 ]; then yes "$x" | head -c "$BIG" | keep out/big || exit 28; fi
"""


@dataclass(frozen=True, slots=True)
class Work:
    """One job: what it is told, and what must be in the bucket when it has completed."""

    name: str
    start: int
    steps: int
    big_at: int  # the step that writes a large checkpoint; 0: none, and no large output
    fail_at: int  # the step at which it fails; 0: never
    doomed: bool  # it fails there again and again

    @classmethod
    def of(cls, seed: int, number: int) -> Work:
        """The job of that number."""
        rng = random.Random(f"{seed} job {number}")
        steps = rng.randint(15, 50)
        fate = rng.random()
        return cls(
            name=f"{seed}-{number}",
            start=rng.randrange(1 << 31),
            steps=steps,
            big_at=steps // 2 if rng.random() < 0.3 else 0,
            fail_at=rng.randint(1, steps) if fate < 0.2 else 0,
            doomed=fate < 0.05,
        )

    @property
    def prefix(self) -> str:
        """Where its objects are."""
        return f"{self.name}/"

    @property
    def inputs(self) -> dict[str, bytes]:
        """What is there before it begins."""
        return {"in/start": b"%d\n" % self.start}

    @property
    def max_failures(self) -> int:
        """So many that no fault of ours ends it, unless it is meant to end so."""
        return 2 if self.doomed else 1000

    @property
    def failure_code(self) -> int:
        """With which it fails of itself."""
        return DOOMED if self.doomed else PLANNED

    def body(self, bucket: str, group: str) -> dict[str, Any]:
        """As it is submitted."""
        checkpoint = (bucket, f"{self.prefix}ck/", "ck")
        return {
            "command": "sh",
            "arguments": ["-c", _SCRIPT],
            "container_group_id": group,
            "heartbeat_interval": HEARTBEAT_S,
            "max_failures": self.max_failures,
            "environment": {
                "STEPS": str(self.steps),
                "BIG_AT": str(self.big_at),
                "BIG": str(BIG_BYTES),
                "FAIL_AT": str(self.fail_at),
                "FAIL_UNTIL": "1000000" if self.doomed else "1",
                "FAIL_CODE": str(self.failure_code),
            },
            "sync": {
                "before": [down(bucket, f"{self.prefix}in/", "in"), down(*checkpoint)],
                "during": [up(*checkpoint)],
                "after": [up(bucket, f"{self.prefix}out/", "out")],
            },
        }

    def outputs(self, attempt: int) -> dict[str, bytes]:
        """Every object below the prefix after this attempt has completed."""
        x, large = self.start, b""
        for step in range(1, self.steps + 1):
            x = (x * 1103515245 + 12345) % 2147483648
            if step == self.big_at:
                large = _yes(x)
        by = b"%d\n" % attempt
        found = self.inputs | {"ck/state": b"%d %d .\n" % (self.steps, x), "ck/by": by}
        found |= {"out/result": b"%d\n" % x, "out/by": by}
        return found | ({"ck/big": large, "out/big": _yes(x)} if self.big_at else {})


def _yes(x: int) -> bytes:
    line = b"%d\n" % x
    return (line * (BIG_BYTES // len(line) + 1))[:BIG_BYTES]
