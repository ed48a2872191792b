from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from kelpie.errors import StartupError
from kelpie.job import LEGACY_KEYS
from kelpie_worker.environment import WORKER_SECRETS
from kelpie_worker.leased import LeasedJob
from kelpie_worker.settings import Settings, settings_table


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.machine_id == socket.gethostname()
    assert (settings.container_group_id, settings.poll_wait_s, settings.max_job_failures) == (
        "default",
        10,
        5,
    )


def test_a_variable_set_to_nothing_is_not_set() -> None:
    assert Settings.from_env({"KELPIE_GRACE_S": "", "SALAD_MACHINE_ID": " "}) == Settings()


@pytest.mark.parametrize("suffix", ["", "_NAME"])
def test_both_names_of_the_salad_project_and_organization_are_accepted(suffix: str) -> None:
    settings = Settings.from_env({f"SALAD_PROJECT{suffix}": "p", f"SALAD_ORGANIZATION{suffix}": "o"})
    assert (settings.salad_project, settings.salad_organization) == ("p", "o")


def test_the_providers_machine_id_wins_and_the_command_line_wins_over_both() -> None:
    env = {"SALAD_MACHINE_ID": "salad", "KELPIE_MACHINE_ID": "mine", "KELPIE_CONTAINER_GROUP_ID": "q"}
    assert Settings.from_env(env).machine_id == "salad"
    settings = Settings.from_env(env, machine_id="option", container_group_id="queue")
    assert (settings.machine_id, settings.container_group_id) == ("option", "queue")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KELPIE_GRACE_S", "soon"),
        ("KELPIE_GRACE_S", "-1"),
        ("KELPIE_GRACE_S", "nan"),
        ("MAX_JOB_FAILURES", "0"),
        ("MAX_JOB_FAILURES", "2.5"),
        ("MAX_RETRIES", "many"),
        ("KELPIE_HIDE_STORAGE_CREDENTIALS", "maybe"),
        ("KELPIE_API_URL", "ftp://host"),
        ("KELPIE_API_URL", "host:8080"),
        ("KELPIE_IMDS_URL", "redis://host"),
        ("KELPIE_LOG_LEVEL", "loud"),
        ("KELPIE_ALLOWED_ROOTS", "relative"),
        ("KELPIE_CHANGED_DURING_UPLOAD", "perhaps"),
        ("KELPIE_MACHINE_ID", "a\nb"),
        ("KELPIE_CONTAINER_GROUP_ID", "x" * 129),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(StartupError, match=name):
        Settings.from_env({name: value})


def test_all_bad_values_are_named_at_once_and_no_secret_is() -> None:
    with pytest.raises(StartupError) as caught:
        Settings.from_env(
            {"KELPIE_API_URL": "redis+x://:hunter2@h", "MAX_RETRIES": "x", "KELPIE_GRACE_S": "x"}
        )
    text = str(caught.value)
    assert all(name in text for name in ("KELPIE_API_URL", "MAX_RETRIES", "KELPIE_GRACE_S"))
    assert "hunter2" not in text


def test_a_bad_option_is_named_as_the_option() -> None:
    with pytest.raises(StartupError, match="--queue"):
        Settings.from_env({}, container_group_id="x" * 129)


def test_secrets_do_not_show_in_the_text_of_settings() -> None:
    env = {"KELPIE_API_KEY": "hunter2", "SALAD_API_KEY": "hunter2", "KELPIE_API_URL": "redis://:hunter2@h"}
    assert "hunter2" not in repr(Settings.from_env(env))


def test_the_older_names_of_log_levels_are_understood() -> None:
    assert [Settings.from_env({"KELPIE_LOG_LEVEL": x}).log_level for x in ("TRACE", "warn", "fatal")] == [
        "debug",
        "warning",
        "critical",
    ]


def test_every_setting_has_a_name_and_a_help_and_is_in_the_table() -> None:
    rows = list(settings_table())
    names = [name for row in rows for name in row.env]
    assert len(set(names)) == len(names)
    assert all(row.env and row.help.endswith(".") for row in rows)
    assert len(rows) == len(dataclasses.fields(Settings)) - 2 + len(dataclasses.fields(Settings().sync))


def test_allowed_roots_are_a_list_of_paths() -> None:
    assert Settings.from_env({"KELPIE_ALLOWED_ROOTS": "/a:/b"}).sync.allowed_roots == (Path("/a"), Path("/b"))


def test_a_job_of_the_legacy_form_gets_a_plan_in_the_folders_of_the_settings() -> None:
    settings = Settings.from_env({"INPUT_DIR": "/in", "CHECKPOINT_DIR": "/ck", "OUTPUT_DIR": "/out"})
    wire = {"id": "j", "command": "true", "container_group_id": "q", "sync": None} | dict.fromkeys(
        LEGACY_KEYS, "x"
    )
    sync = LeasedJob.from_wire(wire, settings).sync
    assert [entry.local_path for entry in sync.before] == ["/in", "/ck"]
    assert [entry.local_path for entry in sync.during] == ["/ck", "/out"]
    assert [entry.local_path for entry in sync.after] == ["/out"]


def test_the_text_of_a_leased_job_shows_neither_its_lease_nor_its_environment() -> None:
    wire = {
        "id": "j",
        "command": "true",
        "container_group_id": "q",
        "lease": "hunter2",
        "environment": {"A": "hunter2"},
    }
    assert "hunter2" not in repr(LeasedJob.from_wire(wire, Settings()))


def test_every_secret_may_stand_in_a_file_and_commands_do_not_hear_where(tmp_path: Path) -> None:
    for each in dataclasses.fields(Settings):
        if each.metadata.get("secret"):
            [name] = each.metadata["env"]
            file = tmp_path / name
            file.write_text("redis://:hunter2@host/0\n")
            settings = Settings.from_env({f"{name}_FILE": str(file)})
            assert getattr(settings, each.name) == "redis://:hunter2@host/0"
            assert f"{name}_FILE" in WORKER_SECRETS


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"k" * 65_537])
def test_a_file_that_holds_no_secret_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartupError, match="KELPIE_API_KEY_FILE"):
        Settings.from_env({"KELPIE_API_KEY_FILE": str(file)})


def test_jobs_may_be_leased_from_sentinels_whose_addresses_are_in_brackets() -> None:
    url = "redis+sentinel://node:secret@one:26379,[::1]:26379/primary/0"
    direct = Settings.from_env({"KELPIE_API_URL": url, "KELPIE_API_KEY": "key", "KELPIE_QUEUE": "queue"})
    assert direct.direct
    assert direct.api_url == url
