"""Which images a run trains, validates and is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.paper import scenes, sources
from benchmarks.paper.data import LAYOUTS, DataError
from benchmarks.paper.sources import Source, Splits

from .test_data import make

CPU = torch.device("cpu")


def same(one, other) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("kind", sources.KINDS)
def test_generated_splits_differ_and_the_seed_decides_them(kind: str) -> None:
    splits = sources.load(Source(kind, 32, 16, 0), CPU)
    sources.load.cache_clear()
    again, other = (sources.load(Source(kind, 32, 16, seed), CPU) for seed in (0, 1))
    assert (len(splits.train), len(splits.validation)) == (16, sources.FEWEST_IMAGES)
    assert same(splits.train, again.train) and not same(splits.train, other.train)
    assert not torch.equal(splits.train.images[:8], splits.validation.images)
    assert not torch.equal(splits.validation.images, splits.tests["generated"].images[:8])


def test_transfer_trains_on_objects_and_tests_on_textures() -> None:
    salient, textures, transfer = (sources.load(Source(k, 32, 8, 0), CPU) for k in ("salient", "texture", "transfer"))
    assert same(transfer.train, salient.train)
    assert same(transfer.validation, textures.validation)
    assert same(transfer.tests["generated"], textures.tests["generated"])


def test_noise_changes_training_labels_alone() -> None:
    clean, noisy = (sources.load(Source("salient", 32, 8, 0, noise), CPU) for noise in (0.0, 0.5))
    changed = (clean.train.labels != noisy.train.labels).flatten(1).any(1)
    assert changed.sum() == 4 and torch.equal(clean.train.images, noisy.train.images)
    assert same(clean.validation, noisy.validation) and same(clean.tests["generated"], noisy.tests["generated"])


def test_two_textures_have_ids_that_say_nothing() -> None:
    data = scenes.texture_scenes(64, 32, "train", 0)
    assert data.labels.unique().tolist() == [0, 1]
    corners = data.labels[:, 0, 0].float().mean()  # blobs seldom reach a corner: half of the backgrounds are region 1
    assert 0.3 < corners < 0.7
    with pytest.raises(ValueError, match="size must be at least 32"):
        scenes.texture_scenes(1, 16, "train", 0)


def read(root: Path, kind: str, *names: str) -> Splits:
    for name in names:
        if not (root / LAYOUTS[name].images).exists():
            make(root, LAYOUTS[name])
    return sources.load(Source(kind, 32, 0, 0, data=str(root)), CPU)


def test_msra_b_trains_and_all_sets_that_are_there_test(tmp_path: Path) -> None:
    splits = read(tmp_path, "salient", "MSRA-B", "ECSSD")
    assert list(splits.tests) == ["MSRA-B", "ECSSD"] and len(splits.tests["ECSSD"]) == 3
    assert [len(part) for part in (splits.train, splits.validation, splits.tests["MSRA-B"])] == [1, 1, 1]
    firsts = {int(part.images[0].sum()) for part in (splits.train, splits.validation, splits.tests["MSRA-B"])}
    assert len(firsts) == 3  # three different images


@pytest.mark.parametrize(("kind", "train", "test"), [
    ("voronoi", "VOC2012-train", "VOC2012-val"), ("texture", "texture-train", "texture-test"),
])  # fmt: skip
def test_other_sets_have_lists_of_their_own(kind: str, train: str, test: str, tmp_path: Path) -> None:
    make(tmp_path, LAYOUTS[train])
    names = (tmp_path / LAYOUTS[train].names).read_text().splitlines()
    (tmp_path / LAYOUTS[test].names).write_text(names[0])
    splits = read(tmp_path, kind)
    assert [len(splits.train), len(splits.validation)] == [2, 1]
    assert list(splits.tests) == [test] and len(splits.tests[test]) == 1


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MSRA-B: no such folder"):
        sources.load(Source("salient", 32, 0, 0, data=str(tmp_path)), CPU)
    with pytest.raises(ValueError, match="kind must be one of"):
        sources.load(Source("pictures", 32, 8, 0), CPU)
