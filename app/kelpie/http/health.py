"""For load balancers and supervisors: is the process alive, can it serve?"""

from __future__ import annotations

from typing import Any

from flask import Blueprint
from redis.exceptions import RedisClusterException, RedisError
from spectree import Response

from kelpie.errors import UnavailableError
from kelpie.http.context import services
from kelpie.http.openapi import HEALTH, spec
from kelpie.http.replies import ErrorReply, HealthReply

Answer = Any  # whatever Flask makes a response of

health = Blueprint("health", __name__)


@health.get("/healthz")
@spec.validate(resp=Response(HTTP_200=HealthReply), tags=[HEALTH], security=[{}], operation_id="isAlive")
def alive() -> Answer:
    """The process answers."""
    return {"status": "ok"}


@health.get("/readyz")
@spec.validate(
    resp=Response(HTTP_200=HealthReply, HTTP_503=ErrorReply),
    tags=[HEALTH],
    security=[{}],
    operation_id="isReady",
)
def ready() -> Answer:
    """The process can serve: Redis answers it, and it is not about to end."""
    if services().ending.is_set():
        raise UnavailableError("This process is about to end; ask another one.")
    try:
        services().store.redis.ping()
    except (RedisError, RedisClusterException):
        raise UnavailableError("Redis does not answer; nothing was lost, try again.") from None
    return {"status": "ok"}
