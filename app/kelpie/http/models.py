"""What clients may send, as pydantic models: they validate, and they make /openapi.json.

Here is what the models of every resource share; they are beside this, each resource in a file of its own.
Strict: "3" is no integer and 1 is no boolean; but 3.0 is an integer, as JSON has numbers only. Unknown keys
are ignored, a null optional key is absent.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def printable(value: str) -> str:
    """The text as it is. Raises ValueError when it would garble a page or a terminal."""
    if not value.isprintable():
        raise ValueError("it contains a control character")
    return value


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""For integers of a JSON body."""

GroupId = Annotated[
    str,
    Field(min_length=1, max_length=256, description="Names the queue."),
    AfterValidator(printable),
]
MachineId = Annotated[
    str, Field(min_length=1, max_length=128, description="Names the node."), AfterValidator(printable)
]
Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(printable)]


class Body(BaseModel):
    """A JSON object that somebody sends."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    may_be_absent: ClassVar[bool] = False  # whether a request without any body means {}


class Query(BaseModel):
    """The query string of a request: everything in it is text, so numbers are read from text."""

    model_config = ConfigDict(extra="ignore", frozen=True)
