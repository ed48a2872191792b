"""Whether somebody still writes to a file."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from enum import Enum

_ESCAPED = re.compile(r"\\([0-7]{3})")  # how the kernel writes blanks and backslashes in its list of mounts


class Writers(Enum):
    """What the kernel says about a file."""

    NONE = "none"  # nobody has it open or mapped for writing
    SOME = "some"
    UNKNOWN = "unknown"  # no right to ask (another user's file), or a file system without leases


def writers_of(descriptor: int) -> Writers:
    """Ask by trying to take a read lease, which is impossible while any process may write to the file.

    The lease is given back at once. Should somebody open the file for writing in between, the kernel lets him
    wait those microseconds and signals us: by SIGURG, which is ignored by default, since SIGIO would kill.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return Writers.SOME
    except OSError:
        return Writers.UNKNOWN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return Writers.NONE


def is_network_mount(path: str, mounts_file: str = "/proc/self/mountinfo") -> bool:
    """Whether the folder is on a file system where inotify misses changes made elsewhere."""
    best, kind = "", ""
    try:
        with open(mounts_file, encoding="utf-8", errors="surrogateescape") as mounts:  # noqa: PTH123  (no path of ours)
            for line in mounts:
                fields, _, rest = line.partition(" - ")
                place = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields.split()[4])
                inside = place == "/" or path == place or path.startswith(place + os.sep)
                if inside and len(place) >= len(best):
                    best, kind = place, rest.split()[0]
    except (OSError, IndexError, ValueError):
        return False
    return kind.startswith(("fuse", "nfs")) or kind in {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "lustre",
        "smb3",
        "virtiofs",
    }
