"""Builds the images without Docker and has a job run through them: `make images-check`.

buildah (chroot isolation, no daemon) builds the Dockerfiles on a Debian that debootstrap makes, given as
their ``BASE``. What comes out is then run as a container runtime would with ``--read-only --user 10001``: its
root mounted read-only, /tmp (and a node's folder) writable, no privilege left, no new one to be had. The API,
the platform and a node run so; Valkey and S3 are those of `kelpie up`.

Needs root, buildah, debootstrap, util-linux, and Debian's and Python's package archives. Takes some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from kelpie import Client
from kelpie.embedded.processes import free_ports
from kelpie.embedded.s3 import S3Server
from kelpie.embedded.valkey import ValkeyServer
from kelpie.job import JobStatus

ROOT = Path(__file__).parents[2]
BASE = "localhost/kelpie-base"
UID = 10_001
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
WAIT_S = 60.0
BUILD_TOOLS = ("cc", "gcc", "make", "pip", "pip3", "npm", "node")

CONTAINED = """\
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
for device in null zero random urandom; do
  [ -e "$1/dev/$device" ] || : > "$1/dev/$device"; mount --bind "/dev/$device" "$1/dev/$device"
done
mount --bind "$2" "$1/tmp"
[ -z "$3" ] || mount --bind "$3" "$1/var/lib/kelpie"
mount -o remount,bind,ro "$1"
root=$1 home=$4; shift 4
exec /usr/sbin/chroot "$root" /usr/bin/setpriv --reuid 10001 --regid 10001 --clear-groups \\
  --bounding-set -all \\
  --no-new-privs --inh-caps -all /bin/sh -c 'cd "$0" && exec "$@"' "$home" "$@"
"""
"""What a runtime does. Arguments: the root, a folder for /tmp, one for the node or none, its home, argv."""


class Images:
    """A storage of images of our own, which nothing else on this machine sees."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # vfs works everywhere, and copies every file of an image for each step.
        self._driver = "overlay" if "\toverlay\n" in Path("/proc/filesystems").read_text() else "vfs"

    def buildah(self, *words: str, quiet: bool = False) -> str:
        """Run buildah on the storage; what it printed."""
        storage = ["--root", str(self._folder / "root"), "--runroot", str(self._folder / "run")]
        done = subprocess.run(
            ["buildah", *storage, "--storage-driver", self._driver, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def make_base(self, archive: Path) -> None:
        """Make the image that the Dockerfiles begin from out of debootstrap's archive."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archive), "/")
        for path, text in package_settings().items():
            with tempfile.NamedTemporaryFile("w") as file:
                file.write(text)
                file.flush()
                self.buildah("copy", "--quiet", "--chmod", "644", container, file.name, path)
        self.buildah("commit", "--quiet", container, BASE)
        self.buildah("rm", container)

    def build(self, name: str, dockerfile: str, **arguments: str) -> str:
        """Build one Dockerfile; the image's name."""
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        file = f"deploy/docker/{dockerfile}"
        how = ["--isolation", "chroot", "--format", "docker"]
        self.buildah("bud", *how, "-f", file, "-t", name, *given, ".")
        return name

    def with_python(self, name: str) -> str:
        """What stands for the image of others: the base with a Python, and nothing of Kelpie."""
        container = self.buildah("from", BASE)
        run = ["run", "--isolation", "chroot", container, "--"]
        self.buildah(*run, "apt-get", "update", "-qq")
        self.buildah(*run, "apt-get", "install", "-qq", "--no-install-recommends", "python3-venv")
        self.buildah("commit", "--quiet", container, name)
        self.buildah("rm", container)
        return name

    def mounted(self, image: str) -> Path:
        """The root of a container of the image."""
        container = self.buildah("from", image)
        return Path(self.buildah("mount", container))

    def close(self) -> None:
        """Unmount and remove every container; the images stay."""
        self.buildah("rm", "--all")

    def config(self, image: str, field: str) -> str:
        """What the image says of itself."""
        return self.buildah("inspect", "--format", "{{." + field + "}}", "--type", "image", image)


def package_settings() -> dict[str, str]:
    """What this machine's pip and npm are told about package archives, for those inside to hear too."""
    said: dict[str, str] = {}
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    pip = ["[global]"]
    if certificates:
        said["/etc/ssl/this-machine.pem"] = Path(certificates).read_text()
        said["/root/.npmrc"] = "cafile=/etc/ssl/this-machine.pem\n"
        pip.append("cert=/etc/ssl/this-machine.pem")
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode == 0:
        pip.append(f"index-url={found.stdout.strip()}")
    return said | {"/etc/pip.conf": "\n".join(pip) + "\n"}


def debootstrap(archive: Path) -> None:
    """Make a minimal Debian, once."""
    if archive.exists():
        return
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, folder, MIRROR], stdout=2, check=True)
        shutil.rmtree(Path(folder, "var/cache/apt/archives"), ignore_errors=True)
        part = archive.with_suffix(".part")
        subprocess.run(["tar", "-C", folder, "--exclude=./dev/*", "-cf", str(part), "."], check=True)
        part.rename(archive)


