"""Patch tokens of several layers, in 8 bits and projected, against timm, scikit-learn and arithmetic written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import zarr
from PIL import Image
from sklearn.decomposition import PCA

import featcache
from featcache.errors import ConfigurationError
from featcache.exchange import export, merge
from featcache.extraction import estimate, repair
from featcache.imaging import preset, to_tensor
from featcache.models import resolve_model
from featcache.records import Progress
from featcache.store import BASIS, FeatureStore, TokenForm, collect_garbage, read_basis, verify_store
from tests.conftest import WriteImages

MODEL = "timm:vit_tiny_patch16_224"
SIZE = 64
GRID, WIDTH = (4, 4), 192


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A ViT-Ti/16 with random numbers in every tensor, and its file."""
    torch.manual_seed(0)
    made = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    for parameter in made.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(made.state_dict(), path)
    return made, path


def extract(root: Path, network: tuple[Any, Path], **options: Any) -> FeatureStore:
    own = {"weights": network[1], "image_size": SIZE, "device": "cpu", "patches": True, **options}
    return featcache.open(featcache.extract(MODEL, "folder", root=root, **own).store)


def blocks_by_timm(network: Any, store: FeatureStore, root: Path, layers: int) -> np.ndarray[Any, Any]:
    """(n, layers, h, w, D) float32 of timm's own function, on a network of this size."""
    own = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=SIZE).eval()
    state = network.state_dict()
    with torch.no_grad():
        resized = timm.layers.resample_abs_pos_embed(state["pos_embed"], GRID, num_prefix_tokens=1)
    own.load_state_dict(state | {"pos_embed": resized})
    recipe = preset("model", resolve_model(MODEL), SIZE)
    paths = store.samples["path"]
    batch = torch.stack([to_tensor(np.asarray(Image.open(root / path)), (0, 255), recipe) for path in paths])
    with torch.no_grad():
        found = own.get_intermediate_layers(batch, n=layers, norm=True, reshape=True)
    return torch.stack([tokens.movedim(1, -1) for tokens in found], dim=1).numpy()


def test_tokens_of_several_layers_are_timms_normed_intermediate_layers(
    image_folder: WriteImages, network: tuple[Any, Path]
) -> None:
    root = image_folder(3)
    store = extract(root, network, layers=3)
    assert store["patches_l3"].shape == (18, 3, *GRID, WIDTH)
    expected = blocks_by_timm(network[0], store, root, 3)
    np.testing.assert_allclose(store["patches_l3"][:].astype(np.float32), expected, rtol=2e-3, atol=2e-3)
    assert zarr.open_group(store.path, mode="r")["patches_l3/tokens"].shape[1:] == (3, *GRID, WIDTH)
    one = extract(root, network)
    assert set(one.names) == {*store.names, "patches"}
    np.testing.assert_array_equal(one["patches"][:], one["patches_l3"][:, -1])
    assert verify_store(store.path) == []


def test_int8_tokens_are_within_half_a_step_of_the_exact_ones(
    image_folder: WriteImages, network: tuple[Any, Path]
) -> None:
    root = image_folder(4)
    extract(root, network, dtype="float32")
    store = extract(root, network, token_dtype="int8", dtype="float32")
    exact, found = store["patches"][:], store["patches_int8"][:]
    assert found.dtype == np.float32
    step = np.abs(exact).max(axis=-1, keepdims=True) / 127
    assert (np.abs(found - exact) <= 0.5 * step * (1 + 1e-5)).all()
    assert np.abs(found - exact).max() > 0.1 * step.min(), "nothing was rounded"
    group = zarr.open_group(store.path / "patches_int8", mode="r")
    assert (group["tokens"].dtype, group["scales"].dtype) == (np.int8, np.float32)
    assert group["scales"].shape[1:] == GRID
    np.testing.assert_array_equal(store["patches_int8"][[5, 2]], found[[5, 2]])
    half = extract(root, network, token_dtype="int8")
    assert half["patches_int8"].dtype == np.float16
    sizes = {
        name: sum(path.stat().st_size for path in (store.path / name).rglob("*") if path.is_file())
        for name in ("patches", "patches_int8")
    }
    assert sizes["patches_int8"] < 0.3 * sizes["patches"]


