import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pytest_agentperf"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.read_text("utf-8").strip())
OF_EVERY_MODULE = pytest.mark.parametrize(
    "path", MODULES, ids=[str(p.relative_to(PACKAGE)) for p in MODULES]
)
HEAVY = ("httpx", "transformers", "jinja2", "ray", "numpy", "rich", "yaml")


def exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if [t.id for t in targets if isinstance(t, ast.Name)] == ["__all__"]:
                return ast.literal_eval(node.value)
    return []


def public(tree: ast.Module) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in tree.body if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_")}


@OF_EVERY_MODULE
def test_is_no_longer_than_400_lines(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= 400


@OF_EVERY_MODULE
def test_begins_with_its_subject(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@OF_EVERY_MODULE
def test_exports_every_public_name_in_order(path: Path):
    tree = ast.parse(path.read_text("utf-8"))
    names = exported(tree)
    assert names == sorted(names, key=lambda name: (not name.isupper(), name.islower(), name))
    # Hooks and fixtures are found by name and imported by nobody; main is started, not imported.
    assert path.name == "plugin.py" or public(tree) - {"main"} <= set(names)


def test_importing_the_plugin_loads_nothing_heavy():
    program = "import sys, pytest_agentperf.plugin; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert set(HEAVY) & set(done.stdout.split()) == set()
