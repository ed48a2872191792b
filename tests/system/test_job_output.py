"""What a command said, from its node over the API to its owner, and to nobody else."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from kelpie.embedded.s3 import S3Server
from tests.api import ApiUser
from tests.factories import job_body
from tests.sse import Stream
from tests.system.fleet import Fleet, up
from tests.waiting import wait_until

SECRET = "hunter2-hunter2"


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"


def leased(api: ApiUser, group: str, **overrides: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job on node-1, and what that node shows."""
    api.submit(job_body(container_group_id=group, **overrides))
    (job,) = api.ok("GET", f"/work?machine_id=node-1&container_group_id={group}")
    return job, {"machine_id": "node-1", "container_group_id": group, "lease": job["lease"]}


def test_the_owner_sees_how_his_command_failed_and_the_admin_sees_no_secret_of_it(
    api: ApiUser, group: str
) -> None:
    job, node = leased(api, group, environment={"DB_PASSWORD": SECRET})
    tail = f"connecting with {SECRET}\nAuthorization: Bearer abcdefgh\n\x1b[2Jdied"
    end = {"exit_code": 137, "signal": 9, "out_of_memory": True, "stderr_tail": tail}
    api.ok("POST", f"/jobs/{job['id']}/failed", json=node | end | {"reason": f"out of {SECRET}"})
    (attempt,) = api.job(job["id"])["attempts"]
    assert {name: attempt[name] for name in end} == end
    seen = api.server.admin().job(job["id"])["attempts"][0]
    assert seen["stderr_tail"] == "connecting with [masked]\n[masked]\n\x1b[2Jdied"
    assert seen["reason"] == "out of [masked]"


@pytest.mark.parametrize(
    "wrong", [{"signal": 0}, {"signal": "9"}, {"out_of_memory": 1}, {"stderr_tail": "x" * 8193}]
)
def test_a_wrong_end_of_a_command_is_400_and_counts_nothing(
    api: ApiUser, group: str, wrong: dict[str, Any]
) -> None:
    job, node = leased(api, group)
    assert api.request("POST", f"/jobs/{job['id']}/failed", json=node | wrong)[0] == 400
    assert api.job(job["id"])["num_failures"] == 0


def lines(*texts: str, stream: str = "stdout") -> list[dict[str, Any]]:
    return [{"stream": stream, "time": 1_764_000_000_000, "text": text} for text in texts]


def texts(page: dict[str, Any]) -> list[str]:
    return [line["text"] for line in page["lines"]]


def test_the_log_of_a_job_is_read_page_by_page(api: ApiUser, group: str) -> None:
    job, node = leased(api, group)
    path = f"/jobs/{job['id']}/logs"
    assert api.ok("GET", path) == {"_count": 0, "lines": [], "next": "0-0", "gap": False, "status": "running"}
    for _ in range(2):  # the answer to the first was lost
        api.ok("POST", path, json=node | {"first": 1, "lines": lines("a", "b\x1b[2J")})
    api.ok("POST", path, json=node | {"first": 3, "lines": lines("c", stream="stderr")})
    page = api.ok("GET", f"{path}?page_size=2")
    assert page["lines"][0] == {
        "id": "1-1",
        "attempt": 1,
        "stream": "stdout",
        "time": "2025-11-24T16:00:00.000Z",
        "text": "a",
    }
    assert (texts(page), page["next"]) == (["a", "b\x1b[2J"], "1-2")
    assert texts(api.ok("GET", f"{path}?after=1-2")) == ["c"]
    assert texts(api.ok("GET", f"{path}?tail=2")) == ["b\x1b[2J", "c"]
    api.ok("POST", f"/jobs/{job['id']}/completed", json=node)
    assert api.ok("GET", path)["status"] == "completed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0},
        {"lines": []},
        {"lines": lines("x" * 8193)},
        {"lines": lines("x") * 1001},
        {"lines": lines("x" * 8000) * 40},
        {"lines": [{"stream": "stdin", "time": 1, "text": ""}]},
        {"lines": [{"stream": "stdout", "time": 10**18, "text": ""}]},
        {"lease": None},
    ],
)
def test_lines_that_are_wrong_are_400(api: ApiUser, group: str, wrong: dict[str, Any]) -> None:
    job, node = leased(api, group)
    body = node | {"first": 1, "lines": lines("x")} | wrong
    assert api.request("POST", f"/jobs/{job['id']}/logs", json=body)[0] == 400


def test_lines_sent_again_are_200_and_change_nothing(api: ApiUser, group: str) -> None:
    job, node = leased(api, group)
    for _ in range(2):
        body = node | {"first": 1, "lines": lines("a")}
        status, _, answer = api.request("POST", f"/jobs/{job['id']}/logs", json=body)
        assert (status, answer) == (200, {"message": "Lines kept"})
    assert texts(api.ok("GET", f"/jobs/{job['id']}/logs")) == ["a"]


def test_the_log_of_an_unknown_job_is_404(api: ApiUser, group: str) -> None:
    _, node = leased(api, group)
    path = f"/jobs/{uuid.uuid4()}/logs"
    assert api.request("GET", path)[0] == 404
    assert api.request("POST", path, json=node | {"first": 1, "lines": lines("a")})[0] == 404


