from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

from flask import Flask

from kelpie_web.show import STATIC

WEB = STATIC.parent.parent
TEMPLATES = WEB / "kelpie_web" / "templates"
BUILD = runpy.run_path(str(WEB / "build_assets.py"))


def test_the_lock_names_versions_and_hashes_and_no_address() -> None:
    lock = (WEB / "package-lock.json").read_text()
    assert "http" not in re.sub(r'"url": "[^"]+"', "", lock)
    packages = {name: one for name, one in json.loads(lock)["packages"].items() if name}
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    pinned = json.loads((WEB / "package.json").read_text())["dependencies"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in pinned} == pinned


def test_the_icons_that_pages_use_are_those_that_are_packed() -> None:
    text = "\n".join(path.read_text() for path in TEMPLATES.glob("*.html"))
    used = set(re.findall(r"icon\('([\w-]+)'\)", text)) | set(re.findall(r"drawn='([\w-]+)'", text))
    used |= set(re.findall(r"\('(?:ui|pages)\.\w+', '\w+', '([\w-]+)'\)", text))
    used |= set(re.findall(r"post\([^}]*'(trash-2|rotate-ccw|circle-slash|ban)'", text))
    assert used == set(BUILD["ICONS"])
    packed = (STATIC / "vendor" / "icons.svg").read_text()
    assert set(re.findall(r'<symbol id="([\w-]+)"', packed)) == used


def test_nothing_of_others_comes_without_its_licence() -> None:
    vendor = STATIC / "vendor"
    for path in vendor.glob("*"):
        if path.suffix in {".css", ".js", ".svg"}:
            assert (vendor / f"{path.stem}.LICENSE").stat().st_size > 200, path


def test_files_are_packed_for_who_takes_them_so_and_nothing_else_is_served(app: Flask) -> None:
    client = app.test_client()
    plain = client.get("/ui/static/vendor/htmx.js")
    packed = client.get("/ui/static/vendor/htmx.js?v=1", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.data) < len(plain.data) / 2
    assert (packed.cache_control.max_age, plain.cache_control.max_age) == (365 * 86_400, 3600)
    assert "Accept-Encoding" in packed.headers["Vary"]
    for name in ("../ui.py", "..%2fui.py", "vendor/stamp", "vendor", "nothing.css", "%00.css"):
        assert client.get(f"/ui/static/{name}").status_code == 404, name


def test_a_build_whose_files_are_there_fetches_nothing(tmp_path: Path) -> None:
    (tmp_path / "package-lock.json").write_bytes((WEB / "package-lock.json").read_bytes())
    vendor = tmp_path / "kelpie_web" / "static" / "vendor"
    vendor.mkdir(parents=True)
    (vendor / "stamp").write_text((STATIC / "vendor" / "stamp").read_text())
    BUILD["build"](tmp_path)  # would fail without .npmrc
    assert [path.name for path in vendor.iterdir()] == ["stamp"]
