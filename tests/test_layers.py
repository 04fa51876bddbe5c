"""Who may import whom, who may print, and how long a file or a function may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medldm"
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = {"errors", "optional", "types", "files", "machine", "parallel", "randomness", "volume", "cohort", "run", "tracking"}
SIDE_BY_SIDE = {"data", "models", "kernels", "operators", "metrics", "provenance"}
L2 = BASE | {"models", "operators"}
L3 = BASE | SIDE_BY_SIDE | {"diffusion"}
L4 = L3 | {"training", "privacy"}
MAY_IMPORT = {
    "__init__": set(),
    **dict.fromkeys(BASE | SIDE_BY_SIDE, BASE),
    "models": BASE | {"kernels"},
    "diffusion": L2,
    "training": L3,
    "privacy": L3,
    "report": L4,
    "commands": L4 | {"report"},
    "cli": BASE | {"explain"},
    "explain": set(),
    "__main__": {"cli"},
}
LONGEST_FILE, LONGEST_FUNCTION = 300, 60


def unit(path: Path) -> str:
    """The part of the package that a file belongs to: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def without_annotations(tree: ast.Module) -> ast.Module:
    """A file without what it imports for annotations only, under `if TYPE_CHECKING`."""
    return ast.Module([node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")], [])


def is_above(name: str) -> bool:
    """True for a module of medldm that is not at the bottom."""
    return name.startswith("medldm.") and name.split(".")[1] not in BASE


def violations(path: Path, tree: ast.Module) -> Iterator[str]:
    """What a file imports against the layers."""
    own = unit(path)
    trains = own == "training" or path.name.startswith("train_")
    allowed = {"pytorch_lightning": trains, "mlflow": own == "tracking", "torchvision": False, "lightning": False}
    for name in imports(tree):
        root, *rest = name.split(".")
        if root == "medldm" and rest and rest[0] not in MAY_IMPORT[own] | {own} - BASE:
            yield f"{own} imports {name}"
        if not allowed.get(root, True):
            yield f"{own} imports {name}"
    if path.name == "base.py" and own != "training":
        yield from (f"{own}/base.py imports {name}" for name in imports(without_annotations(tree)) if is_above(name))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_keeps_to_its_layer_and_its_length(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert list(violations(path, tree)) == []
    assert len(text.splitlines()) <= LONGEST_FILE
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > LONGEST_FUNCTION] == []
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert unit(path) in ("commands", "report", "cli") or not calls


def test_every_part_has_its_layer():
    assert {unit(path) for path in FILES} <= set(MAY_IMPORT)


def test_modules_do_not_import_each_other_in_a_circle():
    names = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    edges = {name: _modules(imports(ast.parse(path.read_text(encoding="utf-8"))), names) - {name} for name, path in names.items()}
    assert circle(edges) == {}


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a": {"b"}, "b": {"c"}, "c": {"b"}}


def circle(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph when everything that depends on nothing left is taken away, again and again."""
    while leaves := [name for name, targets in edges.items() if not targets]:
        edges = {name: targets - set(leaves) for name, targets in edges.items() if name not in leaves}
    return edges


def _modules(imported: Iterator[str], names: dict[str, Path]) -> set[str]:
    return {name if name in names else name.rpartition(".")[0] for name in imported} & set(names)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("errors.py", "from medldm.models.lean import LeanAutoencoder"),
        ("metrics/paired.py", "import medldm.data.phantom"),
        ("diffusion/process.py", "from medldm.training.fit import fit"),
        ("cli.py", "from medldm import commands"),
        ("models/lean.py", "import pytorch_lightning"),
        ("run.py", "from mlflow import MlflowClient"),
        ("commands/generate.py", "from pytorch_lightning import Trainer"),
        ("metrics/base.py", "from medldm.metrics.paired import psnr"),
    ],
)
def test_a_wrong_import_is_found(place, line):
    assert list(violations(PACKAGE / place, ast.parse(f"def f():\n    {line}")))