@pytest.mark.parametrize("query", ["after=x", "after=1-", "tail=0", "tail=1001", "page_size=0", "after=-1-1"])
def test_a_wrong_place_is_400(api: ApiUser, group: str, query: str) -> None:
    job, _ = leased(api, group)
    assert api.request("GET", f"/jobs/{job['id']}/logs?{query}")[0] == 400


def test_who_does_not_hold_the_job_adds_nothing_to_its_log(api: ApiUser, group: str) -> None:
    job, node = leased(api, group)
    path = f"/jobs/{job['id']}/logs"
    for lease in ("1.forged", job["lease"] + "x"):
        body = node | {"first": 1, "lines": lines("forged"), "lease": lease}
        assert api.request("POST", path, json=body)[0] == 409
    assert texts(api.ok("GET", path)) == []


def test_only_the_owner_sees_the_secrets_in_a_log(api: ApiUser, group: str) -> None:
    job, node = leased(api, group, environment={"DB_PASSWORD": SECRET, "N": "1"})
    path = f"/jobs/{job['id']}/logs"
    said = [f"using {SECRET} 1 time", "password=abc", "harmless 1"]
    api.ok("POST", path, json=node | {"first": 1, "lines": lines(*said)})
    assert texts(api.ok("GET", path)) == said
    admin = api.server.admin()
    masked = ["using [masked] 1 time", "[masked]", "harmless 1"]
    assert texts(admin.ok("GET", path)) == masked
    with Stream(admin, path) as stream:
        assert [block.data["text"] for block in stream.hear(3)] == masked


def test_a_stream_tells_the_lines_as_they_come_and_ends_with_the_job(api: ApiUser, group: str) -> None:
    job, node = leased(api, group)
    path = f"/jobs/{job['id']}/logs"
    with Stream(api, path) as stream:
        for number in range(3):
            api.ok("POST", path, json=node | {"first": number + 1, "lines": lines(f"line {number}")})
            assert stream.hear(number + 1)[-1].data["text"] == f"line {number}"
        assert not stream.ended.is_set()
        api.ok("POST", f"/jobs/{job['id']}/completed", json=node)
        last = stream.hear(4)[-1]
        assert (last.event, last.data) == ("end", {"status": "completed"})
        assert stream.ended.wait(30)
    with Stream(api, path, {"Last-Event-ID": "1-1"}) as resumed:  # of a job that has ended
        events = resumed.hear(3)
        assert [block.data.get("text") for block in events] == ["line 1", "line 2", None]
        assert [block.id for block in events[:2]] == ["1-2", "1-3"]
        assert resumed.ended.wait(30)


def test_a_stream_of_a_job_that_is_deleted_ends(api: ApiUser, group: str) -> None:
    job, _ = leased(api, group)
    with Stream(api, f"/jobs/{job['id']}/logs") as stream:
        api.ok("DELETE", f"/jobs/{job['id']}?purge=true")
        assert stream.ended.wait(30)


def test_what_a_command_printed_outlives_its_node_and_goes_on_with_the_next(fleet: Fleet) -> None:
    fleet.environment["KELPIE_LOG_INTERVAL_S"] = "0.1"
    script = (
        'echo "begin $KELPIE_ATTEMPT"; echo "no\\tsuch \033[31mcolour" >&2; '
        '[ "$KELPIE_ATTEMPT" = 1 ] && sleep 60; echo "done"'
    )
    first = fleet.node()
    job = fleet.submit(script)
    path = f"/jobs/{job}/logs"
    wait_until(lambda: len(fleet.api.ok("GET", path)["lines"]) == 2, "the lines of the first attempt")
    first.kill()
    fleet.node()
    fleet.wait(job, "completed")
    found = fleet.api.ok("GET", path)
    said = {(line["attempt"], line["stream"], line["text"]) for line in found["lines"]}
    assert said == {
        (1, "stdout", "begin 1"),
        (1, "stderr", "no\tsuch \033[31mcolour"),
        (2, "stdout", "begin 2"),
        (2, "stderr", "no\tsuch \033[31mcolour"),
        (2, "stdout", "done"),
    }
    assert first.says("begin 1")  # and passed on as before


def test_all_that_a_command_printed_is_in_the_bucket_when_its_job_names_a_place(
    fleet: Fleet, s3: S3Server, bucket: str
) -> None:
    fleet.node()
    job = fleet.submit(
        "seq 20000; echo oops >&2; [ $KELPIE_ATTEMPT = 2 ]",
        environment={"KELPIE_LOG_DIR": "logs"},
        sync={"during": [up(bucket, "logs/", "logs")]},
    )
    fleet.wait_for(job, num_failures=1)
    fleet.node()
    fleet.wait(job, "completed")
    client = s3.client()
    stored = {
        entry["Key"]: client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read().decode()
        for entry in client.list_objects_v2(Bucket=bucket)["Contents"]
    }
    numbers = "".join(f"{number}\n" for number in range(1, 20_001))
    assert stored == {
        f"logs/attempt-000{attempt}.{stream}.000001.log": text
        for attempt in (1, 2)
        for stream, text in (("stdout", numbers), ("stderr", "oops\n"))
    }
