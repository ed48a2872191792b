"""What can be seen of a client's connection while its request waits."""

from __future__ import annotations

import contextlib
import os
import socket

from gevent import monkey


def is_connected(client: socket.socket | None) -> bool:
    """Whether the client still listens for its answer; True where that cannot be seen (None).

    A long poll whose node has died must not lease a job: nobody would run it until the lease expires.
    """
    if client is None:
        return True
    # The plain socket's recv: gevent's would wait for data.
    plain: type[socket.socket] = monkey.get_original("socket", "socket")
    try:
        with plain(fileno=os.dup(client.fileno())) as same:
            return bool(same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def disconnect(client: socket.socket | None) -> None:
    """Ends a connection both ways, also while another greenlet is stuck in a send on it."""
    if client is None:
        return
    plain: type[socket.socket] = monkey.get_original("socket", "socket")
    with contextlib.suppress(OSError), plain(fileno=os.dup(client.fileno())) as same:  # or already closed
        same.shutdown(socket.SHUT_RDWR)