class Contained:
    """One process in the root of an image, as a runtime would run it."""

    def __init__(
        self, root: Path, words: Sequence[str], environment: Mapping[str, str], *, work: Path | None = None
    ) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="kelpie-image-"))
        for folder in (self.scratch, work):
            if folder is not None:
                os.chown(folder, UID, UID)
        home = "/var/lib/kelpie" if work else "/tmp"  # noqa: S108 - inside the container
        places = [str(root), str(self.scratch), str(work or ""), home]
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        self.log = self.scratch.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*unshare, "sh", "-c", CONTAINED, "sh", *places, *words],
                env={"PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def end(self) -> None:
        """Stop it, and leave nothing of it."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        """To the first process inside, with which all others end.

        It outlives unshare: it has become another user, which takes --kill-child back.
        """
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in children.read_text().split():
                os.kill(int(child), number)


def wait_for(url: str, process: Contained) -> None:
    """Wait until the API inside answers."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - ours
                return
        except OSError:
            if time.monotonic() > deadline or process.process.poll() is not None:
                raise SystemExit(f"the API inside does not answer:\n{process.log.read_text()}") from None
            time.sleep(0.1)


def size_mib(root: Path) -> float:
    """What the files of an image take, in MiB."""
    said = subprocess.run(["du", "-sk", str(root)], capture_output=True, text=True, check=True).stdout
    return int(said.split()[0]) / 1024


def run_a_job(server: Path, worker: Path, folder: Path) -> None:
    """Valkey and S3 as they are, the API, the platform and a node out of the images, and one job."""
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer(folder / "valkey"))
        s3 = stack.enter_context(S3Server(folder / "s3"))
        s3.ensure_bucket("images")
        admin_key = secrets.token_hex(32)
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"

        def start(root: Path, words: Sequence[str], environment: Mapping[str, str], **how: Path) -> Contained:
            started = Contained(root, words, environment, **how)
            stack.callback(started.end)
            return started

        inside = {"PATH": "/opt/kelpie/bin:/usr/bin:/bin", "KELPIE_REDIS_URL": valkey.url}
        tini = ["/usr/bin/tini", "--", "kelpie"]
        api = start(
            server, [*tini, "api", "--bind", f"127.0.0.1:{port}"], inside | {"KELPIE_ADMIN_KEY": admin_key}
        )
        start(server, [*tini, "platform"], inside)
        wait_for(f"{url}/readyz", api)
        with Client(url, admin_key) as admin:
            user = admin.create_user("images")
            key = admin.create_key(user.id, scopes=["submit", "work"])
        work = folder / "work"
        work.mkdir(exist_ok=True)
        node = start(
            worker,
            [*tini, "worker"],
            s3.environment
            | {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "KELPIE_API_URL": url,
                "KELPIE_API_KEY": key,
                "KELPIE_CONTAINER_GROUP_ID": "images",
                "KELPIE_NOTICES": "none",
                "KELPIE_DELETION_COST": "false",
                "KELPIE_IMDS_URL": "http://127.0.0.1:9",
            },
            work=work,
        )
        with Client(url, key) as user_client:
            job = user_client.submit(
                [
                    "sh",
                    "-c",
                    "id -u; ! touch /root-is-writable 2>/dev/null && mkdir -p out && id -u > out/uid",
                ],
                queue="images",
                after=["out:s3://images/out/"],
                max_failures=1,
            )
            try:
                done = user_client.wait(job.id, WAIT_S)
            except TimeoutError:
                done = user_client.job(job.id)
            if done.status is not JobStatus.COMPLETED:
                raise SystemExit(f"the job is {done.status}; the node said:\n{node.log.read_text()}")
        uid = s3.client().get_object(Bucket="images", Key="out/uid")["Body"].read().decode().strip()
        if uid != str(UID):
            raise SystemExit(f"the job ran as user {uid}, not as {UID}")
        print(f"a job completed through the images, as user {uid}, on read-only roots")


def main() -> int:
    """Build, look, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the base and the images are kept for the next time")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for program in ("buildah", "debootstrap", "unshare"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: apt-get install buildah debootstrap util-linux")
    archive = folder / f"{SUITE}.tar"
    debootstrap(archive)
    images = Images(folder / "storage")
    try:
        check(images, archive)
    finally:
        images.close()
    return 0


def check(images: Images, archive: Path) -> None:
    """Build and look at every image, run a job through them. SystemExit says what is wrong."""
    images.make_base(archive)
    roots: dict[str, Path] = {}
    for name in ("server", "worker"):
        began_s = time.monotonic()
        image = images.build(f"localhost/kelpie-{name}", f"{name}.Dockerfile", BASE=BASE)
        built_s = time.monotonic() - began_s
        roots[name] = images.mounted(image)
        user = images.config(image, "Docker.Config.User")
        if user != f"{UID}:{UID}":
            sys.exit(f"{image} runs as {user!r}, not as {UID}")
        left = [tool for tool in BUILD_TOOLS if list(roots[name].glob(f"**/bin/{tool}"))]
        if left:
            sys.exit(f"{image} holds tools of the build: {', '.join(left)}")
        base_mib, own_mib = size_mib(images.mounted(BASE)), size_mib(roots[name])
        print(
            f"{image}: {own_mib:.0f} MiB, {own_mib - base_mib:.0f} MiB of it above its base; {built_s:.0f} s"
        )
    # What OpenID Connect needs is in the server's lock, beside the extra [server].
    asked = ["chroot", str(roots["server"]), "/opt/kelpie/bin/python", "-c", "import kelpie.identity.oidc"]
    subprocess.run(asked, check=True)
    with tempfile.TemporaryDirectory() as scratch:
        run_a_job(roots["server"], roots["worker"], Path(scratch))
    theirs = images.with_python("localhost/image-of-others")
    example = images.build(
        "localhost/kelpie-example", "example.Dockerfile", BASE=theirs, WORKER="localhost/kelpie-worker"
    )
    root = images.mounted(example)
    asked = ["chroot", str(root), "/usr/local/bin/kelpie", "worker", "--settings"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    if "KELPIE_API_URL" not in said:
        sys.exit(f"the worker does not run in the image of others:\n{said}")
    print(f"{example}: the worker runs in an image of others, {size_mib(root):.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
