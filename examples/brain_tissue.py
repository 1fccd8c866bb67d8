"""Grey and white matter, and the lobes, from frozen patch tokens: a pretrained network against two controls.

python examples/brain_tissue.py

Two sets of axial slices of a template brain, which packages bring: no download. The same linear head (least squares, no
learning rate) reads a 20 x 20 grid of tokens of EfficientNet-Lite0 trained on ImageNet, of the same network with random
weights, and of the image itself, each token being its patch of pixels. Test slices lie at least 7 mm from the slices
that the heads learn from. Writes one picture a set.
"""

import argparse
from pathlib import Path

import torch

import featcache
from featcache.datasets import Dataset, load_dataset
from featcache.evaluation.segmentation import HeadSettings, SegmentationOutcome, segment
from featcache.extraction import write_masks
from featcache.imaging.pictures import picture_reader
from featcache.reports import draw_overlay, overlay_cases

PATCH = 32
FEATURES = {
    "efficientnet_lite0": "pretrained on ImageNet",
    "efficientnet_lite0_random": "same network, random weights",
    f"{Path(__file__).resolve()}:raw_patches": "raw pixels of the patch",
}


class RawPatches(torch.nn.Module):
    """The control without a network: a token is the grey image in its patch, at an eighth of its width."""

    image_size, patch, resize = 640, PATCH, "squash"

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        small = torch.nn.functional.avg_pool2d(pixels.mean(dim=1, keepdim=True), PATCH // 8)
        tokens = torch.nn.functional.pixel_unshuffle(small, 8).movedim(1, -1)
        return {"cls": tokens.mean(dim=(1, 2)), "patches": tokens}


def raw_patches() -> RawPatches:
    """What ``--model examples/brain_tissue.py:raw_patches`` makes."""
    return RawPatches()


def main() -> None:
    parser = argparse.ArgumentParser(description="Segment a template brain from frozen patch tokens.")
    parser.add_argument("--out", type=Path, default=Path("brain_pictures"), help="Folder of the pictures.")
    parser.add_argument("--step", type=int, default=2, help="Slices of a slab are so many mm apart, 1 to 4.")
    parser.add_argument("--image-size", type=int, default=640, help="Input of the encoders, a multiple of 32.")
    options = parser.parse_args()
    for name in ("brain_tissue", "brain_lobes"):
        dataset = load_dataset(name, step=options.step)
        write_masks(dataset)
        outcomes = {}
        for model in FEATURES:
            report = featcache.extract(
                model, dataset, preprocess="radiology-seg", image_size=options.image_size, patches=True
            )
            outcomes[model] = segment(report.store, HeadSettings(solver="ridge"), fresh=True)
        print_table(name, outcomes)
        draw(dataset, outcomes["efficientnet_lite0"], options.out / f"{name}.png")


def print_table(name: str, outcomes: dict[str, SegmentationOutcome]) -> None:
    """Dice of each class with its 95 % interval, a row a kind of features."""
    results = {model: outcome.result for model, outcome in outcomes.items()}
    first = next(iter(results.values()))
    print(
        f"{name}: Dice on {len(first.ids)} slabs, learnt from {first.config['n_train']} + {first.config['n_val']} "
        "slices [95 % CI over slabs]"
    )
    for model, result in results.items():
        run = result.runs[0]
        found = {"mean": run.metrics["dice"], **run.per_class["dice"]}
        shown = "  ".join(f"{label} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for label, one in found.items())
        print(f"  {FEATURES[model]:<28}  {shown}")
    print("\n".join(f"  note: {note}" for note in first.notes))


def draw(dataset: Dataset, outcome: SegmentationOutcome, path: Path) -> None:
    """Image, truth and prediction of the best, the median and the worst slab."""
    picture = picture_reader()
    samples = {dataset.samples["id"][row]: dataset.sample(row) for row in range(len(dataset.samples))}
    cases = overlay_cases(
        outcome.masks,
        outcome.predictions,
        outcome.scores.units,
        outcome.scores.values["dice"],
        image_of=lambda name: picture(samples[name].path, samples[name].selector),
    )
    draw_overlay(
        cases, path, class_names=outcome.masks.class_names, title=f"{dataset.name}, EfficientNet-Lite0, linear"
    )
    print(f"  picture: {path}")


if __name__ == "__main__":
    main()
