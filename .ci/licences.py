"""Licences of all installed packages: docs/licences.md, and whether each is allowed.

python .ci/licences.py            fails where the list is stale or a licence is not allowed
python .ci/licences.py --write    writes the list
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LIST = ROOT / "docs/licences.md"
PINS = ROOT / "constraints.txt"
HEAD = """# Licences of what linvae needs

Made by `make licences`; CI fails where a licence is not one of the permissive ones named in
`.ci/licences.py`. MPL-2.0 is: it binds whoever changes those files, and linvae uses them as they
are. LGPL, GPL and unknown ones are not. "linvae" needs the packages marked yes; the others serve
tests, extras and the site. torch of the default index for Linux also brings CUDA libraries under
NVIDIA's own terms; the CPU build does not.

| package | licence | needed by linvae |
| --- | --- | --- |
"""
# as packages write them; classifiers too
ALLOWED = {
    "0BSD", "3-Clause BSD License", "Apache Software License", "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception", "BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT License", "MIT-CMU", "MPL-2.0",
    "Mozilla Public License 2.0", "PSF-2.0", "Python Software Foundation License", "Zlib",
}  # fmt: skip
# said in the package's files, not in its metadata
READ = {"axe-playwright-python": "MIT AND MPL-2.0"}
CUDA = re.compile(r"(nvidia|cuda|triton)\b")


def allowed(licence: str) -> bool:
    """Return whether each licence that binds is allowed; of alternatives one is enough."""
    binding = re.split(" AND |; ", licence.replace(" (MPL 2.0)", ""))
    return all(any(one.strip("()") in ALLOWED for one in part.split(" OR ")) for part in binding)


def _installed() -> dict[str, str]:
    command = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed"]
    done = subprocess.run([*command, "--with-system"], capture_output=True, text=True, check=True)
    found = {canonicalize_name(p["Name"]): p["License"] for p in json.loads(done.stdout)}
    found = {name: licence for name, licence in found.items() if not CUDA.match(name)}
    del found["linvae"]
    return {name: READ.get(name, licence) for name, licence in sorted(found.items())}


def _needed(package: str, found: set[str]) -> set[str]:
    """Return the packages that it needs without extras, through others too."""
    try:
        requirements = [Requirement(line) for line in requires(package) or ()]
    except PackageNotFoundError:
        return found
    for one in requirements:
        name = canonicalize_name(one.name)
        if name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found.add(name)
            _needed(name, found)
    return found


def faults(installed: dict[str, str], listed: dict[str, str], pinned: set[str]) -> list[str]:
    """Return what is wrong, a line each; other platforms need fewer packages than are listed."""
    found = [f"{name}: licence {licence!r} is not allowed: see ALLOWED in .ci/licences.py"
             for name, licence in installed.items() if not allowed(licence)]  # fmt: skip
    stale = [name for name, licence in installed.items() if listed.get(name) != licence]
    stale += sorted(set(listed) - pinned)
    return found + [f"{name}: docs/licences.md is stale: make licences" for name in stale]


def main(arguments: list[str]) -> int:
    """Write the list, or check it."""
    installed = _installed()
    if arguments == ["--write"]:
        needed = _needed("linvae", set())
        rows = [f"| {name} | {licence} | {'yes' if name in needed else ''} |"
                for name, licence in installed.items()]  # fmt: skip
        LIST.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    rows = LIST.read_text(encoding="utf-8").removeprefix(HEAD)
    listed = dict(re.findall(r"^\| (.+?) \| (.+?) \|", rows, re.MULTILINE))
    pins = re.findall(r"^([\w.-]+)==", PINS.read_text(), re.MULTILINE)
    wrong = faults(installed, listed, {str(canonicalize_name(name)) for name in pins})
    print("\n".join(wrong) or f"{len(installed)} licences, all allowed and listed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
