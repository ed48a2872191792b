"""The reference of the API as a page like the others, made of what the API describes itself with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Response

from kelpie.http.openapi import described
from kelpie_web.ui import page, ui

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a key of a body or an answer."""

    name: str
    words: str  # what it may be
    required: bool
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One call."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    parameters: Sequence[Field]
    body: str | None  # a model's name
    answers: Sequence[tuple[str, str, str]]  # status, what that means, a model's name or nothing


@ui.get("/api")
def api() -> Response:
    """Every call, what it takes and what it answers."""
    document = described()
    operations: defaultdict[str, list[Operation]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            operations[(told.get("tags") or ["Other"])[0]].append(_operation(method, path, told))
    models = {name: _fields(schema) for name, schema in sorted(document["components"]["schemas"].items())}
    return page("api.html", operations=operations, models=models)


def _operation(method: str, path: str, told: Mapping[str, Any]) -> Operation:
    return Operation(
        id=told["operationId"],
        method=method.upper(),
        path=path,
        summary=told.get("summary", ""),
        text=told.get("description", ""),
        parameters=[
            Field(one["name"], _words(one["schema"]), one.get("required", False), _text(one))
            for one in told.get("parameters", ())
        ],
        body=_model(told.get("requestBody", {})),
        answers=[
            (status, one["description"], _model(one) or "")
            for status, one in sorted(told["responses"].items())
        ],
    )


def _fields(schema: Schema) -> list[Field]:
    required = schema.get("required", ())
    return [
        Field(name, _words(one), name in required, _text(one))
        for name, one in schema.get("properties", {}).items()
    ]


def _model(holder: Mapping[str, Any]) -> str | None:
    """The name of the model of a body."""
    for content in holder.get("content", {}).values():
        schema = content.get("schema", {})
        return str(schema["$ref"]).rpartition("/")[2] if "$ref" in schema else _words(schema)
    return None


def _text(one: Mapping[str, Any]) -> str:
    return str(one.get("description") or one.get("schema", {}).get("description") or "")


def _words(schema: Schema) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_words(one) for one in schema[several]))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_words(schema.get('items', {}))}"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None or high is not None:
        return f"{kind}, {'' if low is None else low}…{'' if high is None else high}"
    if "maxLength" in schema:
        return f"{kind} of up to {schema['maxLength']} characters"
    return kind