def test_projected_tokens_are_scikit_learns_principal_components(
    image_folder: WriteImages, network: tuple[Any, Path]
) -> None:
    root = image_folder(4)
    extract(root, network, layers=2, dtype="float32")
    store = extract(root, network, layers=2, token_pca=6, dtype="float32")
    exact, found = store["patches_l2"][:], store["patches_l2_pca6"][:]
    assert found.shape == (24, 2, *GRID, 6)
    for layer in range(2):
        tokens = exact[:, layer].reshape(-1, WIDTH)
        reference = PCA(6, svd_solver="full").fit(tokens.astype(np.float64))
        expected = reference.transform(tokens).reshape(24, *GRID, 6)
        signs = np.sign((expected * found[:, layer]).sum(axis=(0, 1, 2)))
        np.testing.assert_allclose(found[:, layer], expected * signs, atol=1e-3 * np.abs(expected).max())
    basis = read_basis(store.path / "patches_l2_pca6")
    assert basis.shape == (2, 7, WIDTH)
    for components in basis[:, 1:]:
        np.testing.assert_allclose(components @ components.T, np.eye(6), atol=1e-5)
        assert (np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_a_basis_stays_when_images_are_added_and_is_the_same_on_another_machine(
    image_folder: WriteImages, network: tuple[Any, Path], tmp_path: Path
) -> None:
    root = image_folder(4)
    store = extract(root, network, token_pca=5, token_dtype="int8")
    content = (store.path / "patches_pca5_int8" / BASIS).read_bytes()
    before = store["patches_pca5_int8"][:]
    elsewhere = extract(root, network, token_pca=5, token_dtype="int8", home=tmp_path / "other", batch_size=5)
    own = read_basis(elsewhere.path / "patches_pca5_int8")
    np.testing.assert_allclose(own, read_basis(store.path / "patches_pca5_int8"), atol=1e-4)
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (40, 40), np.uint8)).save(root / "test/dark/new.png")
    grown = extract(root, network, token_pca=5, token_dtype="int8")
    assert len(grown) == len(store) + 1
    assert (store.path / "patches_pca5_int8" / BASIS).read_bytes() == content
    old = grown.samples["path"] != "test/dark/new.png"
    np.testing.assert_array_equal(grown["patches_pca5_int8"][old.to_numpy()], before)
    assert verify_store(grown.path) == []


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    image_folder: WriteImages, network: tuple[Any, Path], tmp_path: Path
) -> None:
    root = image_folder(25)
    options: dict[str, Any] = {"layers": 2, "token_pca": 8, "token_dtype": "int8", "batch_size": 16}
    whole = extract(root, network, home=tmp_path / "whole", **options)

    def stop(progress: Progress) -> None:
        if progress.done >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(root, network, home=tmp_path / "cut", progress=stop, **options)
    resumed = extract(root, network, home=tmp_path / "cut", **options)
    assert verify_store(resumed.path) == []

    name = "patches_l2_pca8_int8"
    np.testing.assert_array_equal(read_basis(resumed.path / name), read_basis(whole.path / name))
    assert resumed.samples["id"].tolist() == whole.samples["id"].tolist()
    np.testing.assert_array_equal(resumed[name][:].view(np.uint16), whole[name][:].view(np.uint16))


