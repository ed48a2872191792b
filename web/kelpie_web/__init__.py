"""What Kelpie shows in a browser: a landing page and the interactive API reference."""

from kelpie_web.pages import pages

__all__ = ["pages"]
