"""``my_model.py:build``: the documented example, run; what the key sees; what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import ConfigurationError, UnknownNameError
from featcache.models import load_model, locate_weights, resolve_model
from tests.conftest import WriteImages

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
EXAMPLE = re.search(r"```python\n(.*?def build.*?)```", DOCUMENT.read_text(), re.DOTALL)[1]  # type: ignore[index]
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
BODY = (
    "    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n    {}\n    return network\n"
)


def written(folder: Path, statement: str) -> str:
    (folder / "own.py").write_text("import torch\n\ndef build():\n" + BODY.format(statement))
    return f"{folder / 'own.py'}:build"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, torch.nn.Module]:
    """The file of the documentation, and its network, whose weights lie beside it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 16, 16), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    torch.save(network.state_dict(), "my_model.pth")
    Path("my_model.py").write_text(EXAMPLE)
    return "my_model.py:build", network.eval()


def test_the_documented_example_gives_its_networks_features(example: tuple[str, torch.nn.Module]) -> None:
    name, network = example
    encoder = load_model(name)
    assert (encoder.spec.name, encoder.spec.image_size, encoder.arrays) == (name, 64, {"cls": (8,)})
    with torch.inference_mode():
        torch.testing.assert_close(encoder.encode(PIXELS), {"cls": network(PIXELS)})


def test_it_is_extracted_like_any_other_and_reused(
    example: tuple[str, torch.nn.Module], image_folder: WriteImages
) -> None:
    name, network = example
    root = image_folder(2)
    first = featcache.extract(name, "folder", root=root, device="cpu")
    again = featcache.extract(name, "folder", root=root, device="cpu")
    assert (first.computed, again.computed, again.reused) == (12, 0, 12)
    assert np.asarray(featcache.open(first.store)["cls"]).shape == (12, 8)
    with torch.no_grad():
        network[0].weight += 1
    torch.save(network.state_dict(), "my_model.pth")
    other = featcache.extract(name, "folder", root=root, device="cpu")
    assert other.computed == 12
    assert other.store != first.store


def test_the_digest_knows_the_source_and_the_weights(example: tuple[str, torch.nn.Module]) -> None:
    name, network = example
    before = load_model(name).weights_digest
    assert load_model(name).weights_digest == before
    Path("my_model.py").write_text(EXAMPLE.replace("AdaptiveAvgPool2d", "AdaptiveMaxPool2d"))
    pooled = load_model(name).weights_digest
    with torch.no_grad():
        network[0].bias += 1
    torch.save(network.state_dict(), "my_model.pth")
    assert len({before, pooled, load_model(name).weights_digest}) == 3


def test_a_dictionary_gives_every_kind_of_feature(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    image_size, mean, resize = 64, (0.5, 0.4, 0.3), 'squash'\n"
        "    def forward(self, x):\n        grid = torch.nn.functional.avg_pool2d(x, 16).movedim(1, -1)\n"
        "        mean = grid.mean((1, 2))\n"
        "        return {'cls': mean, 'intermediate': mean[:, None], 'patch_mean': mean, 'patches': grid}\n"
    )
    encoder = load_model(f"{tmp_path / 'own.py'}:Net")
    assert (encoder.spec.mean, encoder.spec.resize) == ((0.5, 0.4, 0.3), "squash")
    assert encoder.arrays == {"cls": (3,), "intermediate": (1, 3), "patch_mean": (3,)}
    assert encoder.patches == (4, 4, 3)
    found = encoder.encode(PIXELS, patches=True)["patches"]
    torch.testing.assert_close(found[1, 2, 3], PIXELS[1, :, 32:48, 48:64].mean((1, 2)))
    with pytest.raises(ConfigurationError, match="last layer only"):
        encoder.encode(PIXELS, patches=True, layers=2)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("pass", "image_size is None, expected a number of pixels"),
        ("network.image_size = 6.5", r"image_size is 6\.5"),
        ("network.image_size, network.resize = 64, 'longest'", "resize is 'longest', expected shortest or squash"),
        ("network.image_size, network.mean = 64, 0.5", "mean is not three numbers"),
        ("network = 3", "returns int, expected torch.nn.Module"),
        ("raise OSError('no weights here')", "fails: OSError: no weights here"),
        ("network.append(torch.nn.Unflatten(1, (2, 2))); network.image_size = 64", r"fails on pixels \(1, 3, 64, 64\)"),
        (
            "network.pop(1); network.image_size = 64",
            r"^own\.py:build gives cls \(1, 3, 1, 1\), expected a tensor \(1, …\) of 2 axes",
        ),
        ("network.append(torch.nn.Linear(3, 2).double())", r"parameters in torch\.float64"),
        ("network.append(torch.nn.Linear(3, 2)); network.image_size = 64", "other weights each time"),
    ],
)
def test_what_breaks_the_protocol_is_told_before_any_image_is_read(
    tmp_path: Path, statement: str, message: str
) -> None:
    name = written(tmp_path, statement)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_model(name)
    assert caught.value.remedy


def test_files_and_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no Python file"):
        resolve_model(f"{tmp_path / 'nowhere.py'}:build")
    name = written(tmp_path, "network.image_size = 64")
    with pytest.raises(UnknownNameError, match="did you mean 'build'"):
        resolve_model(name.replace(":build", ":built"))
    with pytest.raises(ConfigurationError, match="loads its weights itself"):
        locate_weights(resolve_model(name), tmp_path / "own.py")
    (tmp_path / "own.py").write_text("1 / 0")
    with pytest.raises(ConfigurationError, match="cannot be run: ZeroDivisionError"):
        resolve_model(name)
