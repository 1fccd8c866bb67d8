"""How long the tables of large datasets take: trees of the published size, with empty files, in a temporary folder.

    python benchmarks/datasets.py                # about a minute, most of it making 112,120 files

The peer for `nih` is the recipe that most notebooks share: glob the images, map their names, one lambda a label, the
lists with isin. It makes no checks. Each takes its turn in each repeat; medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from featcache.datasets import check_dataset, load_dataset
from featcache.datasets.chexpert import COMPETITION, OBSERVATIONS
from featcache.datasets.nih import FINDINGS


def make_nih(root: Path, images: int = 112_120) -> None:
    """The published tree: 12 folders, the label table, the two lists; the images are empty files."""
    rng = np.random.default_rng(0)
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"]
    names: list[str] = []
    for number in range(12):
        (root / f"images_{number + 1:03}" / "images").mkdir(parents=True)
    patient = 0
    while len(names) < images:
        patient += 1
        for follow_up in range(min(int(rng.integers(1, 8)), images - len(names))):
            name = f"{patient:08}_{follow_up:03}.png"
            some = rng.choice(FINDINGS, rng.integers(1, 4), replace=False)
            label = "No Finding" if rng.random() < 0.54 else "|".join(sorted(some))
            lines.append(f"{name},{label},{follow_up},{patient},{rng.integers(1, 90)},M,PA,")
            (root / f"images_{1 + len(names) * 12 // images:03}" / "images" / name).touch()
            names.append(name)
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines))
    learn = images - 25_596 * images // 112_120
    (root / "train_val_list.txt").write_text("\n".join(names[:learn]))
    (root / "test_list.txt").write_text("\n".join(names[learn:]))


def notebook_recipe(root: Path) -> pd.DataFrame:
    """What people write: no checks, no facts beside labels and split."""
    frame = pd.read_csv(root / "Data_Entry_2017.csv")
    paths = {path.name: str(path) for path in root.glob("images*/*/*.png")}
    frame["path"] = frame["Image Index"].map(paths.get)
    for finding in FINDINGS:
        frame[finding] = frame["Finding Labels"].map(lambda text, name=finding: 1 if name in text else 0)
    learn = (root / "train_val_list.txt").read_text().splitlines()
    frame["split"] = np.where(frame["Image Index"].isin(learn), "train", "test")
    return frame


def make_chexpert(root: Path, rows: int = 223_414) -> None:
    """The training table, and only its first image: the loader looks at a few."""
    rng = np.random.default_rng(0)
    cells = rng.choice(["1.0", "0.0", "-1.0", "", "", ""], (rows, len(OBSERVATIONS)))
    lines = [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(OBSERVATIONS)}"]
    for row in range(rows):
        view = "frontal" if row % 7 else "lateral"
        path = f"CheXpert-v1.0-small/train/patient{row // 3:05}/study1/view{row % 3}_{view}.jpg"
        lines.append(f"{path},Female,68,{view.capitalize()},AP,{','.join(cells[row])}")
    first = root / lines[1].split(",", 1)[0]
    first.parent.mkdir(parents=True)
    first.touch()
    (root / "CheXpert-v1.0-small" / "train.csv").write_text("\n".join(lines))


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    """Make the trees, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        nih, chexpert = Path(folder) / "nih", Path(folder) / "chexpert"
        make_nih(nih)
        make_chexpert(chexpert)
        contestants: dict[str, Callable[[], object]] = {
            "nih, notebook recipe": lambda: notebook_recipe(nih),
            "nih, load_dataset": lambda: load_dataset("nih", root=nih),
            "nih, check_dataset": lambda: check_dataset("nih", nih),
            f"chexpert ({len(COMPETITION)} labels), load_dataset": lambda: load_dataset("chexpert", root=chexpert),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(repeats):
            for name, contestant in contestants.items():
                seconds[name].append(timed(contestant))
    for name, taken in seconds.items():
        print(f"{name:42} {statistics.median(taken):6.2f} s")
    peer, ours = (statistics.median(seconds[name]) for name in list(contestants)[:2])
    print(f"notebook recipe / load_dataset: {peer / ours:.2f}")


if __name__ == "__main__":
    main()
