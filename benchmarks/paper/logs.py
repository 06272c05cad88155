"""What a training records in every step, and the files it can be read from meanwhile: metrics.csv and TensorBoard's."""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from .errors import TrainingError
from .models import first_line

COLUMNS = ("step", "loss", "rate", "uniformer", "discriminator")
EVENTS = "events.out.tfevents.*"


class History:
    """A row of `COLUMNS` for every step; the last two are NaN in steps that did not look at them.

    table: (rows, 5) float64 on the CPU, without the steps since the last `drain`: their values stay on the device, since
    reading them would wait for it.
    """

    def __init__(self) -> None:
        self.table = torch.empty(0, len(COLUMNS), dtype=torch.float64)
        self.pending: list[tuple[int, float, Tensor]] = []

    def add(self, step: int, rate: float, measured: Tensor) -> None:
        """measured: (3,) float64: loss, uniformer, discriminator."""
        self.pending.append((step, rate, measured))

    def drain(self) -> Tensor:
        """All rows, those of the last steps too."""
        if self.pending:
            steps, rates, measured = zip(*self.pending, strict=True)
            loss, *terms = torch.stack(measured).cpu().unbind(1)
            step, rate = torch.tensor([steps, rates], dtype=torch.float64)
            self.table = torch.cat([self.table, torch.stack([step, loss, rate, *terms], 1)])
            self.pending = []
        return self.table


def as_text(rows: Tensor) -> str:
    """Lines of metrics.csv. Numbers are exact; a look that was not taken is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for step, loss, rate, *terms in rows.tolist():
        writer.writerow([int(step), loss, rate, *("" if term != term else term for term in terms)])
    return text.getvalue()


def wait_for_the_next_second(folder: Path) -> None:
    """TensorBoard reads files in the order of their names, which hold the second of their start: two may not share one."""
    started = {int(path.name.split(".")[3]) for path in folder.glob(EVENTS)}
    while int(time.time()) in started:
        time.sleep(0.01)


class Logs:
    """The history as files of one folder, which is made.

    metrics.csv is written anew when a run starts or goes on, so that after a kill it neither lacks a step nor has one twice;
    then it grows. TensorBoard's events lie beside it, and those of steps that are done again are taken back (`purge_step`).

    Args:
        rows: the history so far, as `History.table`.

    Raises:
        TrainingError: without tensorboard.
    """

    def __init__(self, folder: Path, rows: Tensor) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                f"logs need tensorboard, which cannot be imported ({first_line(error)}); install it, or train without logs"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        self.table = folder / "metrics.csv"
        partial = folder / "metrics.csv.partial"
        partial.write_text(",".join(COLUMNS) + "\n" + as_text(rows))
        os.replace(partial, self.table)
        self.rows = len(rows)
        self.writer, self.events = SummaryWriter, None
        self._show(rows if not any(folder.glob(EVENTS)) else rows[:0])

    def write(self, rows: Tensor) -> None:
        """Add what is new in the history `rows`. To be called before the checkpoint of these rows is written."""
        new, self.rows = rows[self.rows :], len(rows)
        with self.table.open("a") as file:
            file.write(as_text(new))
        self._show(new)

    def _show(self, rows: Tensor) -> None:
        if not len(rows):
            return
        if self.events is None:
            folder = self.table.parent
            wait_for_the_next_second(folder)
            self.events = self.writer(str(folder), purge_step=int(rows[0, 0]))
        for step, *values in rows.tolist():
            for name, value in zip(COLUMNS[1:], values, strict=True):
                if value == value or name == "loss":
                    self.events.add_scalar(name, value, int(step))
        self.events.flush()

    def close(self) -> None:
        if self.events is not None:
            self.events.close()
