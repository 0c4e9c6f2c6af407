"""What watches a training: the learning curve, and Ctrl-C between two batches."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import lightning as L

from lesioncam.files import write_text


class StopOnRequest(L.Callback):
    """Ctrl-C between two batches: raised anywhere else, Python may swallow it or leave a step half done."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: object) -> None:
        """The first Ctrl-C asks; the second stops at once."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.asked = True

    def on_train_batch_start(self, *_: object) -> None:
        """Stop before the next training step."""
        if self.asked:
            raise KeyboardInterrupt

    def on_validation_batch_start(self, *_: object) -> None:
        """Stop before the next validation batch."""
        if self.asked:
            raise KeyboardInterrupt


class LearningCurves(L.Callback):
    """One row per epoch in history.csv; the rows travel in the checkpoint, so a resumed run has one unbroken curve."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows, self._started = path, list[dict[str, float]](), time.monotonic()

    def on_train_epoch_start(self, *_: object) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        """Add the epoch's row and write the file whole."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        losses = ("train_loss", "val_loss")
        scores = sorted(name for name in seen if name.startswith("val_") and name not in ("val_loss", "val_score"))
        row = {
            "epoch": trainer.current_epoch,
            **{name: seen[name] for name in (*losses, *scores)},
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(time.monotonic() - self._started, 3),
        }
        self._rows.append(row)
        lines = [",".join(row)] + [",".join(f"{v:g}" for v in r.values()) for r in self._rows]
        write_text(self._path, "\n".join(lines) + "\n")

    def state_dict(self) -> dict[str, list[dict[str, float]]]:
        """The rows so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, list[dict[str, float]]]) -> None:
        """Go on from the rows of the checkpoint."""
        self._rows = list(state_dict["rows"])
