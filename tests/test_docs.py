"""The documents tell the truth: tables come from the registries, every command is documented, links exist.

``python -m tests.test_docs`` writes the tables of the README anew.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from featcache.datasets import DATASETS
from featcache.models import MODELS
from featcache_cli.main import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def models_table() -> str:
    lines = ["| name | what | width of `cls` | parameters | licence |", "|---|---|---|---|---|"]
    for row in MODELS:
        count = f"{row.parameters / 1e6:.1f} M" if row.parameters else "-"
        lines.append(f"| `{row.name}` | {row.summary} | {row.dim} | {count} | {row.licence} |")
    return "\n".join(lines)


def datasets_table() -> str:
    lines = ["| name | what | modality | tasks |", "|---|---|---|---|"]
    for row in DATASETS:
        lines.append(f"| `{row.name}` | {row.summary} | {row.modality} | {', '.join(row.task_types)} |")
    return "\n".join(lines)


TABLES = {"models": models_table, "datasets": datasets_table}


def section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_table_is_that_of_the_registry(name: str) -> None:
    found = section(name).search(README.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->", "run: python -m tests.test_docs"


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for name in cli.commands:
        assert f"featcache {name}" in text, name


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize(
    "document",
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/format.md", "docs/inputs.md", "docs/preprocessing.md"],
)
def test_files_that_documents_name_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:featcache|cli|tests|docs|examples|benchmarks)/[\w./]+)`", text))
    missing = [name for name in named if not (ROOT / name.rstrip("/")).exists()]
    assert not missing


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    extras = [name for extra in ("plots", "demo", "dev") for name in project["optional-dependencies"][extra]]
    wanted = {re.split(r"[\[<>=; ]", name)[0].lower() for name in [*project["dependencies"], *extras]}
    assert not wanted - pinned - {"featcache"}


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = section(name).sub(lambda found, table=table: f"{found[1]}{table()}\n{found[2]}", text)  # type: ignore[misc]
    README.write_text(text, encoding="utf-8")
