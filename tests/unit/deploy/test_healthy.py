"""The health check of the server's image, asked of real processes as it asks process 1 of a container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kelpie.embedded.processes import LOOPBACK, free_ports
from kelpie.embedded.valkey import ValkeyServer
from tests.api import ApiServer, environment_without_kelpie
from tests.identity import own_certificate

SCRIPT = Path(__file__).parents[3] / "deploy" / "docker" / "healthy.py"


def is_healthy(command_line: Path, **environment: str) -> bool:
    asked = [sys.executable, str(SCRIPT), str(command_line)]
    done = subprocess.run(
        asked, env=environment_without_kelpie() | environment, capture_output=True, check=False, timeout=30
    )
    return done.returncode == 0


def written(folder: Path, *words: str) -> Path:
    """A command line as the kernel shows it."""
    file = folder / "cmdline"
    file.write_bytes(b"".join(f"{word}\0".encode() for word in ("/usr/bin/tini", "--", "kelpie", *words)))
    return file


def test_an_api_is_asked_where_it_listens(api_server: ApiServer, tmp_path: Path) -> None:
    assert is_healthy(Path(f"/proc/{api_server.pid}/cmdline"), http_proxy="http://127.0.0.1:9")
    assert is_healthy(written(tmp_path, "api", f"--bind=0.0.0.0:{api_server.port}", "--workers", "4"))


def test_an_api_that_speaks_tls_is_asked_so_under_any_name(valkey: ValkeyServer, tmp_path: Path) -> None:
    pair = str(own_certificate(tmp_path / "ca.crt"))
    tls = {"KELPIE_TLS_CERT_FILE": pair, "KELPIE_TLS_KEY_FILE": pair}
    server = ApiServer(valkey.url, tmp_path / "api", **tls)
    server.is_ready = lambda: is_healthy(Path(f"/proc/{server.pid}/cmdline"), **tls)  # type: ignore[method-assign]
    with server:
        assert not is_healthy(Path(f"/proc/{server.pid}/cmdline"))  # over plain HTTP


def test_an_api_that_does_not_answer_is_not_well(tmp_path: Path) -> None:
    assert not is_healthy(written(tmp_path, "api", "--bind", f"{LOOPBACK}:{free_ports(1)[0]}"))


def test_a_platform_serves_nothing_and_is_well_as_long_as_it_runs(tmp_path: Path) -> None:
    assert is_healthy(written(tmp_path, "platform"))