def test_every_flipped_byte_of_coded_tokens_is_found_and_repaired(
    image_folder: WriteImages, network: tuple[Any, Path]
) -> None:
    root = image_folder(2)
    store = extract(root, network, token_pca=4, token_dtype="int8")
    before = store["patches_pca4_int8"][:]
    family = store.path / "patches_pca4_int8"
    for name in (BASIS, "scales/c/**/0", "tokens/c/**/0", "zarr.json", "segments/group.json"):
        file = max((path for path in family.glob(name) if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        assert verify_store(store.path), name
        assert repair(store.path, root=root, weights=network[1]) is not None
        assert verify_store(store.path) == [], name
        np.testing.assert_array_equal(featcache.open(store.path)["patches_pca4_int8"][:], before)


def test_gc_moves_the_rows_of_every_form(image_folder: WriteImages, network: tuple[Any, Path]) -> None:
    root = image_folder(30)
    store = extract(root, network, token_pca=4, token_dtype="int8")
    for path in sorted(root.rglob("*.png"))[:150]:
        path.unlink()
    kept = extract(root, network, token_pca=4, token_dtype="int8")
    expected = kept["patches_pca4_int8"][:]
    assert collect_garbage(store.path).dead_rows == 150
    assert verify_store(store.path) == []
    np.testing.assert_array_equal(featcache.open(store.path)["patches_pca4_int8"][:], expected)


def test_a_forecast_counts_the_bytes_of_a_form(image_folder: WriteImages, network: tuple[Any, Path]) -> None:
    root = image_folder(2)
    own = {"root": root, "weights": network[1], "image_size": SIZE, "device": "cpu", "patches": True}
    vectors = 2 * (192 + 3 * 192 + 192)
    (one,) = estimate([MODEL], "folder", **own)
    assert one.stored_bytes == 12 * (vectors + 2 * 16 * WIDTH)
    (several,) = estimate([MODEL], "folder", **own, layers=5, token_dtype="int8", token_pca=32)
    assert several.stored_bytes == 12 * (vectors + 5 * 16 * (32 + 4))


def test_an_export_holds_what_readers_see_and_a_merge_of_it_says_what_it_leaves(
    image_folder: WriteImages, network: tuple[Any, Path], tmp_path: Path
) -> None:
    store = extract(image_folder(2), network, token_dtype="int8")
    file = export(store, tmp_path / "out.h5", format="hdf5")
    np.testing.assert_array_equal(FeatureStore(file)["patches_int8"][:], store["patches_int8"][:])
    report = merge([FeatureStore(file)], into=tmp_path / "joined", dataset="copy")
    assert [text.split()[0] for text in report.left_out] == ["patches_int8"]
    np.testing.assert_array_equal(FeatureStore(report.store)["cls"][:], store["cls"][:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "0 layers"),
        ({"layers": 13}, "of 12 layer"),
        ({"token_pca": 193}, "have 192 numbers"),
        ({"token_pca": 0}, "0 principal components"),
        ({"token_dtype": "int4"}, "int4"),
        ({"layers": 2, "patches": False}, "none are asked for"),
        ({"token_dtype": "int8", "format": "hdf5"}, "HDF5"),
    ],
)
def test_what_cannot_be_kept_is_said_before_any_image_is_read(
    image_folder: WriteImages, network: tuple[Any, Path], options: dict[str, Any], message: str
) -> None:
    root = image_folder(1)

    def read(progress: Progress) -> None:
        raise AssertionError("an image was read")

    with pytest.raises(ConfigurationError, match=message):
        extract(root, network, progress=read, **options)


def test_a_network_without_blocks_has_one_layer(image_folder: WriteImages) -> None:
    with pytest.raises(ConfigurationError, match="of 1 layer"):
        featcache.extract(
            "efficientnet_lite0", "folder", root=image_folder(1), image_size=64, patches=True, layers=2, device="cpu"
        )


@pytest.mark.parametrize("form", [TokenForm(), TokenForm(5), TokenForm(2, 64), TokenForm(1, 8, "int8")])
def test_the_name_of_a_family_says_its_form(form: TokenForm) -> None:
    assert TokenForm.of_family(form.family) == form


@pytest.mark.parametrize("name", ["cls", "patch_mean", "patches_l1", "patches_l0", "patches_int8_pca4", "patchesx"])
def test_other_names_are_no_families(name: str) -> None:
    assert TokenForm.of_family(name) is None
