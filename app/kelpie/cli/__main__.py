"""``python -m kelpie.cli`` is ``kelpie``."""

from kelpie.cli import main

main()
