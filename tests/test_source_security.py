"""What no line of the source may do: run what it reads, start a shell, serve strangers.

Names are resolved through the imports of a file, so that an alias hides nothing. `bandit` (make
audit) knows more; this test needs nothing and knows what bandit does not: np.load, plain http.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for part in ("linvae", "analysis", "figures", "paper_checks", "docs")
    for path in (ROOT / part).rglob("*.py")
)  # fmt: skip

# modules that unpickle, or run what they are given
MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"),
    *("commands", "pty", "code", "codeop", "runpy", "telnetlib", "ftplib", "xmlrpc"),
}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs text"),
    **dict.fromkeys(("sympy.parse_expr", "sympy.parsing.sympy_parser.parse_expr"), "runs text"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput"), "starts a shell"),
    **dict.fromkeys(("subprocess.getstatusoutput", "asyncio.create_subprocess_shell"), "a shell"),
    **dict.fromkeys(("joblib.load", "pandas.read_pickle", "torch.package"), "unpickles"),
    **dict.fromkeys(("yaml.load", "yaml.unsafe_load", "yaml.full_load"), "makes objects"),
    **dict.fromkeys(("tempfile.mktemp", "os.tempnam"), "a name that another may take"),
    **dict.fromkeys(("shutil.unpack_archive", "urllib.request.urlretrieve"), "without a check"),
    **dict.fromkeys(("hashlib.md5", "hashlib.sha1"), "weak: sha256, or hashlib.new of a table"),
}
METHODS = {"extractall": "writes where members say", "extract": "the same"}
REQUESTS = {f"requests.{verb}" for verb in ("get", "head", "post", "put", "request")}
# keyword: value that is wrong wherever it is given
KEYWORDS = {"allow_pickle": True, "shell": True, "weights_only": False, "verify": False}
EVERY_INTERFACE = ("0.0.0.0", "::", "", None)
SERVING = ("host", "address", "ip", "interface", "dashboard_address")


def faults(text: str, path: str = "x.py") -> list[str]:
    """What a source does that it must not, with its lines."""
    tree = ast.parse(text, path)
    names = _imported(tree)
    found = [f for node in ast.walk(tree) for f in _of_node(node, names)]
    return [f"{path}:{line}: {what}" for line, what in found]


def _imported(tree: ast.AST) -> dict[str, str]:
    """Name in the file -> what it stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
            names |= {name: name for a in node.names for name in [a.name.split(".")[0]]}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names}
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`numpy.load` for np.load; "" for what is no chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _of_node(node: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        for module in modules:
            if module and module.split(".")[0] in MODULES:
                yield node.lineno, f"imports {module}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if "http://" in node.value and node.value != "http://":  # f"http://{host}" is our own page
            yield node.lineno, "plain http"
    elif isinstance(node, ast.Call):
        for what in _of_call(node, names):
            yield node.lineno, what


def _of_call(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    name = _dotted(call.func, names)
    given = {k.arg: k.value for k in call.keywords if k.arg}
    if name in CALLS:
        yield f"{name}: {CALLS[name]}"
    if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
        yield f"{call.func.attr}: {METHODS[call.func.attr]}"
    if name == "torch.load" and not _is(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if name == "numpy.load" and not _is(given.get("allow_pickle"), False):
        yield "np.load without allow_pickle=False"
    if name in REQUESTS and "timeout" not in given:
        yield f"{name} without a timeout"
    for keyword, value in given.items():
        if keyword in KEYWORDS and _is(value, KEYWORDS[keyword]):
            yield f"{keyword}={KEYWORDS[keyword]}"
        if keyword in SERVING and _is_every(value):
            yield f"{keyword}: every interface"
    bound = call.args[0] if call.args else None
    if name.endswith(".bind") and isinstance(bound, ast.Tuple) and _is_every(bound.elts[0]):
        yield "binds to every interface"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_every(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in EVERY_INTERFACE


def test_the_sources_are_found():
    assert len(SOURCES) > 150


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_no_source_does_what_it_must_not(path):
    assert faults(path.read_text(encoding="utf-8"), str(path)) == []


def test_templates_ask_nobody():
    for path in (ROOT / "linvae" / "templates").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text and "https://" not in text and "@import" not in text, path


# each must be seen, or the test above cannot fail
WRONG = {
    "import pickle": "imports pickle",
    "from dill import loads": "imports dill",
    "import cloudpickle.x as y": "imports cloudpickle.x",
    "eval('1')": "eval: runs text",
    "exec(x)": "exec: runs text",
    "compile(x, '', 'exec')": "compile: runs text",
    "import sympy as sp; sp.parse_expr(x)": "sympy.parse_expr: runs text",
    "import os; os.system('ls')": "os.system: starts a shell",
    "from os import popen as p; p('ls')": "os.popen: starts a shell",
    "import subprocess; subprocess.run('ls', shell=True)": "shell=True",
    "import joblib; joblib.load(x)": "joblib.load: unpickles",
    "import yaml; yaml.load(x)": "yaml.load: makes objects",
    "import numpy as np; np.load(x, allow_pickle=True)": "allow_pickle=True",
    "import numpy as np; np.load(x)": "np.load without allow_pickle=False",
    "from numpy import load; load(x)": "np.load without allow_pickle=False",
    "import torch; torch.load(x)": "torch.load without weights_only=True",
    "import torch; torch.load(x, weights_only=False)": "weights_only=False",
    "import tempfile; tempfile.mktemp()": "tempfile.mktemp: a name that another may take",
    "import requests; requests.get(x)": "requests.get without a timeout",
    "import requests; requests.get(x, timeout=1, verify=False)": "verify=False",
    "x = 'http://example.org/file'": "plain http",
    "x = f'http://example.org/{y}'": "plain http",
    "archive.extractall(x)": "extractall: writes where members say",
    "import hashlib; hashlib.md5(x)": "hashlib.md5: weak",
    "sock.bind(('', 80))": "binds to every interface",
    "sock.bind(('0.0.0.0', 80))": "binds to every interface",
    "serve(host='0.0.0.0')": "host: every interface",
    "serve(address='')": "address: every interface",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_seen(text):
    assert any(WRONG[text] in fault for fault in faults(text))


RIGHT = (
    "model.eval()",
    "import re; re.compile(x)",
    "import torch; torch.compile(x)",
    "import numpy as np; np.load(x, allow_pickle=False)",
    "import torch; torch.load(x, weights_only=True)",
    "import requests; requests.get(x, timeout=1)",
    "import subprocess; subprocess.run(['ls'])",
    "x = f'http://{host}/'",
    "sock.bind(('127.0.0.1', 0))",
)


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_is_let_through(text):
    assert faults(text) == []
