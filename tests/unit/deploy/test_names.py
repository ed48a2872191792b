"""What deploy/ names exists: metrics, settings, keys of secrets, rules of Redis users."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kelpie.config import ENV_PREFIX, Settings
from kelpie_worker.settings import Settings as WorkerSettings
from kelpie_worker.settings import settings_table
from tests.system.test_acl import lines_of_page

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"


def texts(*patterns: str) -> Iterator[tuple[Path, str]]:
    for pattern in patterns:
        for file in sorted(DEPLOY.glob(pattern)):
            if file.is_file() and "secrets" not in file.parts:
                yield file, file.read_text()


def test_every_metric_that_an_alert_a_panel_or_a_trigger_asks_for_exists() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    known = set(re.findall(r"^\| `(kelpie_\w+)` \| (?!histogram)", page, re.M))
    known |= {f"{name}_bucket" for name in re.findall(r"^\| `(kelpie_\w+)` \| histogram", page, re.M)}
    asked = set()
    for _, text in texts("prometheus/alerts.yaml", "grafana/*.json", "helm/kelpie/templates/*.yaml"):
        asked |= set(re.findall(r"\bkelpie_(?!name\b)[a-z0-9_]+", text))
    assert len(asked) > 15
    assert asked <= known


def test_every_setting_that_is_set_exists() -> None:
    server = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    worker = {name for row in settings_table() for name in row.env}
    files = {f"{name}_FILE" for name in server | worker}
    named = set()
    for _, text in texts(
        "compose.yaml", "systemd/*", "saladcloud/*", "helm/kelpie/templates/*", "docker/*.Dockerfile"
    ):
        named |= set(re.findall(r"(?<!\$\{)\bKELPIE_[A-Z0-9_]+(?=[\"=:,} ])", text))
    assert len(named) > 10
    assert named <= server | worker | files


def test_the_users_of_valkey_are_those_of_the_page() -> None:
    page = lines_of_page()
    template = (DEPLOY / "valkey" / "users.acl.template").read_text()
    users = {line.split()[1]: line.split()[2:] for line in template.splitlines()}
    assert users["default"] == ["off", "resetpass", "resetkeys", "resetchannels", "-@all"]
    for name in ("kelpie-api", "kelpie-platform"):
        rules = [rule if not rule.startswith(">") else ">" for rule in users[name]]
        assert rules == [rule if not rule.startswith(">") else ">" for rule in page[name]]


def test_the_example_rule_of_valkey_keeps_everything() -> None:
    conf = (DEPLOY / "valkey" / "valkey.conf").read_text()
    for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        assert line in conf.splitlines()


@pytest.mark.parametrize("name", ["server", "worker", "build"])
def test_the_images_install_what_the_tests_run_with(name: str) -> None:
    pins = r"^([a-z0-9.-]+==[^ \n]+)"
    tested = set(re.findall(pins, (ROOT / "dev.lock").read_text(), re.M))
    lock = (DEPLOY / "docker" / f"{name}.lock").read_text()
    installed = set(re.findall(pins, lock, re.M))
    assert installed
    assert installed <= tested
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", lock)


def test_the_container_group_of_saladcloud_is_a_node() -> None:
    import json

    group = json.loads((DEPLOY / "saladcloud" / "container-group.json").read_text())
    environment = group["container"]["environment_variables"]
    settings = WorkerSettings.from_env(environment)
    assert settings.api_url == environment["KELPIE_API_URL"]
    assert group["replicas"] == 0  # the autoscaler's business
