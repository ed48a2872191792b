"""What clients may send about jobs that there are: which are meant, and how they are changed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from kelpie.http.models import WHOLE, Body, GroupId, MachineId, Query
from kelpie.job import JobStatus
from kelpie.store import Filter

LabelPair = Annotated[str, Field(max_length=192, pattern="^[^=]+=")]


class JobsQuery(Query):
    """Which jobs are listed."""

    status: JobStatus | None = None
    container_group_id: GroupId | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] = 100
    page: Annotated[int, Field(le=1_000_000, description="1, 2, 3 …; less means 1.")] = 1
    asc: Annotated[bool, Field(description="Oldest first.")] = False
    cursor: Annotated[
        str | None,
        Field(max_length=128, description="The `next_cursor` of the page before; goes on from there."),
    ] = None
    label: Annotated[
        list[LabelPair], Field(max_length=16, description="`name=value`; may be given several times.")
    ] = []  # noqa: RUF012 -- pydantic copies it
    machine_id: Annotated[MachineId | None, Field(description="Jobs that this node was given.")] = None
    q: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=256,
            description="Text in the id, the command, its arguments, the group or a label, in any case.",
        ),
    ] = None

    @property
    def filter(self) -> Filter:
        """Which jobs."""
        labels = dict(pair.split("=", 1) for pair in self.label)
        return Filter(self.status, self.container_group_id, labels, self.machine_id, self.q)

    @property
    def from_cursor(self) -> bool:
        """Whether the page is found by its cursor rather than by its number."""
        return self.cursor is not None or not self.filter.by_index

    @field_validator("label")
    @classmethod
    def _names_each_label_once(cls, pairs: list[str]) -> list[str]:
        names = {pair.partition("=")[0] for pair in pairs}
        if len(names) < len(set(pairs)):
            raise ValueError("two values of one label: no job has both")
        return pairs

    @model_validator(mode="after")
    def _has_one_way_of_paging(self) -> Self:
        if self.page > 1 and self.from_cursor:
            raise ValueError("page goes with status and container_group_id only; use next_cursor as cursor")
        return self


class JobQuery(Query):
    """What is added to a job."""

    expand: Literal["attempts", "progress_history", "transfers"] | None = None


class UnbanBody(Body):
    """Which node may have the job again. No body at all means every node."""

    may_be_absent: ClassVar[bool] = True

    machine_id: Annotated[MachineId | None, Field(description="Absent: every node.")] = None


class PriorityBody(Body):
    """Which priority the job is to have."""

    priority: Annotated[int, Field(ge=0, le=255, description="Higher is leased first."), WHOLE]


class DeleteQuery(Query):
    """How a job is deleted."""

    purge: Annotated[bool, Field(description="Delete the job and its records for good.")] = False
