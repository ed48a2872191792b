from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import structlog

from kelpie import logs
from kelpie.config import Settings, load_settings
from kelpie.errors import StartupError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KELPIE_{name.upper()}", raising=False)


@pytest.fixture
def _logs() -> object:
    """Puts the process's own set-up of logs back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_setting_has_a_default_and_a_line_of_help() -> None:
    assert load_settings() == Settings()
    for name, field in Settings.model_fields.items():
        assert not field.is_required(), name
        assert field.description, name


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELPIE_CORS_ORIGINS", "https://a.example/, https://b.example")
    monkeypatch.setenv("KELPIE_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("KELPIE_ADMIN_KEY", "k" * 32)
    monkeypatch.setenv("KELPIE_WEBHOOK_TIMEOUT_S", "")
    settings = load_settings()
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.log_level == "debug"
    assert settings.webhook_timeout_s == 10
    assert "k" * 32 not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KELPIE_ADMIN_KEY", "k" * 31),
        ("KELPIE_REDIS_URL", "http://localhost"),
        ("KELPIE_MAX_BODY_BYTES", "sixteen"),
        ("KELPIE_WEBHOOK_WORKERS", "0"),
        ("KELPIE_REAP_INTERVAL_S", "0"),
        ("KELPIE_LOG_LEVEL", "loud"),
        ("KELPIE_PROVIDER", "cloud"),
        ("KELPIE_PROVIDER", "salad"),  # without a key
        ("KELPIE_PROVIDER", "kubernetes"),  # outside of a pod, without a namespace
        ("KELPIE_SALAD_API_URL", "http://api.example.org"),
        ("KELPIE_SALAD_API_URL", "https://user:hunter2@api.example.org"),
        ("KELPIE_KUBERNETES_URL", "http://localhost.example.org"),
        ("KELPIE_KUBERNETES_NAMESPACE", "../kube-system"),
        ("KELPIE_AUTOSCALE_INTERVAL_S", "0"),
        ("KELPIE_AUTOSCALE_COOLDOWN_S", "-1"),
        ("KELPIE_WEBHOOK_ALLOW_PRIVATE", "perhaps"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=name) as caught:
        load_settings()
    assert len(value) < 9 or value not in str(caught.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().log_level = "debug"


@pytest.mark.usefixtures("_logs")
def test_a_log_line_is_one_json_object_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    lease = "the-secret"
    structlog.get_logger().info("leased", job_id="j", lease=lease, token=lease)
    structlog.get_logger().debug("not at this level")
    logging.getLogger("some.library").warning("careful")
    try:
        json.loads(lease)
    except ValueError:
        structlog.get_logger().exception("failed")
    written = capsys.readouterr().err
    events = [json.loads(line) for line in written.splitlines()]
    assert [event["event"] for event in events] == ["leased", "careful", "failed"]
    assert events[0]["job_id"] == "j"
    assert events[2]["exception"][0]["exc_type"] == "JSONDecodeError"
    # not even as a local variable in a traceback
    assert lease not in written


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        logs.configure("loud")


def test_a_setting_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "admin-key"
    file.write_text("k" * 32 + "\n")
    monkeypatch.setenv("KELPIE_ADMIN_KEY_FILE", str(file))
    key = load_settings().admin_key
    assert key is not None
    assert key.get_secret_value() == "k" * 32


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty"),
        (b"\xff" * 40, "is not UTF-8"),
        (b"k" * 65_537, "more than 65536 bytes"),
        (b"short", "32 characters or more"),
    ],
)
def test_a_file_that_holds_no_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "admin-key"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("KELPIE_ADMIN_KEY_FILE", str(file))
    with pytest.raises(StartupError, match=f"KELPIE_ADMIN_KEY.*{said}"):
        load_settings()


def test_a_setting_that_is_said_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KELPIE_METRICS_TOKEN", "t" * 16)
    monkeypatch.setenv("KELPIE_METRICS_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(StartupError, match="KELPIE_METRICS_TOKEN and KELPIE_METRICS_TOKEN_FILE are both set"):
        load_settings()
