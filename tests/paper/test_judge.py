"""How networks are judged: nothing is chosen on test images, and what is chosen is the best of what was tried."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.paper import judge, region_scores, sources
from benchmarks.paper.data import Labelled
from benchmarks.paper.judge import Decoder
from benchmarks.paper.losses import IGNORED
from benchmarks.paper.sources import Source, Splits

CPU = torch.device("cpu")


def voronoi(count: int = 6) -> Splits:
    splits = sources.load(Source("voronoi", 32, 8, 0), CPU)
    return Splits(splits.train, splits.validation.take(torch.arange(count)), splits.tests)


class Oracle(nn.Module):
    """Puts out one-hot codes of the true labels: sharp, or with two labels under one code."""

    def __init__(self, splits: Splits, sharing: bool = False, scale: float = 10.0) -> None:
        super().__init__()
        (test,) = splits.tests.values()
        self.known = [splits.train, splits.validation, test]
        self.sharing, self.scale = sharing, scale

    def labels(self, images: Tensor) -> Tensor:
        found = []
        for image in images:
            for part in self.known:
                equal = (part.images == image).flatten(1).all(1)
                if equal.any():
                    found.append(part.labels[equal.nonzero()[0, 0]])
                    break
        return torch.stack(found).long()

    def forward(self, images: Tensor) -> Tensor:
        labels = self.labels(images)
        if self.sharing:
            labels = labels % 2
        return self.scale * nn.functional.one_hot(labels, 8).movedim(-1, 1).float()


def test_perfect_codes_have_perfect_scores() -> None:
    splits = voronoi()
    judged = judge.JUDGES["every region size"](Oracle(splits), "cace", splits)
    assert judged.scores["ods"]["covering"] == pytest.approx(judged.scores["at"]["covering"])
    at = judged.scores["at"]
    assert at["covering"] > 0.999 and at["rand"] == pytest.approx(1) and at["information"] == pytest.approx(0, abs=1e-9)
    assert at["precision"] == pytest.approx(1) and at["contour"] == pytest.approx(1)
    assert judged.scores["decoder"]["kind"] == "codes" and judged.scores["usage"]["shared"] == 0
    assert judged.pictures.shape == (judge.PICTURES, 32, 32)


def test_shared_codes_are_seen() -> None:
    splits = voronoi()
    usage = judge.judge_regions(Oracle(splits, sharing=True), "cace", splits).scores["usage"]
    assert usage["codes"] <= 2 < 3 <= usage["regions"] and usage["shared"] > 0.5


@pytest.mark.parametrize("loss", ["discriminative", "triplet"])
def test_embeddings_are_clustered_by_every_kind(loss: str) -> None:
    splits = voronoi(3)
    scores = judge.judge_regions(Oracle(splits), loss, splits).scores
    assert set(scores["decoders"]) == set(judge.CLUSTERINGS) and scores["usage"] == {}
    assert scores["at"]["covering"] > 0.99
    assert scores["at"] == scores["decoders"][scores["decoder"]["kind"]]["at"] and "ods" not in scores


def test_a_direction_counts_by_its_direction_alone() -> None:
    splits = voronoi(2)
    short, long = (judge.descriptors(Oracle(splits, scale=s), "triplet", splits.validation.images) for s in (1.0, 50.0))
    torch.testing.assert_close(short, long)
    torch.testing.assert_close(long.norm(dim=1), torch.ones(2, 32, 32))


def noisy_codes(size: int = 48) -> tuple[Tensor, np.ndarray]:
    """Two halves, with specks of up to 4 pixels in the codes."""
    truth = np.zeros((1, size, size), np.int64)
    truth[:, :, size // 2 :] = 1
    codes = torch.from_numpy(truth.copy())
    for y, x in ((5, 5), (20, 9), (9, 30), (30, 40), (40, 12)):
        codes[0, y : y + 2, x : x + 2] ^= 1
    return nn.functional.one_hot(codes, 2).movedim(-1, 1).float(), truth


def test_the_smallest_region_is_chosen_where_it_covers_best() -> None:
    found, truth = noisy_codes()
    ((covering, decoder),) = judge.best_decoders(found, truth, codes=True)
    sizes = judge.smallest_regions(48 * 48)
    assert sizes[1] <= 4 < sizes[2] and decoder == Decoder("codes", 0.0, sizes[2])  # the first that removes the specks
    assert covering == 1


def test_smallest_regions_grow_with_the_image() -> None:
    assert judge.smallest_regions(64 * 64) == list(judge.MIN_PIXELS)
    assert judge.smallest_regions(128 * 128) == [4 * least for least in judge.MIN_PIXELS]
    assert min(judge.smallest_regions(8 * 8)) == 1


def test_ods_is_the_best_setting_and_at_the_chosen_one() -> None:
    found, truth = noisy_codes()
    wrong = Decoder("codes", 0.0, judge.smallest_regions(48 * 48)[0])  # keeps the specks
    scores, regions = judge.score_decoder(found, truth, wrong, every=True)
    assert scores["at"]["covering"] < 1 and scores["ods"]["covering"] == scores["ois"]["covering"] == 1
    assert scores["at"]["information"] > scores["ods"]["information"] == pytest.approx(0, abs=1e-9)
    assert scores["at"]["covering"] == pytest.approx(region_scores.gt_covering(truth[0], regions[0]))


def test_ignored_pixels_leave_no_contour_but_region_scores() -> None:
    found, truth = noisy_codes()
    truth[0, 0] = IGNORED
    scores, _ = judge.score_decoder(found, truth, Decoder("codes", 0.0, judge.smallest_regions(48 * 48)[2]))
    assert scores["at"]["contour"] is None and scores["at"]["covering"] == 1


def test_no_choice_looks_at_test_images() -> None:
    splits = voronoi(3)
    (test,) = splits.tests.values()
    shuffled = Labelled(test.images, test.labels.flip(2), "other labels")
    other = Splits(splits.train, splits.validation, {"other": shuffled})
    network = Oracle(splits)
    mine, theirs = (judge.judge_regions(network, "discriminative", s).scores for s in (splits, other))
    assert mine["decoder"] == theirs["decoder"] and mine["validation"] == theirs["validation"]
    assert mine["at"]["covering"] > theirs["at"]["covering"]
    only = judge.judge_validation(network, "discriminative", Splits(splits.train, splits.validation, {}))
    assert only.scores["validation"] == mine["validation"]


def test_the_salient_channel_is_found_on_validation_images() -> None:
    splits = sources.load(Source("salient", 32, 8, 0), CPU)
    judged = judge.judge_saliency(Oracle(splits), "ce", splits)
    assert judged.scores["channel"] == 1
    (scores,) = judged.scores["tests"].values()
    assert scores["f_capped"] > 0.99 and scores["mae"] < 0.01
    assert judged.pictures.shape == (judge.PICTURES, 32, 32)
