"""What a training needs beside learning: it can be stopped at any moment, and it goes on where it was.

A run is one file of ``torch.save``: tensors, numbers and plain containers, read with ``weights_only=True``, so that no code
in it can run. It is replaced whole or not at all.
"""

from __future__ import annotations

import math
import pickle
import signal
import threading
from pathlib import Path

import torch
import torch.distributed as dist

from .errors import UserError
from .files import atomic_write


class ResumableRun:
    """A context around the steps of one training.

    Inside it Ctrl-C, a notebook's Stop and a cluster's SIGTERM are noted and wait for the end of a step (a second one
    interrupts at once), and the death of another process becomes a clear sentence. ``losses`` holds the loss of every step.
    """

    def __init__(self, path: Path, settings: dict, accelerator, save_every: int = 100):
        self.path = path
        self.settings = settings
        self.accelerator = accelerator
        self.save_every = save_every
        self.losses: list[float] = []
        self._parts: dict = {}
        self._interrupted = False
        self._handlers: dict = {}

    @property
    def name(self) -> str:
        return self.settings["name"]

    def load(self, **parts) -> None:
        """Remember ``parts`` (anything with ``state_dict`` and ``load_state_dict``), and bring them to where the saved run
        was, if there is one.

        Raises:
            UserError: for a file that is damaged, of other settings, or of an older version of this package.
        """
        self._parts = parts
        older = self.path.with_suffix(".safetensors")
        if not self.path.exists():
            if older.exists():
                raise UserError(
                    f"{older} was saved by an older version of this package, which alone can go on with it: "
                    "choose another folder, or delete it to start again."
                )
            return
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, losses, states = saved["settings"], saved["losses"], saved["states"]
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
            raise UserError(f"{self.path} is damaged and can't be resumed: delete it to start this part again.") from None
        if settings != self.settings:
            raise UserError(
                f"{self.path} belongs to a run with other settings: choose another folder, or delete it to start again."
            )
        self.losses = losses
        for key, part in parts.items():
            part.load_state_dict(states[key])

    def save(self) -> None:
        """Write the state of all parts (one process does).

        Raises:
            UserError: when it can't be written; the state that was saved before is kept.
        """
        if not self.accelerator.is_main_process:
            return
        states = {key: part.state_dict() for key, part in self._parts.items()}
        content = {"settings": self.settings, "losses": self.losses, "states": states}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as scratch:
                torch.save(content, scratch)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError for a full disk
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise UserError(
                f"Can't save the training state to {self.path} ({reason}): free some space or choose another folder; "
                "the last saved state is kept."
            ) from None

    def check_finite(self, loss: float, step: int, lr: float) -> None:
        """Raise UserError when the loss is no longer a number."""
        if math.isfinite(loss):
            return
        kept = f"the last good state is in {self.path}; " if self.path.exists() else ""
        raise UserError(
            f"The loss of {self.name} is no longer a number at step {step}: {kept}lower the learning rate (now {lr}) "
            "and start again in another folder."
        )

    def after_step(self, loss: float, last: bool) -> bool:
        """Note a step's loss and save when it is time to. Returns whether to stop: all processes stop after the same step."""
        self.losses.append(loss)
        stop = self._interrupted
        if self.accelerator.num_processes > 1:
            told = torch.tensor(float(stop), device=self.accelerator.device)
            stop = self.accelerator.reduce(told, "sum").item() > 0
        if last or stop or len(self.losses) % self.save_every == 0:
            self.save()
        return stop

    def __enter__(self) -> ResumableRun:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _) -> None:
        self._interrupted = True
        signal.signal(number, self._handlers[number])

    def __exit__(self, kind, error, _) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        several = self.accelerator.num_processes
        if several == 1 or not isinstance(error, RuntimeError):
            return
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            kept = f"the last saved state is in {self.path}" if self.path.exists() else "nothing was saved yet"
            raise UserError(
                f"Another of the {several} processes that train {self.name} has ended: {kept}; the same command goes on from "
                "there, with any number of processes."
            ) from None
