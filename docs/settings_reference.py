"""Writes docs/reference/settings.md from the settings themselves: `make docs`. A test holds it current."""

from __future__ import annotations

from pathlib import Path

from kelpie.config import ENV_PREFIX
from kelpie.config import Settings as ServerSettings
from kelpie_worker.settings import settings_table

TARGET = Path(__file__).with_name("reference") / "settings.md"


def render() -> str:
    """The page."""
    lines = [
        "# Settings",
        "",
        "All are environment variables, read once at start; a bad value is refused by name.",
        "",
        "A value may stand in a file instead, so that neither `docker inspect` nor a manifest shows it:",
        "`KELPIE_ADMIN_KEY_FILE=/run/secrets/admin_key`. Every setting of the API and the platform takes",
        "`_FILE` behind its name; of the worker `KELPIE_API_KEY`, `KELPIE_API_URL` and `SALAD_API_KEY` do.",
        "",
    ]
    lines += [
        "## `kelpie api` and `kelpie platform`",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in ServerSettings.model_fields.items():
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {_code(field.default)} | {field.description} |")
    lines += ["", "## `kelpie worker`", "", "| variable | default | meaning |", "| --- | --- | --- |"]
    for row in settings_table():
        names = ", ".join(f"`{name}`" for name in row.env)
        unit = f" ({row.unit})" if row.unit else ""
        lines.append(f"| {names} | {_code(row.default)} | {row.help}{unit} |")
    lines += [
        "",
        "Storage is configured as for every AWS SDK: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,",
        "`AWS_REGION`, `AWS_ENDPOINT_URL_S3`, profiles, instance roles.",
        "",
        "## The client and the command line",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
        "| `KELPIE_API_URL` | `http://127.0.0.1:8080` | where the API is |",
        "| `KELPIE_API_KEY` | none | whose jobs |",
        "",
    ]
    return "\n".join(lines)


def _code(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, tuple):
        value = ",".join(str(one) for one in value)
    return f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(render())
