"""docs/datasets.md: its table is the registry's, its examples run.

``python -m tests.datasets.test_documentation`` writes the table anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from featcache.datasets import DATASETS, load_dataset
from tests.datasets.miniatures.files import write_lines, write_png

DOCUMENT = Path(__file__).parents[2] / "docs" / "datasets.md"
SECTION = re.compile(r"(<!-- datasets -->\n).*?(<!-- /datasets -->)", re.DOTALL)


def table() -> str:
    lines = ["| name | data | files below the root | from | licence |", "|---|---|---|---|---|"]
    for row in DATASETS:
        layout = row.layout.replace("|", "\\|")
        lines.append(f"| `{row.name}` | {row.summary} | {layout} | {row.source or 'you'} | {row.licence} |")
    return "\n".join(lines)


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return next(text for text in blocks if containing in text)


def test_the_table_is_that_of_the_registry() -> None:
    found = SECTION.search(DOCUMENT.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == f"<!-- datasets -->\n{table()}\n<!-- /datasets -->", (
        "run: python -m tests.datasets.test_documentation"
    )


@pytest.mark.parametrize("name", [row.name for row in DATASETS])
def test_every_option_that_the_document_names_exists(name: str) -> None:
    import inspect

    from featcache.registry import load_dotted

    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line.split("|") for line in text[text.index("## Options") : text.index("## Splits")].splitlines()]
    known = {*inspect.signature(load_dotted(DATASETS[name].loader)).parameters}
    for _, datasets, options, *_ in (row for row in rows if len(row) > 4):
        if f"`{name}`" in datasets:
            assert set(re.findall(r"`(\w+)`", options)) <= known


def test_the_manifest_of_the_document_works(tmp_path: Path) -> None:
    (tmp_path / "my_set.toml").write_text(block("toml", "[dataset]"))
    lines = ["file,mrn,fold,age,sex,finding"]
    for number, finding in enumerate(("none", "mild", "severe", "none")):
        write_png(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number}.png,p{number},{'train' if number < 2 else 'test'},50,F,{finding}")
    write_lines(tmp_path / "labels.csv", lines)
    dataset = load_dataset(str(tmp_path / "my_set.toml"))
    assert dataset.tasks[0].classes == ("none", "mild", "severe")
    assert len(dataset.samples) == 4


def test_the_python_file_of_the_document_works(tmp_path: Path) -> None:
    (tmp_path / "my_data.py").write_text(block("python", "def my_set"))
    for number in range(10):
        write_png(tmp_path / "images" / f"p{number:03}_{('sick', 'well')[number % 2]}.png")
    samples = load_dataset(f"{tmp_path / 'my_data.py'}:my_set", root=tmp_path / "images").samples
    assert samples["split"].value_counts().to_dict() == {"train": 8, "test": 2}
    assert samples["label"].value_counts().to_dict() == {"sick": 5, "well": 5}


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(SECTION.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", text), encoding="utf-8")
