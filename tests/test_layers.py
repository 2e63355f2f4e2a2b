"""Imports go downwards only; the heavy ones are not made at start-up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gitmerge_eval"
LAYERS = [
    {"records", "costs", "differences", "errors", "hyperparameters"},
    {"compiled"},
    {"methods", "statistics"},
    {"checkpoints", "benchmarks", "git"},
    {"use cases"},
    {"cli", "strategy", "driver", "filter", "hook", "differ", "theta_merges", "__main__"},
    {"bench"},
]
KNOWN = set().union(*LAYERS)
STANDARD_LIBRARY_ONLY = {"records", "costs", "differences", "errors", "hyperparameters"}
TORCH_ONLY = {"methods", "statistics"}
ARRAYS = ("methods", "_arrays.py")
"""The one module there that knows NumPy, too, and imports either when it meets an array of it."""


def room(module: str) -> str:
    """The room of gitmerge_eval that a dotted module name lies in."""
    name = module.split(".")[1] if "." in module else ""
    return name if name in KNOWN else "use cases"


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports(path: Path, *, for_typing: bool) -> list[str]:
    tree = ast.parse(path.read_text())
    skipped = set()
    if not for_typing:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                skipped |= {id(child) for body in node.body for child in ast.walk(body)}
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the import out in full"
            found.append(node.module or "")
            if node.module == "gitmerge_eval":
                found += [f"gitmerge_eval.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    own = room("gitmerge_eval." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    for target in imports(path, for_typing=False):
        if not target.startswith("gitmerge_eval."):
            continue
        if target.split(".")[1] == "__version__":
            continue
        assert level(room(target)) <= level(own), f"{path.name} imports {target}, which is above it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_party_imports_keep_to_their_room(path):
    parts = path.relative_to(PACKAGE).parts
    name = parts[0].removesuffix(".py")
    foreign = {
        target.split(".")[0]
        for target in imports(path, for_typing=False)
        if target.split(".")[0] not in sys.stdlib_module_names | {"gitmerge_eval", "__future__"}
    }
    if name in STANDARD_LIBRARY_ONLY:
        assert not foreign
    if name in TORCH_ONLY:
        assert foreign <= ({"torch", "numpy"} if parts == ARRAYS else {"torch"})
    if "git" in foreign:
        assert parts[0] == "git"
    if "git_theta" in foreign:
        assert parts in {("checkpoints", "theta.py"), ("theta_merges.py",)}
    if name in {"git", "benchmarks"}:
        reached = {
            t.split(".")[1]
            for t in imports(path, for_typing=False)
            if t.startswith("gitmerge_eval.")
        }
        assert "torch" not in foreign or name != "git"
        assert "git" not in reached or name != "benchmarks"


def test_kernels_of_any_arrays_import_no_library_before_they_meet_one():
    code = (
        "import sys, gitmerge_eval.statistics.trimmed; from gitmerge_eval import methods; "
        "methods.load(); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["cli", "strategy", "driver", "filter", "hook", "differ"])
def test_entry_points_start_without_torch(module):
    code = (
        f"import sys, gitmerge_eval.{module}; "
        "print([m for m in ('torch', 'git_theta', 'open_clip', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
