"""The three kinds of credentials, in the order in which they are looked for, and whom each speaks for."""

from __future__ import annotations

from werkzeug.datastructures import Headers

from kelpie.errors import ConflictError, ForbiddenError, InvalidInputError, UnauthenticatedError
from kelpie.http.context import services
from kelpie.identity import NodeTokens, OrganizationKeys
from kelpie.store import Principal, Scope
from kelpie.store.organizations import username_of

KEY_HEADER = "X-Kelpie-Key"
ORGANIZATION_KEY_HEADER = "Salad-Api-Key"
ORGANIZATION_HEADER = "Salad-Organization"
PROJECT_HEADER = "Salad-Project"
TOKEN_HEADER = "Authorization"  # noqa: S105 -- a header's name
TOKEN_SCHEME = "bearer "  # noqa: S105 -- the scheme's name

MAX_KEY_CHARS = 512
MAX_NAME_CHARS = 128

NODE_SCOPES = frozenset({Scope.WORK})


def principal_of(headers: Headers) -> Principal:
    """Whom the headers of a request speak for.

    Raises UnauthenticatedError without credentials (or with those of a kind that this API is not set up for),
    ForbiddenError for bad ones, InvalidInputError for incomplete ones, and UnavailableError when nobody can
    tell now.
    """
    if key := headers.get(KEY_HEADER, ""):
        return _of_key(key)
    identities = services().identities
    if identities.organization_keys is not None and (key := headers.get(ORGANIZATION_KEY_HEADER, "")):
        return _of_organization_key(identities.organization_keys, key, headers)
    if identities.node_tokens is not None and (token := _bearer(headers)):
        return _of_node_token(identities.node_tokens, token, headers)
    raise UnauthenticatedError(f"Show an API key in the header {KEY_HEADER}.")


def _of_key(key: str) -> Principal:
    caller = services().store.users.authenticate(key) if len(key) <= MAX_KEY_CHARS else None
    if caller is None:
        raise ForbiddenError(f"The API key in {KEY_HEADER} is not known here.")
    return caller


def _of_organization_key(keys: OrganizationKeys, key: str, headers: Headers) -> Principal:
    asked = _name(headers, ORGANIZATION_HEADER, f"an API key in {ORGANIZATION_KEY_HEADER}")
    project = _name(headers, PROJECT_HEADER, f"an API key in {ORGANIZATION_KEY_HEADER}")
    known = services().store.organizations.look(asked)
    found = keys.check(key, asked, epoch=known.epoch) if len(key) <= MAX_KEY_CHARS else None
    if found is None:
        raise ForbiddenError(
            f"The API key in {ORGANIZATION_KEY_HEADER} is not one of the organization {asked!r}, or that is "
            "not entitled to use this API."
        )
    user_id = known.user_id
    if user_id is None or found.name != asked or found.id not in (None, known.organization_id):
        user_id = _user_of(found.name, found.id)
    return Principal(user_id, username_of(found.name), found.name, project)


def _of_node_token(tokens: NodeTokens, token: str, headers: Headers) -> Principal:
    project = _name(headers, PROJECT_HEADER, f"a token in {TOKEN_HEADER}")
    node = tokens.verify(token)
    known = services().store.organizations.look(node.organization)
    return Principal(
        known.user_id or _user_of(node.organization, None),
        username_of(node.organization),
        node.organization,
        project,
        scopes=NODE_SCOPES,
        machine_id=node.machine_id,
        workload_id=node.workload_id,
    )


def _user_of(organization: str, organization_id: str | None) -> str:
    try:
        return services().store.organizations.ensure(organization, organization_id)
    except ConflictError as error:
        raise ForbiddenError(str(error)) from None


def _bearer(headers: Headers) -> str:
    value = headers.get(TOKEN_HEADER, "")
    return value[len(TOKEN_SCHEME) :].strip() if value.lower().startswith(TOKEN_SCHEME) else ""


def _name(headers: Headers, header: str, what: str) -> str:
    value = headers.get(header, "").strip()
    if not value:
        raise InvalidInputError(
            f"The header {header} is missing; {what} needs it.", errors=((header, "is missing"),)
        )
    if len(value) > MAX_NAME_CHARS or not value.isprintable():
        problem = f"must be {MAX_NAME_CHARS} printable characters at most"
        raise InvalidInputError(f"The header {header} {problem}.", errors=((header, problem),))
    return value
