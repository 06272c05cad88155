"""The demo: scores, channel selection, label noise, reading of folders, and a short run end to end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
for name in ("matplotlib", "skimage", "tqdm"):
    pytest.importorskip(name)

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last, so that an installed cas_ext comes before the sources

from examples.demo import __main__ as demo  # noqa: E402
from examples.demo import losses, metrics, textures  # noqa: E402
from examples.demo.data import DemoError, choose_swapped, swap_labels  # noqa: E402
from examples.demo.folder import folder_data, load_pair  # noqa: E402
from examples.demo.network import SmallFCN  # noqa: E402

PAIRS = 12  # pictures in the folders made here: 8 to train, 1 to validate, 3 to test
SIZE = 40  # pixels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders: noisy squares on grey as jpg, bmp or png images, and their masks as png."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for index in range(PAIRS):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        top, left = rng.integers(2, SIZE // 2, 2)
        mask[top : top + 16, left : left + 16] = 255
        pixels = np.where(mask[:, :, None] > 0, rng.integers(0, 256, (SIZE, SIZE, 3)), 128).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"scene{index}.{['jpg', 'bmp', 'png'][index % 3]}")
        Image.fromarray(mask).save(masks / f"scene{index}.png")
    (images / "notes.txt").write_text("not a picture")
    return images, masks


# Scores


def test_f_beta_of_a_hand_computed_case() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]], [[1, 1, 1, 1]], [[1, 0, 0, 0]]], dtype=torch.bool)
    predicted = torch.tensor([[[1, 0, 1, 0]], [[1, 1, 1, 0]], [[0, 1, 0, 0]]], dtype=torch.bool)
    # Precision and recall: 1/2 and 1/2; 1 and 3/4; 0 and 0.
    expected = torch.tensor([0.5, 1.3 * 0.75 / (0.3 + 0.75), 0.0], dtype=torch.float64)
    torch.testing.assert_close(metrics.f_beta(predicted, masks), expected)


def test_f_beta_of_an_empty_prediction_or_mask_is_zero() -> None:
    empty, full = torch.zeros(1, 2, 2, dtype=torch.bool), torch.ones(1, 2, 2, dtype=torch.bool)
    assert metrics.f_beta(empty, full).item() == 0
    assert metrics.f_beta(full, empty).item() == 0
    assert metrics.f_beta(empty, empty).item() == 0


def test_best_f_beta_finds_a_threshold_the_adaptive_one_misses() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]]], dtype=torch.bool)
    saliency = torch.tensor([[[0.62, 0.62, 0.58, 0.58]]])
    result = metrics.score(saliency, masks)
    assert result.f_beta == 0
    assert result.best_f_beta == pytest.approx(1)


def test_scores_average_over_images() -> None:
    masks = torch.tensor([[[1, 0]], [[1, 0]]], dtype=torch.bool)
    result = metrics.score(torch.tensor([[[1.0, 0.25]], [[0.0, 1.0]]]), masks)
    assert result.mae == pytest.approx((0 + 0.25 + 1 + 1) / 4)
    assert result.per_image.tolist() == [1, 0]
    assert result.f_beta == pytest.approx(0.5)


# Label noise


def test_noise_swaps_both_labels_of_the_chosen_images_and_no_others() -> None:
    masks = torch.rand(10, 5, 5) > 0.7
    swapped = choose_swapped(10, 0.5, seed=3)
    labels = swap_labels(masks, swapped)
    assert swapped.sum() == 5
    assert torch.equal(labels[swapped], ~masks[swapped])
    assert torch.equal(labels[~swapped], masks[~swapped])


@pytest.mark.parametrize(("noise", "count"), [(0, 0), (0.25, 2), (1, 8)])
def test_noise_is_the_share_of_swapped_images(noise: float, count: int) -> None:
    assert choose_swapped(8, noise, seed=0).sum() == count


def test_noise_is_decided_by_the_seed() -> None:
    assert torch.equal(choose_swapped(100, 0.5, seed=1), choose_swapped(100, 0.5, seed=1))
    assert not torch.equal(choose_swapped(100, 0.5, seed=1), choose_swapped(100, 0.5, seed=2))


def test_noise_reaches_training_labels_only(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, scored, selected = [], [], []
    clean = folder_data(*folders, 32, 0)
    train, score, select = demo.train, demo.score, demo.select_channel
    monkeypatch.setattr(demo, "train", lambda *a: taught.append(a[3]) or train(*a))
    monkeypatch.setattr(demo, "score", lambda *a: scored.append(a[1]) or score(*a))
    monkeypatch.setattr(demo, "select_channel", lambda *a: selected.append(a[1]) or select(*a))
    assert demo.main([*arguments(*folders, tmp_path), "--noise", "1"]) == 0
    assert len(taught) == len(scored) == len(selected) == 3
    for labels, test_masks, validation_masks in zip(taught, scored, selected, strict=True):
        assert torch.equal(labels, ~clean.train.masks)
        assert torch.equal(test_masks, clean.test.masks)
        assert torch.equal(validation_masks, clean.validation.masks)


# Losses, network and textures


@pytest.mark.parametrize(("name", "agnostic"), [("cross entropy", 0), ("class-agnostic CE", 1), ("CASLoss", 1)])
def test_only_cross_entropy_minds_swapped_labels(name: str, agnostic: int) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 2, 8, 8), torch.rand(4, 8, 8) > 0.7
    loss = losses.all_losses()[name]
    value, other = loss(logits, labels), loss(logits, swap_labels(labels, torch.tensor([1, 0, 0, 1]).bool()))
    assert value.shape == ()
    assert torch.allclose(value, other, atol=1e-6) == bool(agnostic)


def test_network_keeps_the_size_and_ignores_brightness_and_contrast() -> None:
    torch.manual_seed(0)
    network = SmallFCN(1).eval()
    image = torch.randint(0, 100, (1, 1, 34, 48), dtype=torch.uint8)
    logits = network(image)
    assert logits.shape == (1, 2, 34, 48)
    assert (logits - network(2 * image + 20)).abs().max() < 0.1 * logits.std()


def test_textures_are_fixed_by_the_seed_and_splits_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "COUNTS", {"train": 3, "validation": 2, "test": 2})
    data, again, other = (textures.texture_data(48, seed) for seed in (0, 0, 1))
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 2, 2)
    assert torch.equal(data.train.images, again.train.images)
    assert not torch.equal(data.train.images, other.train.images)
    assert not torch.equal(data.validation.images, data.test.images)
    low, high = textures.AREA
    assert all(low <= mask.float().mean() <= high for split in (data.train, data.test) for mask in split.masks)


def test_texture_splits_share_no_part_of_the_photographs() -> None:
    columns = [set(range(512)[strip]) for strip in textures.STRIPS.values()]
    assert sum(len(part) for part in columns) == len(set.union(*columns))


# Folders of the user


def arguments(images: Path, masks: Path, out: Path) -> list[str]:
    """A run of a few steps on the CPU."""
    fixed = ["--steps", "2", "--size", "32", "--device", "cpu"]
    return ["--images", str(images), "--masks", str(masks), "--out", str(out), *fixed]


def failure(folders: tuple[Path, Path], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the demo, which has to fail with status 2, one line on stderr and no picture; returns the line."""
    assert demo.main(arguments(*folders, out)) == 2
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not (out / "demo.png").exists()
    return lines[0]


