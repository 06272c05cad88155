"""The networks: built by name, weights from files, and a step of the paper's two where torchvision can be imported."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch

from benchmarks.paper import models, scenes, train
from benchmarks.paper.train import Settings


@pytest.mark.parametrize("error", [ImportError("no module named torchvision"), RuntimeError("built for CUDA 13\nmore")])
def test_models_without_torchvision_say_what_is_missing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest, **more):
        if name.startswith("torchvision"):
            raise error
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(models.ModelError) as caught:
        models.build("fcn_resnet101", 3, 2)
    message = str(caught.value)
    assert message.startswith("fcn_resnet101 needs torchvision") and str(error).splitlines()[0] in message
    assert "\n" not in message


def test_models_are_built_by_name_and_weights_are_read(tmp_path: Path) -> None:
    network = models.build("small", 3, 5)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    copy = models.build("small", 3, 5, tmp_path / "weights.pt")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), copy.parameters(), strict=True))
    with pytest.raises(models.ModelError, match=r"weights\.pt: holds no weights for small"):
        models.build("small", 3, 2, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"name must be one of small, .*, got 'unet'"):
        models.build("unet", 3, 2)


def test_standardised_networks_see_three_channels_of_mean_0() -> None:
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(pixels)
            return {"out": pixels[:, :2]}

    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert models.Standardised(Recorder())(images).shape == (2, 2, 8, 8)
    assert seen[0].shape == (2, 3, 8, 8)
    torch.testing.assert_close(seen[0].mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0][:, 0].std((1, 2)), torch.ones(2), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", models.TORCHVISION)
def test_the_papers_networks_train_a_step(name: str) -> None:
    try:
        untrained = models.build(name, 1, 3)
    except models.ModelError as error:
        pytest.skip(str(error))
    assert untrained.network.aux_classifier is None
    data = scenes.salient_scenes(2, 64, "train", seed=0)
    settings = Settings(model=name, outputs=3, steps=1, batch=2)
    torch.manual_seed(settings.seed)
    before = models.build(name, 1, 3).state_dict()
    result = train.train(settings, data)
    assert result.losses.isfinite().all() and len(result.losses) == 1
    still = [name for name, value in result.network.named_parameters() if torch.equal(value, before[name])]
    assert not still  # every parameter has a gradient, and moves
    assert train.predict(result.network, data.images).shape == (2, 3, 64, 64)


def test_a_batch_that_deeplab_cannot_normalise_is_refused() -> None:
    with pytest.raises(ValueError, match="Settings: batch must be at least 2 for deeplabv3_resnet101, got 1"):
        Settings(model="deeplabv3_resnet101", batch=1)
    assert Settings(model="fcn_resnet101", batch=1).batch == 1
