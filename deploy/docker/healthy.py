"""Whether what runs in this container is well: the HEALTHCHECK of server.Dockerfile. Exits with 0 if it is.

The API is asked where it listens, over TLS if it was given a certificate; whose name that bears is not
looked at, for it is asked on its own loopback. The platform serves nothing that could be asked: it ends when
it cannot work.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from pathlib import Path

DEFAULT_BIND = "127.0.0.1:8080"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104 - compared with
TIMEOUT_S = 4.0


def main(command_line: Path = Path("/proc/1/cmdline")) -> None:
    """Ask the API of that process; anything but an answer of 200 is an error."""
    words = command_line.read_bytes().decode().split("\0")
    if "api" not in words:
        return
    bind = DEFAULT_BIND
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--bind":
            bind = following
        elif word.startswith("--bind="):
            bind = word.removeprefix("--bind=")
    host, _, port = bind.rpartition(":")
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    scheme = "https" if os.environ.get("KELPIE_TLS_CERT_FILE") else "http"
    url = f"{scheme}://{EVERYWHERE.get(host, host)}:{port}/healthz"
    no_proxy = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=unverified))
    with opener.open(url, timeout=TIMEOUT_S):
        pass


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
