"""One description of the API: the models that validate requests also make /openapi.json."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import cache
from typing import Any, cast, get_origin, get_type_hints

import gevent
from flask import Flask, request
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, ValidationError
from spectree import Response, SpecTree, Tag
from spectree.model_adapter.protocol import SchemaMode
from spectree.model_adapter.pydantic_adapter import PydanticModelAdapter
from spectree.models import InType, SecureType, SecurityScheme, SecuritySchemeData
from spectree.plugins.flask_plugin import FlaskPlugin
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, RequestTimeout

import kelpie
from kelpie.http.context import services
from kelpie.http.credentials import (
    KEY_HEADER,
    ORGANIZATION_HEADER,
    ORGANIZATION_KEY_HEADER,
    PROJECT_HEADER,
)
from kelpie.http.errors import invalid
from kelpie.http.job_models import BatchBody
from kelpie.http.models import Body, Query
from kelpie.http.replies import ErrorReply

OPENAPI_PATH = "/openapi.json"
KEY_SCHEME = "ApiKey"
ORGANIZATION_KEY_SCHEME = "OrganizationApiKey"
ORGANIZATION_SCHEME = "Organization"
PROJECT_SCHEME = "Project"
NODE_SCHEME = "NodeIdentity"
SLOWEST_BYTES_PER_S = 16 * 1024
"""What a large body has time for, beside KELPIE_REQUEST_TIMEOUT_S."""

JOBS = Tag(name="Jobs", description="Submit, see and cancel jobs.")
WORK = Tag(name="Work", description="What nodes call: lease a job, keep it, report its end.")
USERS = Tag(name="Users", description="Users and their API keys.")
SCALING = Tag(name="Scaling", description="How many nodes container groups have, and why.")
EVENTS = Tag(name="Events", description="What happens to jobs, as a stream or page by page.")
NODES = Tag(name="Nodes", description="Keep jobs away from nodes.")
LOGS = Tag(name="Logs", description="What the commands of jobs print.")
WEBHOOKS = Tag(name="Webhooks", description="What became of webhooks, and the secret that signs them.")
HEALTH = Tag(name="Health", description="For load balancers and supervisors.")


class StrictFlask(FlaskPlugin):
    """Hands validated models to views; what is wrong is raised as InvalidInputError.

    SpecTree's own way takes malformed JSON for an empty object. Ours reads the body as it came, whatever its
    content type, and holds only requests against the models: replies are held against theirs by tests.
    """

    def validate(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``func`` with the models that its annotations ask for."""
        # The base class passes 11 positional arguments about models and hooks, all of which the annotations
        # tell too; what views take from their path comes by name.
        del args
        hints = _hints(func)
        if query := hints.get("query"):
            kwargs["query"] = _model(query, _arguments(query))
        if headers := hints.get("headers"):
            kwargs["headers"] = _model(headers, dict(request.headers.items()))
        if json := hints.get("json"):
            kwargs["json"] = _body(json)
        return func(**kwargs)

    def register_route(self, app: Flask) -> None:
        """Serve the description; the page that shows it belongs to the pages."""
        app.add_url_rule(OPENAPI_PATH, "openapi", lambda: app.json.response(_described(self.spectree.spec)))


