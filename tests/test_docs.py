"""The documents tell the truth: tables come from the registries, every command is documented, links exist.

``python -m tests.test_docs`` writes the tables of the README anew.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from featcache.datasets import DATASETS
from featcache.models import MODELS, ModelSpec
from featcache_cli.main import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def models_table() -> str:
    """One line a family: rows of one citation and licence."""
    lines = ["| names | width of `cls` | parameters | GFLOPs an image | licence |", "|---|---|---|---|---|"]
    for (_, licence), rows in itertools.groupby(MODELS, key=lambda row: (row.citation, row.licence)):
        family = list(rows)
        names = ", ".join(f"`{row.name}`" for row in family)
        gated = ", gated" if family[0].gated else ""
        widths = _range([f"{row.dim}" for row in sorted(family, key=lambda row: row.dim or 0)])
        parameters, flops = zip(*map(_costs, sorted(family, key=lambda row: row.parameters or 0)), strict=True)
        cells = [widths, _range(parameters), _range(flops)]
        lines.append(f"| {names} | {' | '.join(cells)} | {licence}{gated} |")
    return "\n".join(lines)


def all_models_table() -> str:
    lines = [
        "| name | what | weights | source | `cls` | patch | size | parameters | GFLOPs | licence |",
        "|---" * 10 + "|",
    ]
    for row in MODELS:
        facts = (row.source, row.dim, row.patch or "-", row.image_size, *_costs(row))
        licence = f"{row.licence}{', gated' if row.gated else ''}"
        checkpoint = f"`{row.checkpoint}`" if row.checkpoint else "-"
        lines.append(
            f"| `{row.name}` | {row.summary} | {checkpoint} | {' | '.join(str(fact) for fact in facts)} | {licence} |"
        )
    return "\n".join(lines)


def _range(cells: Sequence[str]) -> str:
    return cells[0] if cells[0] == cells[-1] else f"{cells[0]} to {cells[-1]}"


def _costs(row: ModelSpec) -> tuple[str, str]:
    """Parameters in millions, operations in billions."""
    return f"{(row.parameters or 0) / 1e6:.1f} M", f"{(row.flops or 0) / 1e9:.1f}"


def datasets_table() -> str:
    lines = ["| name | what | modality | tasks |", "|---|---|---|---|"]
    for row in DATASETS:
        lines.append(f"| `{row.name}` | {row.summary} | {row.modality} | {', '.join(row.task_types)} |")
    return "\n".join(lines)


TABLES = {
    (README, "models"): models_table,
    (README, "datasets"): datasets_table,
    (ROOT / "docs" / "models.md", "models"): all_models_table,
}


def section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)


@pytest.mark.parametrize(("document", "name"), TABLES, ids=lambda value: getattr(value, "name", value))
def test_a_table_is_that_of_the_registry(document: Path, name: str) -> None:
    found = section(name).search(document.read_text(encoding="utf-8"))
    assert found is not None
    table = TABLES[document, name]()
    assert found[0] == f"<!-- {name} -->\n{table}\n<!-- /{name} -->", "run: python -m tests.test_docs"


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for name in cli.commands:
        assert f"featcache {name}" in text, name


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/format.md",
        "docs/inputs.md",
        "docs/pipeline.md",
        "docs/scaling.md",
        "docs/models.md",
        "docs/preprocessing.md",
    ],
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
    for (document, name), table in TABLES.items():
        text = document.read_text(encoding="utf-8")
        replaced = section(name).sub(lambda found, table=table: f"{found[1]}{table()}\n{found[2]}", text)  # type: ignore[misc]
        document.write_text(replaced, encoding="utf-8")
