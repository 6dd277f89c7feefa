"""What holds for the house as a whole. Layers and purity are import-linter's, and run with `make test`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for path in (ROOT / "daemon" / "rekeyd").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
TESTS = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
LONGEST_FUNCTION = 40


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "daemon" / "rekeyd"))


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "bench").glob("*.py")), ids=lambda path: path.name)
def test_every_benchmark_finds_what_it_needs(path: Path) -> None:
    command = [sys.executable, "-c", f"import bench.{path.stem}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "tests")
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_its_mirror(path: Path) -> None:
    mirrors = {f"test_{path.stem}", f"test_{path.parent.name}_{path.stem}"}
    assert mirrors & TESTS, f"write tests/test_{path.stem}.py"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_owns_and_is_of_a_size_to_read(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"
