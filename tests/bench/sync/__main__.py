"""The benchmark of the sync engine: ``python -m tests.bench.sync``, or ``make bench-sync``."""

from tests.bench.sync.run import main

main()
