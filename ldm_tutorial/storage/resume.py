"""What a training needs beside learning: it can be stopped at any moment, it goes on where it was, and several processes
train together.

A run is one file of ``torch.save``: tensors, numbers and plain containers, read with ``weights_only=True``, so that no code
in it can run. It is replaced whole or not at all.
"""

from __future__ import annotations

import io
import math
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import UserError
from ..files import atomic_write, disk_errors

SAVE_EVERY = 100  # steps
PATIENCE = timedelta(seconds=20)  # how long a process waits at the start for the one where all meet
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C or a notebook's Stop; what a cluster sends


def connect_processes():
    """This process among those that train together: accelerate's ``PartialState`` (``device``, ``num_processes``, ...).

    It is alone unless ``accelerate launch`` or ``torchrun`` started several. Call it before anything else that may use a
    GPU, so that each process gets its own.

    Raises:
        UserError: when the environment names other processes and they do not answer.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env
    from accelerate.utils.environment import get_cpu_distributed_information

    # Unless it is told to use the CPU, accelerate does not see that several processes on a CPU belong together.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    try:
        place = get_cpu_distributed_information()  # on a GPU too: what the launcher's variables say
        if place.world_size > 1 and not dist.is_initialized():
            _meet(place.rank, place.world_size, "gloo" if on_cpu else None)
        return PartialState(cpu=on_cpu)
    except (ValueError, dist.DistError):
        PartialState._reset_state()
        raise UserError(
            "The environment says that this process trains together with others (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR or "
            "an MPI's variables), but they do not answer: start all of them with `accelerate launch` or `torchrun`, or unset "
            "these variables to train alone."
        ) from None


def _meet(rank: int, count: int, backend: str | None) -> None:
    """Wait for the other processes, but not for long, and form a group with them."""
    store, _, _ = next(dist.rendezvous("env://", rank, count, timeout=PATIENCE))
    store.set(f"here/{rank}", "")
    store.wait([f"here/{other}" for other in range(count)], 3 * PATIENCE)  # they may still import
    store.set_timeout(timedelta(minutes=30))  # from now on one may wait for another's work
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)


def build_accelerator(batch: int, parts: int):
    """Accelerate's ``Accelerator`` for batches that are computed in so many parts. ``accelerate launch`` may say in which
    precision; else it is bfloat16 on GPUs that have it.

    Raises:
        UserError: for a batch that the processes and parts can't share.
    """
    from accelerate import Accelerator

    connect_processes()
    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    told = "ACCELERATE_MIXED_PRECISION" in os.environ
    precision = None if told else "bf16" if native else "no"
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=parts)
    processes = accelerator.num_processes
    if batch % (processes * parts):
        raise UserError(
            f"A batch of {batch} can't be shared by {processes} processes in {parts} parts each: choose numbers whose "
            "product divides it."
        )
    return accelerator


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Around a training that keeps its state in ``folder``: no other one may do so meanwhile.

    Raises:
        UserError: when another one does, and when the folder can't be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")  # the system gives it back however this process ends
    with disk_errors(folder, "choose another folder for the run"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"Another process is training in {str(folder)!r}: wait until it has ended, or choose another folder."
            ) from None
        except NotImplementedError:
            pass  # a disk without locks
    try:
        yield
    finally:
        lock.release()


class ResumableRun:
    """A context around the steps of one training.

    Inside it Ctrl-C, a notebook's Stop and a cluster's SIGTERM wait for the end of a step (a second one interrupts at once),
    and the death of another process becomes a clear sentence. On leaving it without an error the state is saved.

    ``settings`` is a plain dictionary of all that changes what is learned: only a run with the same settings goes on.
    ``processes`` is what :func:`connect_processes` returns, or an ``Accelerator``. ``losses`` holds the loss of every step.
    """

    def __init__(self, path: str | Path, settings: dict, processes):
        self.path = Path(path)
        self.settings = settings
        self.processes = processes
        self.losses: list[float] = []
        self._parts: dict = {}
        self._saved = 0  # steps in the file
        self._interrupted = False
        self._handlers: dict = {}

    def load(self, **parts) -> None:
        """Remember ``parts`` (anything with ``state_dict`` and ``load_state_dict``), and bring them to where the saved run
        was. A run that begins is saved at once: a folder that can't be written must not show after an hour.

        Raises:
            UserError: for a file that is damaged, of other settings, or of an older version of this package, and when the
                state can't be written.
        """
        self._parts = parts
        older = self.path.with_suffix(".safetensors")
        if self.path.exists():
            self._read()
        elif older.exists():
            raise UserError(
                f"{older} was saved by an older version of this package, which alone can go on with it: choose another "
                "folder, or delete it to start again."
            )
        else:
            self.save()

    def _read(self) -> None:
        advice = "delete it to start this part again"
        try:
            with zipfile.ZipFile(self.path) as archive:  # torch itself compares no checksums
                whole = archive.testzip() is None
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, losses, states = saved["settings"], saved["losses"], saved["states"]
            if not whole or states.keys() != self._parts.keys():
                raise ValueError
        except OSError as error:
            raise UserError(f"{self.path} can't be read ({error.strerror}): {advice}, or choose another folder.") from None
        except Exception:  # a damaged file can raise nearly anything
            raise UserError(f"{self.path} is damaged and can't be resumed: {advice}.") from None
        if settings != self.settings:
            other = ", ".join(key for key in self.settings if settings.get(key) != self.settings[key])
            belongs = f"{self.path} belongs to a run with other settings ({other})"
            raise UserError(f"{belongs}: choose another folder, or delete it to start again.")
        for key, part in self._parts.items():
            part.load_state_dict(states[key])
        self.losses = losses
        self._saved = len(losses)

    def save(self) -> None:
        """Write the state of all parts (one process does).

        Raises:
            UserError: when it can't be written; the state that was saved before is kept.
        """
        self._saved = len(self.losses)
        if not self.processes.is_main_process:
            return
        states = {key: part.state_dict() for key, part in self._parts.items()}
        content = io.BytesIO()  # torch itself does not say why a file can't be written
        torch.save({"settings": self.settings, "losses": self.losses, "states": states}, content)
        with disk_errors(self.path, "choose another folder; what was saved before is kept"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as scratch:
                scratch.write_bytes(content.getbuffer())

    def check_finite(self, loss: float) -> None:
        """Raise UserError when the loss of a step is no longer a number; the saved state is from before."""
        if not math.isfinite(loss):
            raise UserError(
                f"The loss of {self.path.stem} is no longer a number at step {len(self.losses)}: the last good state is in "
                f"{self.path}; lower the learning rate (now {self.settings['lr']}) and start again in another folder."
            )

    def after_step(self, loss: float) -> bool:
        """Note a step's loss and save when it is time to. Returns whether to stop: all processes stop after the same step."""
        from accelerate.utils import reduce

        self.losses.append(loss)
        if len(self.losses) % SAVE_EVERY == 0:
            self.save()
        stop = torch.tensor(float(self._interrupted), device=self.processes.device)
        return reduce(stop, "sum").item() > 0

    def __enter__(self) -> ResumableRun:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # what is ignored (nohup) stays so
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _) -> None:
        self._interrupted = True
        signal.signal(number, self._handlers[number])  # a second one interrupts at once

    def __exit__(self, kind, error, _) -> None:
        try:
            if error is None and self._saved < len(self.losses):
                self.save()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        count = self.processes.num_processes
        if count == 1 or not isinstance(error, RuntimeError):
            return
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise UserError(
                f"Another of the {count} processes that train {self.path.stem} has ended: the last saved state is in "
                f"{self.path}; the same command goes on from there, with any number of processes."
            ) from None
