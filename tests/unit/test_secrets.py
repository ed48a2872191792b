"""What is taken for a secret, and that nothing of it is shown."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie.job import JobSpec, LegacySync, Sync
from kelpie.logs import redact
from kelpie.secrets import (
    MASK,
    is_secret_name,
    is_secret_value,
    masked_arguments,
    masked_environment,
    masked_job,
    masked_text,
)

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----\n"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N"

SECRET_NAMES = [
    *("API_KEY", "apiKey", "APIKEY", "api-key", "x.api.key", "KEY", "SSH_KEYS", "AWS_SECRET_ACCESS_KEY"),
    *("TOKEN", "HF_TOKEN", "githubToken", "AUTHTOKEN", "AccessToken2", "TOKEN_2", "TOKENS"),
    *(
        "SECRET",
        "MYSECRETVALUE",
        "client_secret",
        "PASS",
        "DB_PASS",
        "DBPASSWORD",
        "PGPASSWORD",
        "dbPassword",
    ),
    *("MYSQL_PWD", "CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS", "BASIC_AUTH", "PRIVATE", "PRIVATE_PEM"),
    *(
        "COOKIE",
        "SESSION",
        "session_id",
        "SIGNATURE",
        "SENTRY_DSN",
        "ＡＰＩ＿ＫＥＹ",
        "DBPassword",
        "Api_Key",
    ),
]
PLAIN_NAMES = [
    *(
        "PATH",
        "HOME",
        "STEPS",
        "TOKENIZERS_PARALLELISM",
        "MONKEY",
        "KEYBOARD",
        "PASSENGER",
        "AUTHOR",
        "COMPASS",
    ),
    *("SESSIONLESS", "OMP_NUM_THREADS", "PINNED", "INPUT_DIR", "", "_", "1", "SEED"),
]
SECRET_VALUES = [
    PEM,
    f"export KEY='{PEM}'",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    *(f"gh{kind}_16C7e42F292c6912E7710c838347Ae178B4a" for kind in "pousr"),
    "github_pat_11ABCDEFG0abcdefghijkl_x",
    "klp_0123456789abcdef",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "xoxb-123456789012-abcdef",
    "glpat-aaaaaaaaaaaaaaaaaaaa",
    "hf_abcdefghijklmnopqrstuvwx",
    "sk-proj-abcdefghijklmnopqrst",
    JWT,
    f"--header=Authorization: Bearer {JWT}",
    "curl -H 'authorization: Basic dTpw' https://example.org",
    *("--password=hunter2", "host=db user=u password='hunter2'", "Server=db;Pwd=hunter2", "HF_TOKEN=abc"),
    *(
        '{"client_secret": "abc"}',
        "api-key: abc",
        "export AWS_SECRET_ACCESS_KEY=abc",
        "Proxy-Authorization: x",
    ),
    "postgres://user:hunter2@db/sims",
    "redis://:hunter2@10.0.0.5:6379/0",
    "https://user:p@ss/word@example.org/x",
    "a,b,amqp://u:p@h",
    '{"url": "https://u:p@h/"}',
]
PLAIN_VALUES = [
    *(
        "",
        "1000",
        "true",
        "/data/input",
        "https://example.org/path?x=1",
        "https://example.org:8080/a",
        "a@b.org",
    ),
    *("s3://bucket/prefix:/folder", "git@github.com:org/repo", "eyJ", "klp_", "https://example.org/@user"),
    *("see https://example.org: ask a@b.org", "authorization", "sk-learn", "AKIA"),
    *("--password", "max_tokens=512", "secret: ", "pwd", "--tokenizer=bpe", "TOKEN=", "monkey=1"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_variable_is_masked_by_its_name(name: str) -> None:
    assert is_secret_name(name)
    assert masked_environment({name: "x"}) == {name: MASK}
    assert masked_environment({name: ""}) == {name: ""}  # it hides nothing, and says that it is not set


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_variable_of_another_name_is_shown(name: str) -> None:
    assert masked_environment({name: "1000"}) == {name: "1000"}


@pytest.mark.parametrize("value", SECRET_VALUES)
def test_a_value_that_looks_like_a_secret_is_masked_whatever_its_name(value: str) -> None:
    assert masked_environment({"STEPS": value}) == {"STEPS": MASK}
    assert masked_text(f"before {value} after") == MASK


@pytest.mark.parametrize("value", PLAIN_VALUES)
def test_a_value_that_looks_like_none_is_shown(value: str) -> None:
    assert masked_text(value) == value


ALNUM = string.ascii_letters + string.digits
B64 = ALNUM + "+/"
SECRETS = st.one_of(
    st.text(ALNUM, min_size=16, max_size=40).map("ghp_{}".format),
    st.text(ALNUM, min_size=8, max_size=40).map("klp_{}".format),
    st.text(B64, min_size=8, max_size=40).map("whsec_{}".format),
    st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=16).map("AKIA{}".format),
    st.lists(st.text(ALNUM + "-_", min_size=5, max_size=30), min_size=3, max_size=3).map(
        lambda parts: "eyJ" + ".".join(parts)
    ),
    st.text(B64 + "\n", min_size=8, max_size=200).map("-----BEGIN PRIVATE KEY-----\n{}".format),
    st.text(ALNUM + "!$%&/()=?@:+*~#.-", min_size=1, max_size=40).map("https://user:{}@host/x".format),
)
SURROUNDINGS = st.text(max_size=20).map(lambda text: text + " ")


@given(secret=SECRETS, before=SURROUNDINGS, after=SURROUNDINGS)
def test_no_part_of_a_secret_is_left_wherever_it_stands(secret: str, before: str, after: str) -> None:
    for text in (
        secret,
        f"{before}{secret}",
        f"{before}{secret} {after}",
        f"x='{secret}'",
        f"TOKEN={secret}",
    ):
        assert masked_text(text) == MASK


@given(name=st.sampled_from(SECRET_NAMES), value=st.text(min_size=1))
def test_nothing_of_the_value_of_a_secret_variable_is_left(name: str, value: str) -> None:
    assert masked_environment({name: value}) == {name: MASK}


@given(environment=st.dictionaries(st.text(min_size=1), st.text()))
def test_a_variable_is_shown_whole_or_not_at_all(environment: dict[str, str]) -> None:
    masked = masked_environment(environment)
    assert masked.keys() == environment.keys()
    assert all(masked[name] in (value, MASK) for name, value in environment.items())
    assert masked_environment(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        *(
            "eyJ" * 40_000,
            "eyJa.eyJa." * 12_000,
            "://a:" * 25_000,
            "a" * 131_000,
            "ghp_" * 30_000,
            "://" * 40_000,
        ),
        *(
            "authorization " * 9_000,
            "password" * 16_000,
            "token= " * 18_000,
            "-----BEGIN" * 13_000,
            ":@//" * 30_000,
            "sk-" * 40_000,
        ),
    ],
    ids=lambda text: text[:10],
)
def test_hostile_text_of_the_largest_size_is_judged_in_linear_time(text: str) -> None:
    # What takes quadratic time here takes minutes, and the test's own limit ends it.
    assert masked_text(text) in (text, MASK)


def test_of_a_job_only_what_may_hold_secrets_is_touched() -> None:
    spec = JobSpec(
        command="curl https://u:p@h/",
        container_group_id="g",
        arguments=("--seed", "7", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "--password", "by name only"),
        environment={"API_KEY": "abc", "STEPS": "7"},
        webhook="https://example.org/hook?t=klp_0123456789abcdef",
        sync=Sync(),
    )
    wire = spec.to_wire()
    assert masked_job(wire) == wire | {
        "command": MASK,
        "arguments": ["--seed", "7", MASK, "--password", MASK],
        "environment": {"API_KEY": MASK, "STEPS": "7"},
        "webhook": MASK,
    }
    legacy = JobSpec(command="true", container_group_id="g", legacy=LegacySync(*"abcdef")).to_wire()
    assert masked_job(legacy) == legacy


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--password", "hunter2"], ["--password", MASK]),
        (["-v", "--api-key", "abc", "run"], ["-v", "--api-key", MASK, "run"]),
        (["-token", "x y"], ["-token", MASK]),
        (["--password", "-hunter2!"], ["--password", MASK]),
        (["--secret", "--verbose"], ["--secret", "--verbose"]),  # an option without a value
        (["--token-file", "x", "--tokenizer", "bert"], ["--token-file", MASK, "--tokenizer", "bert"]),
        (["password", "hunter2"], ["password", "hunter2"]),  # no option
        (["--output", "a", "--password"], ["--output", "a", "--password"]),
        (["--password", ""], ["--password", ""]),
        ([], []),
    ],
)
def test_the_value_of_an_option_is_judged_by_its_name(arguments: list[str], shown: list[str]) -> None:
    assert masked_arguments(arguments) == shown


def test_logs_hold_no_secrets() -> None:
    event = {
        "event": "job leased",
        "token": "abc",
        "command": "curl -u AKIAIOSFODNN7EXAMPLE",
        "environment": {"API_KEY": "abc", "STEPS": "7"},
        "attempt": 3,
    }
    assert redact(None, "info", event) == {
        "event": "job leased",
        "token": "[redacted]",
        "command": MASK,
        "environment": {"API_KEY": MASK, "STEPS": "7"},
        "attempt": 3,
    }
    assert not is_secret_value(MASK)
