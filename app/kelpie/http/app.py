"""The application: all resources over one store."""

from __future__ import annotations

from flask import Flask, Response

from kelpie.config import Settings
from kelpie.http import cors, errors
from kelpie.http.container_groups import container_groups
from kelpie.http.context import EXTENSION, Services
from kelpie.http.health import health
from kelpie.http.jobs import jobs
from kelpie.http.keys import keys
from kelpie.http.openapi import spec
from kelpie.http.scaling_rules import scaling_rules
from kelpie.http.users import users
from kelpie.http.work import work
from kelpie.identity import Identities
from kelpie.providers import make_provider
from kelpie.store import Poller, Store
from kelpie_web import pages


def create_app(settings: Settings, store: Store | None = None) -> Flask:
    """The WSGI application. Without ``store`` it connects to the one that ``settings`` names.

    It starts the subscriber of the long polls, so it is made once per process, after any fork;
    ``services(app).close()`` ends it.
    """
    app = Flask("kelpie", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # A path is what it says: no redirects (which would be HTML) to a form with or without slashes.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    if store is None:
        store = Store.connect(settings.redis_url, allow_volatile=settings.allow_volatile)
    app.extensions[EXTENSION] = Services(
        settings=settings,
        store=store,
        poller=Poller(store),
        provider=make_provider(settings, store),
        identities=Identities.from_settings(settings),
    )
    errors.register(app)
    cors.register(app, settings.cors_origins)
    app.after_request(_harden)
    for blueprint in (jobs, work, users, keys, scaling_rules, container_groups, health, pages):
        app.register_blueprint(blueprint)
    spec.register(app)
    return app


def _harden(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    # Answers hold job definitions and secrets of leases: no cache may keep them. Pages say otherwise.
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    return response
