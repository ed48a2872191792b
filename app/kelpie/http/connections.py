"""What can be seen of a client's connection while its request waits."""

from __future__ import annotations

import contextlib
import os
import select
import socket

from gevent import monkey


def is_connected(client: socket.socket | None) -> bool:
    """Whether the client still listens for its answer; True where that cannot be seen (None).

    A long poll whose node has died must not lease a job: nobody would run it until the lease expires.
    """
    if client is None:
        return True
    # Not by reading: the last words of TLS look like data. gevent's poll would let others run meanwhile.
    poller = monkey.get_original("select", "poll")()
    try:
        poller.register(client.fileno(), select.POLLRDHUP)
        return not poller.poll(0)
    except (OSError, ValueError):  # closed here already
        return False


def disconnect(client: socket.socket | None) -> None:
    """Ends a connection both ways, also while another greenlet is stuck in a send on it."""
    if client is None:
        return
    plain: type[socket.socket] = monkey.get_original("socket", "socket")
    with contextlib.suppress(OSError), plain(fileno=os.dup(client.fileno())) as same:  # or already closed
        same.shutdown(socket.SHUT_RDWR)
