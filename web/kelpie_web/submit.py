"""Submit a job: by a form or as JSON, checked as it is typed, and shown as command, curl and Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pprint import pformat
from typing import Any

from flask import Response, request
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from kelpie.errors import InvalidInputError
from kelpie.http.audit import note_submit
from kelpie.http.context import principal, require, services
from kelpie.http.errors import invalid
from kelpie.http.job_models import JobBody
from kelpie.job import Job
from kelpie.store import Scope
from kelpie_web.ui import back, form, page, ui

NUMBERS = ("max_failures", "heartbeat_interval", "priority", "max_runtime_s", "retry_backoff_s")
TEXTS = ("container_group_id", "webhook", "not_before")
DIRECTIONS = {"before": "download", "during": "upload", "after": "upload"}
WAYS = frozenset({"form", "json"})

OWN_KEYS = frozenset(JobBody.model_fields)
"""What of a job somebody gave; the rest of it came later."""


@dataclass(frozen=True, slots=True)
class Snippets:
    """The same submit in other words."""

    command: str
    curl: str
    python: str


@ui.get("/submit")
def submit() -> Response:
    """The empty form, or with `from` that of a job that there is."""
    require(Scope.SUBMIT)
    way = "json" if request.args.get("way") == "json" or "from" in request.args else "form"
    body: dict[str, Any] = {"command": "echo", "arguments": ["hello"], "container_group_id": "", "sync": {}}
    if origin := request.args.get("from"):
        # His own only: of another's the admin sees masks where the secrets are.
        body = _definition(services().store.get(origin, user_id=principal().user_id))
    return _form(way, {"container_group_id": request.args.get("group", "")}, json.dumps(body, indent=2))


@ui.post("/submit/check")
def check() -> Response:
    """What is wrong with what was typed so far, or the same submit in other words."""
    problems, snippets = [], None
    try:
        body, _ = _read(form())
        snippets = _snippets(body)
    except InvalidInputError as error:
        problems = _problems(error)
    return page("check.html", problems=problems, snippets=snippets)


@ui.post("/submit")
def submitted() -> BaseResponse:
    """Queue the job, and show it."""
    fields = form()
    try:
        _, model = _read(fields)
        [job] = services().store.submit(principal().user_id, [model.spec()])
    except InvalidInputError as error:
        response = _form(_way(fields), fields, fields.get("json", ""), _problems(error))
        response.status_code = 400
        return response
    note_submit(1)
    return back("ui.job", "The job is queued.", job_id=job.id)


def _form(way: str, fields: Mapping[str, str], text: str, problems: Any = ()) -> Response:
    groups = sorted({queue.container_group_id for queue in services().store.queues(principal().user_id)})
    return page("submit.html", way=way, fields=fields, json=text, groups=groups, problems=problems)


def _way(fields: Mapping[str, str]) -> str:
    return fields["way"] if fields.get("way") in WAYS else "form"


def _read(fields: Mapping[str, str]) -> tuple[dict[str, Any], JobBody]:
    """The body of POST /jobs that was typed, as it is and as its model. Raises InvalidInputError."""
    if _way(fields) == "json":
        try:
            body = json.loads(fields.get("json", ""))
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"This is not JSON: {error}.") from None
        if not isinstance(body, dict):
            raise InvalidInputError("This is JSON, but not an object: a job looks like {…}.")
    else:
        body = _typed(fields)
    try:
        return body, JobBody.model_validate_json(json.dumps(body))
    except ValidationError as error:
        raise invalid(error) from None
    except ValueError as error:  # half a surrogate pair is JSON, but no text
        raise InvalidInputError(f"This cannot be sent: {error}.") from None


def _typed(fields: Mapping[str, str]) -> dict[str, Any]:
    body: dict[str, Any] = {"sync": _sync(fields.get("sync", ""))}
    try:
        words = shlex.split(fields.get("command", ""))
    except ValueError as error:
        raise _problem("command", f"a quote is not closed: {error}") from None
    if not words:
        raise _problem("command", "say what is to be run, such as python sim.py")
    body["command"], body["arguments"] = words[0], words[1:]
    body |= {name: value for name in TEXTS if (value := fields.get(name, "").strip())}
    if "container_group_id" not in body:
        raise _problem("container_group_id", "name the group whose nodes run it")
    for name in NUMBERS:
        if text := fields.get(name, "").strip():
            try:
                body[name] = int(text)
            except ValueError:
                raise _problem(name, f"{text[:32]!r} is no whole number") from None
    for name in ("environment", "labels"):
        if lines := fields.get(name, "").strip():
            body[name] = dict(_pair(name, line) for line in lines.splitlines() if line.strip())
    if fields.get("compression"):
        body["compression"] = True
    return body


def _pair(field: str, line: str) -> tuple[str, str]:
    name, equals, value = line.strip().partition("=")
    if not equals:
        raise _problem(field, f"{line.strip()[:64]!r} is not NAME=value")
    return name, value


def _sync(text: str) -> dict[str, Any]:
    """The sync entries of the form's lines: ``during bucket/prefix folder [pattern]``."""
    sync: dict[str, list[dict[str, str]]] = {}
    for line in text.splitlines():
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise _problem("sync", f"a quote is not closed in {line[:64]!r}: {error}") from None
        if not words:
            continue
        if len(words) not in {3, 4} or words[0] not in DIRECTIONS:
            raise _problem("sync", f"{line[:64]!r} is not: before, during or after, BUCKET/PREFIX, a folder")
        bucket, _, prefix = words[1].removeprefix("s3://").partition("/")
        direction = DIRECTIONS[words[0]]
        entry = {"bucket": bucket, "prefix": prefix, "local_path": words[2], "direction": direction}
        if len(words) == 4:
            entry["pattern"] = words[3]
        sync.setdefault(words[0], []).append(entry)
    return sync


def _problem(field: str, text: str) -> InvalidInputError:
    return InvalidInputError(f"{field}: {text}.", errors=((field, text),))


def _problems(error: InvalidInputError) -> list[tuple[str, str]]:
    return list(error.errors) or [("", str(error))]


def _definition(job: Job) -> dict[str, Any]:
    """What was given to submit a job, without what says nothing."""
    return {
        name: value
        for name, value in job.spec.to_wire().items()
        if name in OWN_KEYS and (name == "sync" or value not in (None, [], {}, False))
        if not (name == "sync" and value is None)
    }


def _snippets(body: dict[str, Any]) -> Snippets:
    url = request.url_root.rstrip("/")
    text = json.dumps(body, indent=2, ensure_ascii=False)
    return Snippets(
        # Within JSON a line break is written as \\n, so no line of it can end the document.
        command=f"kelpie submit --file - <<'END'\n{text}\nEND",
        curl=(
            f'curl {shlex.quote(url + "/jobs")} -H "X-Kelpie-Key: $KELPIE_API_KEY" '
            f"--data-binary @- <<'END'\n{text}\nEND"
        ),
        python=(
            f"import os\n\nfrom kelpie.client import Client\n\nclient = Client({url!r}, os.environ["
            f'"KELPIE_API_KEY"])\njob = client.submit_job(\n{pformat(body, sort_dicts=False)}\n)'
        ),
    )
