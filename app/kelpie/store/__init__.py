"""Everything that touches Redis. ``Store`` is the entrance; no other package sends a command about jobs."""

from kelpie.store.audit import Audit, Deed, Entry
from kelpie.store.deliveries import Deliveries, Delivery, DeliveryStatus
from kelpie.store.drains import DrainedNode
from kelpie.store.events import PlacedEvent, Position
from kelpie.store.hub import EventHub, Follower
from kelpie.store.jobs import Filter, Page
from kelpie.store.logs import LogPage, LogPlace
from kelpie.store.nodes import Node, NodeState
from kelpie.store.poller import Poller
from kelpie.store.records import ADMIN_ID, ApiKey, Event, EventType, Principal, Queue, Scope, User
from kelpie.store.sessions import Session, Sessions
from kelpie.store.store import Store

__all__ = [
    "ADMIN_ID",
    "ApiKey",
    "Audit",
    "Deed",
    "Deliveries",
    "Delivery",
    "DeliveryStatus",
    "DrainedNode",
    "Entry",
    "Event",
    "EventHub",
    "EventType",
    "Filter",
    "Follower",
    "LogPage",
    "LogPlace",
    "Node",
    "NodeState",
    "Page",
    "PlacedEvent",
    "Poller",
    "Position",
    "Principal",
    "Queue",
    "Scope",
    "Session",
    "Sessions",
    "Store",
    "User",
]
