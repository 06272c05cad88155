"""One training loop for every network, loss and data set, which a kill does not harm.

Everything that a run depends on is in its checkpoint: weights, optimiser, schedule, random numbers and history. A run that
was killed goes on from there, and on the same machine with as many threads ends with the same bits as one that was not, as far
as the kernels of the device give the same bits twice: those of the CPU do.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import cas_ext
from examples.demo.training import bar_interval

from . import models, parallel
from .checkpoint import differences, identity_of, read, write_atomically
from .data import Labelled
from .errors import TrainingError
from .logs import History, Logs
from .losses import IGNORED, SPECS, regions_of
from .stopping import Stop, end_by

EVALUATION_BATCH = 16  # images; bounds the memory of predictions
PRECISIONS = {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCALED_ON = (
    "cuda",
)  # devices where float16 trains: its gradients need scaling, which is slower than bfloat16 on a CPU
MEAN_OVER_PIXELS = ("ce",)  # losses that are not means over images
COMPILER = "inductor"


@dataclass(frozen=True)
class Settings:
    """What decides a run, beside its data and device.

    outputs: channels M. batch: images a step, of all processes together. rate: the highest of the one-cycle schedule.
    amp: precision of the forward pass, one of PRECISIONS; True means "bfloat16", False "off". compile: network and loss by
    torch.compile. terms_every: steps between two looks at uniformer and discriminator, which are recorded for every loss of
    codes. checkpoint_every: steps between two checkpoints, and two looks at the loss.
    """

    model: str = "small"
    loss: str = "cas-ordered-sqeuclidean"
    outputs: int = 2
    steps: int = 400
    batch: int = 8
    rate: float = 3e-3
    seed: int = 0
    amp: str | bool = "off"
    compile: bool = False
    checkpoint_every: int = 50
    terms_every: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.amp, bool):
            object.__setattr__(self, "amp", "bfloat16" if self.amp else "off")
        for name, known in (("loss", SPECS), ("amp", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"Settings: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("outputs", "steps", "batch", "checkpoint_every", "terms_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Settings: {name} must be at least 1, got {getattr(self, name)}")
        least = models.SMALLEST_BATCH.get(self.model, 1)
        if self.batch < least:
            raise ValueError(f"Settings: batch must be at least {least} for {self.model}, got {self.batch}")


@dataclass(frozen=True)
class Trained:
    """network: in evaluation mode. losses (steps,) float64. terms (looks, 3): step, uniformer, discriminator (pairs "mean")."""

    network: nn.Module
    losses: Tensor
    terms: Tensor


class Run:
    """The state of a training, as it is after a whole number of steps."""

    def __init__(self, settings: Settings, data: Labelled, initial: dict[str, Tensor] | None) -> None:
        self.settings, self.data = settings, data
        self.device = data.images.device
        if settings.amp == "float16" and self.device.type not in SCALED_ON:
            raise TrainingError(f"amp float16 needs a CUDA device, got {self.device}; bfloat16 runs on every device")
        torch.manual_seed(settings.seed)
        network = models.build(settings.model, data.images.shape[1], settings.outputs)
        if initial is not None:
            models.load(network, initial, f"initial: holds no weights for {settings.model}")
        if not parallel.is_first():
            torch.manual_seed(settings.seed + parallel.rank())  # images of their own, random numbers of their own
        self.network = parallel.share_statistics(network.to(self.device).to(memory_format=torch.channels_last))
        self.forward = parallel.average_gradients(self.network)
        self.regions = regions_of(data.labels)  # once: a GPU would be waited for in every step
        self.loss = SPECS[settings.loss].build()
        if isinstance(self.loss, cas_ext.CASLoss):
            self.loss.num_regions = self.regions
        if settings.compile:
            torch.compiler.reset()  # what earlier runs compiled must not decide how this one rounds
            self.forward = torch.compile(self.forward, backend=COMPILER)
            self.loss = torch.compile(self.loss, backend=COMPILER)
        half = settings.amp == "float16"
        # Scaled gradients that overflow skip the step; only the fused Adam decides that without waiting for the GPU.
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.rate, fused=half or None)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.rate, total_steps=settings.steps + 1
        )
        order = torch.Generator().manual_seed(settings.seed)
        batches = torch.randint(len(data), (settings.steps, settings.batch), generator=order)
        self.batches = parallel.share(batches.T).T.to(self.device)  # (steps, this process's images)
        self.identity = identity_of(settings, data, initial)
        self.step = 0
        self.history = History()

    def advance(self) -> None:
        """One step of the optimiser."""
        settings = self.settings
        images, labels = (part[self.batches[self.step]] for part in (self.data.images, self.data.labels))
        with torch.autocast(self.device.type, PRECISIONS[settings.amp], enabled=settings.amp != "off"):
            output = self.forward(images)
        output = output.float()
        value = self.of_whole_batch(self.loss(output, labels), labels)
        self.optimizer.zero_grad()
        self.scaler.scale(value).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        rate = self.schedule.get_last_lr()[0]
        self.schedule.step()
        measured = torch.cat([value.detach()[None], self.terms(output.detach(), labels)])
        self.history.add(self.step, rate, parallel.mean(measured.double()))
        self.step += 1

    def of_whole_batch(self, value: Tensor, labels: Tensor) -> Tensor:
        """The loss, scaled so that its mean over the processes is that of the whole batch.

        Equal shares do that for means over images; for means over pixels, shares have unequally many that are not ignored.
        """
        if parallel.size() == 1 or self.settings.loss not in MEAN_OVER_PIXELS:
            return value
        pixels = (labels.long() != IGNORED).sum().float()
        average = parallel.mean(pixels)
        nothing = (pixels == 0) & (average > 0)  # a mean over no pixels is NaN, but not if others have some
        return torch.where(nothing, 0, value * pixels / average)

    def terms(self, output: Tensor, labels: Tensor) -> Tensor:
        """Uniformer and discriminator (2,) of codes, where this step looks at them; NaN otherwise."""
        if self.step % self.settings.terms_every or SPECS[self.settings.loss].output != "codes":
            return torch.full((2,), torch.nan, device=self.device)
        _, *terms = cas_ext.cas_loss(
            output,
            labels,
            num_regions=self.regions,
            activation="softmax",
            pairs="mean",
            return_terms=True,
            ignore_index=IGNORED,
        )
        return torch.stack(terms)

    def record(self, checkpoint: Path | None, logs: Logs | None) -> None:
        """Write down the steps so far.

        Raises:
            TrainingError: where a loss was not finite. The logs show it, and the checkpoint stays as it was.
        """
        rows = self.history.drain()
        if logs is not None:
            logs.write(rows)
        wrong = rows[~rows[:, 1].isfinite()]
        if len(wrong):
            raise TrainingError(f"{self.settings.loss}: the loss is {wrong[0, 1].item()} in step {int(wrong[0, 0])}")
        if checkpoint is not None:
            self.save(checkpoint)

    def save(self, path: Path) -> None:
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "identity": self.identity,
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": parallel.gather(random),
            "history": self.history.drain(),
        }
        if parallel.is_first():
            write_atomically(state, path)
        parallel.barrier()  # no process goes on, or ends, before the file is there

    def restore(self, path: Path) -> None:
        """Raises: as `checkpoint.read`."""
        state = read(path, self.identity)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.history.table = state["history"]
        random = state["random"][parallel.rank()]
        torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)

    def trained(self) -> Trained:
        rows = self.history.drain()
        looks = rows[~rows[:, 3].isnan()]
        return Trained(self.network.eval(), rows[:, 1].clone(), looks[:, [0, 3, 4]])


def start(settings: Settings, data: Labelled, checkpoint: Path | None, initial: dict[str, Tensor] | None) -> Run:
    """The run, as its checkpoint has it if there is one, and the same on all processes."""
    run = Run(settings, data, initial)
    there = checkpoint is not None and checkpoint.exists()
    mine, *others = parallel.gather({**run.identity, "checkpoint found": there})
    for rank, other in enumerate(others, 1):
        if differences(other, mine):
            raise TrainingError(f"process {rank} has another run than process 0: {differences(other, mine)}")
    if there:
        run.restore(checkpoint)
    run.network.train()
    return run


def train(
    settings: Settings,
    data: Labelled,
    checkpoint: Path | None = None,
    initial: dict[str, Tensor] | None = None,
    logs: Path | None = None,
) -> Trained:
    """Train a network on `data`, on the device where that lies. Within `parallel.processes`, all processes call this alike.

    Ctrl-C and SIGTERM end it after the step it is in, which is written down first; a kill loses the steps since the last
    checkpoint. Either way the same call goes on from the checkpoint.

    Args:
        data: the same on all processes.
        checkpoint: file that the state is written to every `checkpoint_every` steps and after the last; if it is there
            already, the run goes on from it. Its folder must exist.
        initial: weights to start from instead of random ones (CE first, then CAS: Table 2).
        logs: folder for metrics.csv and TensorBoard's events, which grow every `checkpoint_every` steps.

    Raises:
        TrainingError: for a loss that is not finite, noticed at the next checkpoint; a checkpoint of another run; amp
            float16 without CUDA; logs without tensorboard; processes that differ, or do not divide the batch.
        ModelError, ValueError: as `models.build`; ModelError for `initial` of another network.
        KeyboardInterrupt, SystemExit (143): after Ctrl-C and SIGTERM.
    """
    run = start(settings, data, checkpoint, initial)
    writer = Logs(logs, run.history.table) if logs is not None and parallel.is_first() else None
    with (
        Stop() as stop,
        tqdm(
            total=settings.steps,
            initial=run.step,
            desc=settings.loss,
            unit="step",
            mininterval=bar_interval(),
            file=sys.stderr,
            **({} if parallel.is_first() else {"disable": True}),  # given a value, tqdm would not ask TQDM_DISABLE
        ) as bar,
    ):
        signal = 0
        while run.step < settings.steps and not signal:
            run.advance()
            bar.update()
            signal = stop.requested()
            if signal or run.step % settings.checkpoint_every == 0 or run.step == settings.steps:
                run.record(checkpoint, writer)
        signal = signal or stop.requested()
    if writer is not None:
        writer.close()
    if signal:
        if parallel.is_first():
            saved = f"saved in {checkpoint}" if checkpoint is not None else "nothing is saved, for want of a checkpoint"
            print(f"{settings.loss}: stopped after step {run.step} of {settings.steps}; {saved}", file=sys.stderr)
        end_by(signal)
    return run.trained()


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """What the network puts out for images (n, C, H, W) uint8: (n, M, H, W) float32 on the CPU."""
    network.eval()
    return torch.cat([network(part).float().cpu() for part in images.split(EVALUATION_BATCH)])
