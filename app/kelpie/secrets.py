"""Which values are secrets, by the name they go by or by what they look like; they are not shown at all.

A job's environment holds what its command needs, keys and passwords among it. Its owner and the node that
runs it see the values; lists, pages, logs and the admin do not. What is masked is masked whole: no part of a
value, nor its length, is shown. Imports the standard library only: client, server and worker share it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

MASK = "[masked]"
"""What stands for a secret."""

# fmt: off
_NAMES = frozenset(
    {
        "AUTH", "AUTHENTICATION", "AUTHORIZATION", "BEARER", "COOKIE", "COOKIES", "CRED", "CREDENTIAL",
        "CREDENTIALS", "CREDS", "DSN", "HMAC", "JWT", "KEY", "KEYS", "OTP", "PASS", "PASSCODE",
        "PASSPHRASE", "PASSWD", "PASSWORD", "PASSWORDS", "PAT", "PIN", "PRIVATE", "PSK", "PW", "PWD",
        "SALT", "SAS", "SECRET", "SECRETS", "SESSION", "SESSIONS", "SIG", "SIGNATURE", "SIGNING",
        "TOKEN", "TOKENS"
    }
)
# fmt: on
"""Words of a name that say that its value is a secret: SESSION_KEY, dbPassword, api-token-2."""

_IN_NAMES = ("APIKEY", "CREDENTIAL", "PASSPHRASE", "PASSWD", "PASSWORD", "PRIVATEKEY", "SECRET")
"""What says so wherever it stands in a word: PGPASSWORD, MYSECRETVALUE."""

_ENDS_OF_NAMES = (
    "ACCESSKEY",
    "AUTHKEY",
    "COOKIE",
    "ENCRYPTIONKEY",
    "LICENSEKEY",
    "SIGNINGKEY",
    "SSHKEY",
    "TOKEN",
)
"""What says so at the end of a word: AUTHTOKEN, but not TOKENIZERS."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Each is found in linear time, whatever the text: none begins to match within what another match has passed.
_VALUES = re.compile(
    r"""
      -----BEGIN[ ]                                                # a PEM block
    | (?<![A-Z0-9]) (?: AKIA | ASIA | ABIA | ACCA ) [A-Z0-9]{16}   # AWS
    | (?<![A-Za-z0-9]) (?:
          gh[pousr]_ [A-Za-z0-9]{16}                               # GitHub
        | github_pat_ [A-Za-z0-9_]{16}
        | glpat- [A-Za-z0-9_-]{16}                                 # GitLab
        | klp_ [A-Za-z0-9_-]{8}                                    # Kelpie
        | whsec_ [A-Za-z0-9+/=_-]{8}                               # Standard Webhooks
        | xox[a-z]- [A-Za-z0-9-]{8}                                # Slack
        | xapp- [A-Za-z0-9-]{8}
        | hf_ [A-Za-z0-9]{20}                                      # Hugging Face
        | npm_ [A-Za-z0-9]{20}
        | pypi- [A-Za-z0-9_-]{20}
        | sk- [A-Za-z0-9_-]{20}
        | [rs]k_ (?: live | test ) _ [A-Za-z0-9]{8}                # Stripe
        | AIza [A-Za-z0-9_-]{35}                                   # Google
        | salad_cloud_ [A-Za-z0-9_]{8}                             # SaladCloud
      )
    | (?<![A-Za-z0-9_-]) eyJ [A-Za-z0-9_-]{5,4096} \. [A-Za-z0-9_-]{5}   # a JWT
    | (?i: (?: authorization | passw(?:or)?d | passphrase | pwd | secret | token
          | (?: access | api | auth | private ) [-_]? key )
          ["']? [ ]? [:=] [ ]? ["']? [^\s"'] )                     # a header, an option, an assignment
    """,
    re.VERBOSE,
)

_OPTION = re.compile(r"--?[A-Za-z][\w.-]*\Z")
"""An option whose value is the next argument: --password hunter2."""

_SHORTEST_IN_OUTPUT = 4
"""Shorter values, such as `1` or `yes`, stand in any text."""

_ADDRESS_ENDS = re.compile(r"[\s\"'<>]+")


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of this name with this value must not be shown."""
    return bool(value) and (is_secret_name(name) or is_secret_value(value))


@lru_cache(maxsize=4096)  # the same names come again and again
def is_secret_name(name: str) -> bool:
    """Whether the value of what goes by this name is a secret, whatever it looks like."""
    plain = unicodedata.normalize("NFKC", name)
    for part in re.split(r"[^A-Za-z]+", plain):
        # Both as it is written and in the words of its humps: DBPassword, dbPASSWORD, apiToken.
        for word in {part.upper(), *(hump.upper() for hump in _WORD.findall(part))}:
            if word in _NAMES or word.endswith(_ENDS_OF_NAMES) or any(name in word for name in _IN_NAMES):
                return True
    return False


def is_secret_value(text: str) -> bool:
    """Whether the text holds something that looks like a secret: a key, a token, a URL with a password."""
    return holds_token(text) or _holds_password(text)


def holds_token(text: str) -> bool:
    """Whether the text holds something that looks like a key or a token."""
    return _VALUES.search(text) is not None


def masked_text(text: str) -> str:
    """The text, or the mask if it holds a secret."""
    return MASK if is_secret_value(text) else text


def masked_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables, those that are secrets with the mask as their value. Empty values hide nothing."""
    return {name: MASK if is_secret(name, value) else value for name, value in environment.items()}


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments, those with the mask that hold a secret or are the value of an option whose name says so."""
    shown = [masked_text(argument) for argument in arguments]
    for place, (option, value) in enumerate(pairwise(arguments), 1):
        if _OPTION.match(option) and not _OPTION.match(value) and is_secret(option, value):
            shown[place] = MASK
    return shown


def masked_output(text: str, environment: Mapping[str, str]) -> str:
    """What a command printed, without the secrets of its environment and without lines that hold others."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST_IN_OUTPUT and is_secret(name, value):
            text = text.replace(value, MASK)
    return "\n".join(masked_text(line) for line in text.split("\n"))


def masked_job(wire: Mapping[str, Any]) -> dict[str, Any]:
    """A job as the API describes it (``Job.to_wire``), without the secrets of its definition."""
    webhook = wire["webhook"]
    return {
        **wire,
        "command": masked_text(wire["command"]),
        "arguments": masked_arguments(wire["arguments"]),
        "environment": masked_environment(wire["environment"]),
        "webhook": None if webhook is None else masked_text(webhook),
    }


def _holds_password(text: str) -> bool:
    """Whether the text holds a URL like ``scheme://user:password@host``."""
    if "://" not in text or "@" not in text:
        return False
    for piece in _ADDRESS_ENDS.split(text):
        _, _, rest = piece.partition("://")
        user_and_password, at, _ = rest.rpartition("@")  # a password may hold an @ or a / of its own
        if at and ":" in user_and_password:
            return True
    return False
