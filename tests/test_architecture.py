"""The house: imports point one way, heavy packages load late, names are exported on purpose."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featcache

LIBRARY = Path(featcache.__file__).parent
EVERYWHERE = {"errors", "label_columns", "records", "registry"}
ALLOWED = {
    "catalog": {"datasets", "models", "store"},
    "datasets": {"imaging"},
    "exchange": {"store"},
    "evaluation": {"store", "probes", "metrics", "results"},
    "extraction": {"datasets", "imaging", "models", "store"},
    "imaging": set(),
    "metrics": set(),
    "models": set(),
    "probes": {"metrics"},
    "reports": {"results"},
    "results": {"metrics"},
    "store": set(),
    "errors": set(),
    "label_columns": set(),
    "records": set(),
    "registry": set(),
}


def modules() -> list[tuple[str, str, Path]]:
    """(part, dotted name, file) of every module below a part of the library."""
    found = []
    for file in sorted(LIBRARY.rglob("*.py")):
        relative = file.relative_to(LIBRARY)
        if str(relative) != "__init__.py":
            found.append((relative.parts[0].removesuffix(".py"), str(relative), file))
    return found


def imported_parts(file: Path) -> set[str]:
    """The parts of featcache that a module names in an import, at any depth, or in a dotted loader name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ":" in node.value:
            names.add(node.value.split(":")[0])
    parts = {name.split(".")[1] for name in names if name.startswith("featcache.")}
    return {part for part in parts if (LIBRARY / part).is_dir() or (LIBRARY / f"{part}.py").is_file()}


@pytest.mark.parametrize(
    ("part", "name", "file"), modules(), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_imports_point_one_way(part: str, name: str, file: Path) -> None:
    forbidden = imported_parts(file) - ALLOWED[part] - EVERYWHERE - {part}
    assert not forbidden, f"{name} must not import {sorted(forbidden)}"


def test_no_module_of_the_library_imports_the_commands() -> None:
    for _, name, file in modules():
        assert "featcache_cli" not in file.read_text(encoding="utf-8"), name


def test_exports_are_sorted_and_exist() -> None:
    assert featcache.__all__ == sorted(featcache.__all__)
    assert set(featcache.__all__) == set(featcache._EXPORTS)
    for name in featcache.__all__:
        assert getattr(featcache, name) is not None


@pytest.mark.parametrize(
    "part", ["datasets", "imaging", "metrics", "models", "probes", "store", "reports", "extraction", "exchange"]
)
def test_exports_of_each_package_are_sorted_and_exist(part: str) -> None:
    package = __import__(f"featcache.{part}", fromlist=["__all__"])
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert hasattr(package, name), f"featcache.{part}.{name}"


def test_importing_the_library_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "timm", "faiss", "sklearn", "matplotlib", "pandas", "zarr")
    code = f"import sys, featcache; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
