# ruff: noqa: INP001
"""`make audit`: known vulnerabilities of what a server runs, and secrets in tracked files.

Fails on a vulnerability and on a secret that `secrets.baseline` does not know. Where nobody can be asked
about vulnerabilities, it says so and does not fail: silence is no good answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.runtime.lock"
BASELINE = ROOT / ".ci" / "secrets.baseline"
PIP_AUDIT = Path(sys.executable).with_name("pip-audit")
#: A release with vulnerabilities that everybody knows: whoever does not name them cannot tell about others.
CANARY = ("django", "1.2")
_LIMIT_S = 60
#: Hashes of packages, pictures and measured numbers are random, too.
NO_TEXT = (
    ".lock",
    "package-lock.json",
    ".png",
    ".svg",
    "docs/benchmarks/results.json",
    ".ci/secrets.baseline",
)
_FILTERS = (
    "allowlist.is_line_allowlisted",
    "heuristic.is_indirect_reference",
    "heuristic.is_not_alphanumeric_string",
    "heuristic.is_potential_uuid",
    "heuristic.is_sequential_string",
    "heuristic.is_templated_secret",
)
SETTINGS = {
    "plugins_used": [
        {"name": "AWSKeyDetector"},
        {"name": "Base64HighEntropyString", "limit": 4.5},
        {"name": "BasicAuthDetector"},
        {"name": "HexHighEntropyString", "limit": 3.0},
        {"name": "JwtTokenDetector"},
        {"name": "KeywordDetector"},
        {"name": "PrivateKeyDetector"},
        {"name": "SecretValueDetector", "path": f"file://{ROOT / '.ci' / 'secret_values.py'}"},
    ],
    "filters_used": [{"path": f"detect_secrets.filters.{name}"} for name in _FILTERS],
}


def judge(dependencies: list[dict[str, Any]]) -> tuple[list[str], str | None]:
    """What pip-audit's report means: vulnerabilities, and why nobody could tell (None: somebody could)."""
    known = {(each["name"].lower(), each.get("version")): each.get("vulns", []) for each in dependencies}
    found = [
        f"{name} {version}: {', '.join([each['id'], *each.get('aliases', [])])},"
        f" fixed in {', '.join(each.get('fix_versions', [])) or 'no version'}"
        for (name, version), vulnerabilities in sorted(known.items(), key=str)
        for each in vulnerabilities
        if (name, version) != CANARY
    ]
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    if not known.get(CANARY):
        return (
            found,
            f"the index here tells nothing about {' '.join(CANARY)}, whose vulnerabilities are well known",
        )
    if skipped:
        return found, f"the index here does not know {len(skipped)} packages: {', '.join(skipped[:5])}"
    return found, None


def audit() -> bool:
    """Whether no vulnerability is known; says so when nobody could be asked."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as canary:
        # nothing is fetched, but where the lock file has hashes all must have one
        canary.write(f"{'=='.join(CANARY)} --hash=sha256:{'0' * 64}\n")
        canary.flush()
        command = [
            PIP_AUDIT,
            "--disable-pip",
            "--no-deps",
            "--format=json",
            "--progress-spinner=off",
            "--timeout=5",
        ]
        try:
            done = subprocess.run(
                [*command, f"--requirement={LOCK}", f"--requirement={canary.name}"],
                capture_output=True, text=True, check=False, timeout=_LIMIT_S,
            )  # fmt: skip
            dependencies = json.loads(done.stdout)["dependencies"]
        except subprocess.TimeoutExpired:
            dependencies, reason = [], f"no answer within {_LIMIT_S} s"
        except (ValueError, KeyError):
            dependencies, reason = [], (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
        else:
            reason = ""
    found, unasked = judge(dependencies)
    for each in found:
        _say(f"VULNERABLE  {each}")
    if reason or unasked:
        _say(f"COULD NOT ASK about vulnerabilities: {reason or unasked}.")
        _say("Nothing was found out; run `make audit` where the service can be reached.")
    if not found and not (reason or unasked):
        _say(f"{len(dependencies) - 1} packages: no known vulnerability")
    return not found


def secrets_in(path: str) -> list[tuple[str, str, str, int]]:
    """Path, kind, hash and line of what looks like a secret in a file."""
    with transient_settings(SETTINGS):
        return [(path, each.type, each.secret_hash, each.line_number) for each in scan_file(path)]


def scan(files: list[str], *, known: set[tuple[str, ...]]) -> list[tuple[str, str, str, int]]:
    """Secrets in files that are not known."""
    with ProcessPoolExecutor(2) as workers:
        found = [each for some in workers.map(secrets_in, files, chunksize=20) for each in some]
    return sorted(each for each in found if each[:3] not in known)


def tracked() -> list[str]:
    """Files of the repository that people wrote."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        name
        for name in listed.stdout.split("\0")
        if name and not name.endswith(NO_TEXT) and Path(name).is_file()
    ]


def main(arguments: list[str]) -> int:
    """0: nothing was found; 1: something was.

    Args:
        arguments: `--accept` writes what is found into the baseline, `--secrets` looks for nothing else.
    """
    if arguments == ["--accept"]:
        entries = sorted({each[:3] for each in scan(tracked(), known=set())})
        BASELINE.write_text(
            json.dumps([dict(zip(("file", "kind", "sha1"), each, strict=True)) for each in entries], indent=1)
            + "\n"
        )
        _say(f"{len(entries)} known examples")
        return 0
    known = {(each["file"], each["kind"], each["sha1"]) for each in json.loads(BASELINE.read_text())}
    files = tracked()
    found = scan(files, known=known)
    for path, kind, _, line in found:
        _say(f"SECRET?  {path}:{line}: {kind}")
    if found:
        _say("Take it out and change it. Only an example that opens nothing: `.ci/audit.py --accept`.")
    else:
        _say(f"{len(files)} files: no secret but {len(known)} known examples")
    if arguments == ["--secrets"]:
        return int(bool(found))
    return 0 if audit() & (not found) else 1


_say = partial(print, flush=True)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
