"""What a file from elsewhere could use to run code, and errors that nobody sees: none of it stands in the code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for folder in ("medldm", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))

FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "os.system", "os.popen", "tempfile.mktemp",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "unsafe_load"}
FORBIDDEN_ARGUMENTS = {("shell", True), ("weights_only", False), ("allow_pickle", True)}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "torchvision", "lightning"}


def findings(tree: ast.Module) -> Iterator[str]:
    """Forbidden constructs of a file, with their lines."""
    for node in ast.walk(tree):
        for what in _of(node):
            yield f"line {node.lineno}: {what}"


def _of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        yield "bare except"
    if isinstance(node, ast.Import):
        yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES)
    if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in FORBIDDEN_MODULES:
        yield f"from {node.module} import"
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in FORBIDDEN_NAMES | FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_METHODS:
            yield name
        if name == "torch.load" and not any(k.arg == "weights_only" for k in node.keywords):
            yield "torch.load without weights_only"
        for k in node.keywords:
            if isinstance(k.value, ast.Constant) and (k.arg, k.value.value) in FORBIDDEN_ARGUMENTS:
                yield f"{k.arg}={k.value.value}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_holds_nothing_that_runs_what_it_reads(path):
    assert list(findings(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')", "import pickle", "from pickle import loads", "os.system('ls')", "archive.extractall('x')", "yaml.load(text)",
        "subprocess.run('ls', shell=True)", "torch.load(path)", "torch.load(path, weights_only=False)", "numpy.load(path, allow_pickle=True)",
        "try:\n    pass\nexcept:\n    pass", "import torchvision.models",
    ],
)  # fmt: skip
def test_a_forbidden_line_is_found(line):
    assert list(findings(ast.parse(line)))
