"""Strikes real workers, API, Valkey and S3 by seed, and has an auditor look for what was lost.

    python -m tests.proof.faults [--seeds N] [--faults N] [--nodes N]
    python -m tests.proof.faults --seed 17 --trace     # the same schedule once more, and what it does

Each seed draws its faults (schedule.py) and its jobs (work.py) before it begins. Processes and the kernel
are real: the same seed strikes the same targets in the same order and rhythm, not to the same instruction.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.proof import preload
from tests.proof.faults import disk, shim
from tests.proof.faults.run import run_seed
from tests.proof.faults.schedule import Kind
from tests.proof.faults.site import Servers


def main(arguments: Sequence[str]) -> int:
    """Runs seeds; 1 when what must hold did not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--faults", type=int, default=60, help="faults of each seed (default: 60)")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--jobs", type=int, help="alive at once (default: two per node)")
    parser.add_argument("--trace", action="store_true", help="tell each fault as it strikes")
    parser.add_argument("--keep", type=Path, help="where worker logs of failing seeds go")
    options = parser.parse_args(arguments)
    first = options.first_seed if options.seed is None else options.seed
    seeds = range(first, first + (options.seeds if options.seed is None else 1))
    mounts = disk.own_mounts()
    if not mounts:
        print("this machine lets nobody mount: no disk is filled")
    struck: Counter[Kind] = Counter()
    jobs = attempts = violations = uploads = 0
    with tempfile.TemporaryDirectory(prefix="kelpie-faults-") as text, Servers(Path(text)) as servers:
        directory = Path(text)
        library = preload.build(shim.SOURCE, directory)
        for seed in seeds:
            report = run_seed(
                seed,
                servers,
                directory,
                faults=options.faults,
                nodes=options.nodes,
                jobs=options.jobs,
                library=library,
                mounts=mounts,
                trace=options.trace,
            )
            struck += report.struck
            jobs, attempts = jobs + report.jobs, attempts + report.attempts
            violations += len(report.violations)
            uploads += report.left_uploads
            print(
                f"seed {seed}: {report.struck.total()} faults, {report.jobs} jobs in {report.attempts} "
                f"attempts, {report.seconds:.0f} s, {len(report.violations)} violations",
                flush=True,
            )
            for each in report.violations:
                print(f"  {each}", flush=True)
            logs = directory / f"logs-of-seed-{seed}"
            if options.keep and logs.exists():
                shutil.copytree(logs, options.keep / logs.name, dirs_exist_ok=True)
    print("\n".join(f"{number:5} {kind}" for kind, number in struck.most_common()))
    print(f"{uploads:5} multipart uploads are left that no worker can end")
    print(
        f"seeds {seeds[0]}…{seeds[-1]}: {struck.total()} faults, {jobs} jobs in {attempts} attempts, "
        f"{violations} violations"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
