"""What deploy/ names exists: metrics, settings, keys of secrets, rules of Redis users."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import FilePath, SecretStr

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


def schema_of_values() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((DEPLOY / "helm" / "kelpie" / "values.schema.json").read_text())
    return schema


def test_no_secret_can_be_written_among_the_settings_of_the_chart() -> None:
    secret = {
        f"{ENV_PREFIX}{name.upper()}"
        for name, field in Settings.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    }
    secret |= {"KELPIE_REDIS_URL", "KELPIE_RQ_URL"}  # with a password in them
    secret |= {
        name
        for each in fields(WorkerSettings)
        if each.metadata.get("secret")
        for name in each.metadata["env"]
    }
    secret |= {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert len(secret) > 10
    assert set(schema_of_values()["definitions"]["settings"]["propertyNames"]["not"]["enum"]) == secret


def test_the_chart_can_mount_every_secret_and_certificate_that_a_setting_asks_for() -> None:
    keys = set()
    for name, field in Settings.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        if SecretStr in kinds:
            keys.add(name)
        elif FilePath in kinds:
            keys.add(name.removesuffix("_file"))
    always = {"admin_key", "metrics_token", "tls_cert", "tls_key"}  # the last two by api.tlsSecret
    assert always < keys
    listed = schema_of_values()["properties"]["api"]["properties"]["extraKeys"]["items"]["anyOf"][0]["enum"]
    assert set(listed) == keys - always | {"rq_url_api"}


def test_valkey_refuses_writes_before_its_container_is_full() -> None:
    conf = (DEPLOY / "valkey" / "valkey.conf").read_text()
    (limit_mb,) = re.findall(r"^maxmemory (\d+)mb$", conf, re.M)
    valkey = (DEPLOY / "compose.yaml").read_text().partition("\n  valkey:\n")[2].partition("\n\n")[0]
    (memory_gib,) = re.findall(r"memory: (\d+)g", valkey)
    assert int(limit_mb) <= 0.6 * 1024 * int(memory_gib)


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


@pytest.mark.parametrize(
    ("name", "extras"), [("server", ["server", "oidc"]), ("worker", ["worker", "direct"])]
)
def test_an_image_holds_what_every_setting_of_its_processes_needs(name: str, extras: list[str]) -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.match(r"[a-z0-9-]+", line)[0] for extra in extras for line in optional[extra]}  # type: ignore[index]
    lock = (DEPLOY / "docker" / f"{name}.lock").read_text()
    assert len(wanted) > 5
    assert wanted <= set(re.findall(r"^([a-z0-9-]+)==", lock, re.M))


def test_the_container_group_of_saladcloud_is_a_node() -> None:
    group = json.loads((DEPLOY / "saladcloud" / "container-group.json").read_text())
    environment = group["container"]["environment_variables"]
    settings = WorkerSettings.from_env(environment)
    assert settings.api_url == environment["KELPIE_API_URL"]
    assert group["replicas"] == 0  # the autoscaler's business