class DescribedOnce(PydanticModelAdapter):
    """Keeps what it has made of a model: SpecTree asks again for every status of every view, which took a
    quarter of a process's start."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[tuple[Any, str, str], dict[str, Any]] = {}

    def json_schema(
        self, model: type[Any], *, ref_template: str, mode: SchemaMode = "validation"
    ) -> dict[str, Any]:
        """The schema of a model; SpecTree copies it before it changes it."""
        asked = (model, ref_template, mode)
        if asked not in self._made:
            self._made[asked] = super().json_schema(model, ref_template=ref_template, mode=mode)
        return self._made[asked]


def _described(document: dict[str, Any]) -> dict[str, Any]:
    """The description; SpecTree takes every body for required."""
    absent = {
        f"#/components/schemas/{model.__name__}" for model in Body.__subclasses__() if model.may_be_absent
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            body = operation.get("requestBody", {})
            if any(content["schema"].get("$ref") in absent for content in body.get("content", {}).values()):
                body["required"] = False
    return document


def described() -> dict[str, Any]:
    """The description of the API, as it is served."""
    return _described(spec.spec)


@cache  # views are as many as routes; reading their annotations anew took 4 % of a request
def _hints(func: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(func)


@cache
def _lists(model: type[Query]) -> frozenset[str]:
    """The fields of which a model takes a list."""
    return frozenset(
        name for name, field in model.model_fields.items() if get_origin(field.annotation) is list
    )


def _arguments(model: type[Query]) -> dict[str, Any]:
    """The query string; what the model takes a list of may be given several times.

    An empty parameter is an absent one: scripts and forms send it for a filter that nobody has set.
    """
    many = _lists(model)
    given = {name: [one for one in values if one] for name, values in request.args.lists()}
    return {name: values if name in many else values[0] for name, values in given.items() if values}


def _model(model: type[Query], values: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error) from None


def _body(model: type[BaseModel]) -> BaseModel:
    limit = request.max_content_length
    body = _read(request.content_length or limit or 0)
    if request.content_length is None and limit is not None and len(body) >= limit:
        raise RequestEntityTooLarge  # sent in chunks, so nobody knew; what we have of it ends at the limit
    body = body.removeprefix(codecs.BOM_UTF8)  # which some editors and shells write in front of JSON
    if not body and issubclass(model, Body) and model.may_be_absent:
        body = b"{}"
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error, batch=issubclass(model, BatchBody)) from None


def _read(expected_bytes: int) -> bytes:
    """The body, unless it comes too slowly: each that is being read holds a place and its memory."""
    patience_s = services().settings.request_timeout_s + expected_bytes / SLOWEST_BYTES_PER_S
    try:
        with gevent.Timeout(patience_s, RequestTimeout("The body came too slowly.")):
            return request.get_data(cache=False)
    except ParseException as error:  # its chunks are none
        raise BadRequest(f"The chunks of the body are malformed ({type(error).__name__}).") from None


def replies(**models: Any) -> Response:
    """What a view answers: ``HTTP_200=Model`` …, and how it refuses."""
    refusals = {f"HTTP_{status}": ErrorReply for status in (400, 401, 403, 429, 503)}
    return Response(**(refusals | models))


def _name(model: Any) -> str:
    return str(model.__name__)


def _header(scheme: str, header: str, description: str) -> SecurityScheme:
    data = SecuritySchemeData(
        type=SecureType.API_KEY, name=header, field_in=InType.HEADER, description=description
    )
    return SecurityScheme(name=scheme, data=data)


spec = SpecTree(
    backend=StrictFlask,
    model_adapter=cast(Any, DescribedOnce()),  # a protocol of SpecTree that its own adapters do not meet
    mode="strict",
    naming_strategy=_name,
    nested_naming_strategy=lambda _parent, child: child,
    validation_error_status=400,
    validation_error_model=ErrorReply,
    title="Kelpie",
    description="Shepherds long-running jobs to completion on machines that may vanish at any second.",
    version=kelpie.__version__,
    path="docs",
    security_schemes=[
        _header(KEY_SCHEME, KEY_HEADER, "API key of a user."),
        _header(ORGANIZATION_KEY_SCHEME, ORGANIZATION_KEY_HEADER, "API key of an organization."),
        _header(ORGANIZATION_SCHEME, ORGANIZATION_HEADER, "Name of the organization whose key is shown."),
        _header(PROJECT_SCHEME, PROJECT_HEADER, "Name of the project."),
        SecurityScheme(
            name=NODE_SCHEME,
            data=SecuritySchemeData(
                type=SecureType.HTTP,
                scheme="bearer",
                bearer_format="JWT",
                description="Signed token of a node: it may ask for work and report on it.",
            ),
        ),
    ],
    security=[
        {KEY_SCHEME: []},
        {ORGANIZATION_KEY_SCHEME: [], ORGANIZATION_SCHEME: [], PROJECT_SCHEME: []},
        {NODE_SCHEME: [], PROJECT_SCHEME: []},
    ],
)
"""Decorate a view with ``spec.validate`` to validate its requests and to describe it."""