def test_missing_mask_is_named(folders, tmp_path, capsys) -> None:
    (folders[1] / "scene4.png").unlink()
    line = failure(folders, tmp_path, capsys)
    assert str(folders[0] / "scene4.bmp") in line and "no mask" in line


def test_size_mismatch_names_the_file_and_both_sizes(folders, tmp_path, capsys) -> None:
    Image.new("L", (30, 20)).save(folders[1] / "scene4.png")
    line = failure(folders, tmp_path, capsys)
    assert str(folders[1] / "scene4.png") in line and "30 x 20" in line and f"{SIZE} x {SIZE}" in line


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: b"no picture", lambda raw: raw[: len(raw) // 2]])
def test_unreadable_file_is_named(folders, tmp_path, capsys, damage) -> None:
    path = folders[0] / "scene2.png"
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path}: cannot be read" in failure(folders, tmp_path, capsys)


def test_too_few_images_are_counted(folders, tmp_path, capsys) -> None:
    for index in range(9):
        next(folders[0].glob(f"scene{index}.*")).unlink()
    assert f"{folders[0]}: {PAIRS - 9} images are too few" in failure(folders, tmp_path, capsys)


def test_folder_without_pictures_is_named(folders, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no picture files" in failure((tmp_path / "empty", folders[1]), tmp_path, capsys)
    assert f"{tmp_path / 'none'}: no such folder" in failure((folders[0], tmp_path / "none"), tmp_path, capsys)


def test_masks_without_any_object_are_refused(folders, tmp_path, capsys) -> None:
    for path in folders[1].iterdir():
        Image.new("L", (SIZE, SIZE), 1).save(path)
    assert "no mask has a pixel above half of its range" in failure(folders, tmp_path, capsys)


def test_two_images_of_one_stem_are_refused(folders) -> None:
    Image.new("RGB", (SIZE, SIZE)).save(folders[0] / "scene1.tif")
    with pytest.raises(DemoError, match=r"same stem as scene1\.bmp"):
        folder_data(*folders, 32, 0)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[127, 128]], np.uint8), [False, True]),
        (np.array([[32767, 32768]], np.uint16), [False, True]),
        (np.array([[0, 1]], bool), [False, True]),
        (np.array([[[127] * 3, [128] * 3]], np.uint8), [False, True]),
    ],
    ids=["8 bits", "16 bits", "1 bit", "RGB"],
)
def test_masks_are_white_above_half_of_their_range(tmp_path, array, expected) -> None:
    tall = np.repeat(np.repeat(array, 32, 0), 16, 1)  # 32 x 32: nothing is left to resize
    Image.fromarray(tall).save(tmp_path / "mask.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    _, mask = load_pair(tmp_path / "image.png", tmp_path / "mask.png", 32)
    assert mask[:, [0, 31]].all(0).tolist() == expected and mask.any(0).tolist() == [False] * 16 + [True] * 16


@pytest.mark.parametrize(
    "wrong",
    [["--noise", "1.5"], ["--steps", "0"], ["--size", "33"], ["--seed", "-1"], ["--images", "somewhere"]],
    ids=lambda options: options[0],
)
def test_wrong_options_exit_with_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(wrong)
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_auto_device_falls_back_to_the_cpu_and_says_why(monkeypatch, capsys) -> None:
    def no_kernel(*_: object, **__: object) -> None:
        raise RuntimeError("no CUDA kernels in this build\nand more lines")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "full", lambda *_, **__: torch.zeros(1, 2, 1))
    monkeypatch.setattr(torch, "zeros", lambda *_, zeros=torch.zeros, **__: zeros(1, 1))
    monkeypatch.setattr(demo.cas_ext, "cas_loss", no_kernel)
    assert demo.choose_device("auto") == torch.device("cpu")
    assert "no CUDA kernels in this build\n" in capsys.readouterr().out
    with pytest.raises(DemoError, match=r"--device cuda cannot be used: no CUDA kernels in this build$"):
        demo.choose_device("cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_run_on_a_gpu(folders, tmp_path, capsys) -> None:
    assert demo.main([*arguments(*folders, tmp_path), "--device", "cuda"]) == 0
    assert torch.cuda.get_device_name() in capsys.readouterr().out
    assert (tmp_path / "demo.png").is_file()


def test_interrupt_ends_cleanly(folders, tmp_path, capsys, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "train", interrupted)
    assert demo.main(arguments(*folders, tmp_path)) == 130
    assert "interrupted" in capsys.readouterr().err


def test_run_on_a_folder_writes_the_table_and_the_picture(folders, tmp_path, capsys) -> None:
    assert demo.main(arguments(*folders, tmp_path / "new" / "folder")) == 0
    printed = capsys.readouterr().out
    assert "in 4 of the 8 training images" in printed
    assert all(f"\n{name} " in printed for name in losses.all_losses())
    with Image.open(tmp_path / "new" / "folder" / "demo.png") as picture:
        picture.load()
        assert picture.width > 800 and picture.height > 500
