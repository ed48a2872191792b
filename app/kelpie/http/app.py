"""The application: all resources over one store."""

from __future__ import annotations

import redis
from flask import Flask, Response, g, request
from flask import typing as ft
from werkzeug.middleware.proxy_fix import ProxyFix

from kelpie.config import Settings
from kelpie.errors import ForbiddenError, StartupError, UnauthenticatedError
from kelpie.http import audit, cors, errors
from kelpie.http.container_groups import container_groups
from kelpie.http.context import EXTENSION, Services, services
from kelpie.http.drains import drains
from kelpie.http.events import events
from kelpie.http.health import health
from kelpie.http.job_logs import job_logs
from kelpie.http.jobs import jobs
from kelpie.http.keys import keys
from kelpie.http.limits import Buckets, Limits
from kelpie.http.meter import Meter
from kelpie.http.metrics import RedisCollector, make_registry, metrics
from kelpie.http.openapi import spec
from kelpie.http.pulse import Pulse
from kelpie.http.scaling_rules import scaling_rules
from kelpie.http.users import users
from kelpie.http.webhooks import webhooks
from kelpie.http.work import work
from kelpie.identity import Identities
from kelpie.providers import make_provider
from kelpie.store import EventHub, Poller, Store
from kelpie.store.connection import make_plain_client
from kelpie_web import dashboard, pages


def create_app(settings: Settings, store: Store | None = None) -> Flask:
    """The WSGI application. Without ``store`` it connects to the one that ``settings`` names.

    It starts the subscriber of the long polls, so it is made once per process, after any fork;
    ``services(app).close()`` ends it.
    """
    app = Api("kelpie", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # A path is what it says: no redirects (which would be HTML) to a form with or without slashes.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    if store is None:
        store = Store.connect(
            settings.redis_url, allow_volatile=settings.allow_volatile, wait_replicas=settings.wait_replicas
        )
    poller = Poller(store)
    meter = Meter(store.metrics, poller)
    buckets = Buckets(store.metrics)
    notes = audit.Notes(store)
    app.extensions[EXTENSION] = Services(
        settings=settings,
        store=store,
        poller=poller,
        hub=EventHub(store),
        provider=make_provider(settings, store),
        identities=Identities.from_settings(settings),
        limits=Limits(settings, buckets),
        pulse=Pulse((meter.report, buckets.share, notes.flush)),
        notes=notes,
        registry=make_registry(
            RedisCollector(store.metrics, _deliveries(settings), top=settings.metrics_queues)
        ),
    )
    if settings.trusted_proxies:
        behind_proxies = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=0)
        app.wsgi_app = behind_proxies  # type: ignore[method-assign]  # Flask's own way to add middleware
    meter.register(app)
    errors.register(app)
    cors.register(app, settings.cors_origins)
    audit.register(app)
    app.after_request(_harden)
    jobs_and_nodes = (jobs, work, events, job_logs, drains, webhooks, scaling_rules, container_groups)
    for blueprint in (*jobs_and_nodes, users, keys, health, metrics, pages, dashboard):
        app.register_blueprint(blueprint)
    spec.register(app)
    return app


class Api(Flask):
    """Flask, with what happens before and after the callers of requests are known."""

    def preprocess_request(self) -> ft.ResponseReturnValue | None:
        """Authenticate, and hold the caller to his limits."""
        parts = services(self)
        parts.pulse.start()
        parts.limits.before_authentication()
        try:
            answer = super().preprocess_request()
        except (UnauthenticatedError, ForbiddenError) as error:
            if "principal" in g:  # known here, and not allowed to do this: no guess, and not free either
                parts.limits.after_authentication()
            else:
                parts.limits.after_refusal(error)
            raise
        if answer is None:
            parts.limits.after_authentication()
        return answer


def _deliveries(settings: Settings) -> redis.Redis | None:
    """Where RQ is; None when that is not known."""
    try:
        return make_plain_client(settings.deliveries_url, socket_timeout=2)
    except StartupError:
        return None


def _harden(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    # Answers hold job definitions and secrets of leases: no cache may keep them. Pages say otherwise.
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    if response.status_code == 204 or request.method == "OPTIONS":
        response.headers.pop("Content-Type", None)  # Flask calls also what is empty HTML
    return response
