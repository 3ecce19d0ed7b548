"""Known vulnerabilities of the packages that constraints.txt pins.

pip-audit asks a service for each pin. Where the service knows a package but not its version, or
does not answer, pip-audit leaves the package out and finds nothing; here that is "not audited".
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def _pip_audit(pins: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--disable-pip"]
    command += ["--requirement", pins, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _answer(pins: str, service: str, options: Sequence[str]) -> list[dict[str, Any]]:
    """Return the packages that the service told something about; none where it was not reached."""
    done = _pip_audit(pins, "--format=json", f"--vulnerability-service={service}", *options)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except json.JSONDecodeError:
        why = done.stderr.strip().splitlines() or ["no answer"]
        print(f"{service}: not reached: {why[-1]}")
        return []
    told = [package for package in packages if "skip_reason" not in package]
    print(f"{service}: knows {len(told)} of {len(packages)} pins")
    return told


def audit(pins: str, *options: str, services: Sequence[str] = ("pypi", "osv")) -> int:
    """Return 0 if no answer names a vulnerability, 1 if one does, 2 if the pins cannot be read."""
    read = _pip_audit(pins, "--dry-run")
    if read.returncode != 0:
        print(f"not audited: {read.stderr.strip()}")
        return 2
    told = [package for name in services for package in _answer(pins, name, options)]
    if not told:
        print("not audited: no service reached")
        return 0
    found = {
        f"{package['name']} {package['version']}: {hit['id']}, fixed in {hit['fix_versions']}"
        for package in told
        for hit in package["vulns"]
    }
    print("\n".join(sorted(found)) or "audited: no known vulnerability")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(audit(*sys.argv[1:]))
