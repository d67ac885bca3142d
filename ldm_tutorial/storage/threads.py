"""How many threads compute, and what they do while they wait: the one place that says it. Nothing here imports torch.

Measured by ``benchmarks/threads.py`` (the table stands in docs/architecture.md), on an idle machine and beside one busy core:

- Threads of torch that wait for each other spin. Beside a busy core that makes networks more than ten times slower, so in
  notebooks and in ``ldm`` they sleep (``OMP_WAIT_POLICY=PASSIVE``): at most about twice as slow on an idle machine.
- One picture at a time: steps so short that waking a thread costs more than it does; one core is left free.
- Batches and live trainings: all cores.
- Trainings by ``ldm train``, which have the machine to themselves: all cores, spinning.
- The engine: all cores, sleeping. Rendering: as many processes as cores, one thread in each. A process that
  renders alone has one thread as well: two that sleep took more than twice as long on an idle machine, and longer beside a
  busy core, too.

A setting of the user's (the names in ``WAITING`` and ``COUNTS``) is never changed, and a number given to
``torch.set_num_threads`` never exceeded. The engine and rendering, which know nothing of OpenMP, follow ``OMP_NUM_THREADS``,
too; the engine's threads spin where the user sets ``OMP_WAIT_POLICY=ACTIVE``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE"}  # read once, when torch is loaded
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by any of these a user says how threads wait,
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # and by these how many there are
FEW = 2  # pictures made at once; between 2 and 16 nothing was measured


def available_cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def allowed_cores() -> int:
    """How many cores may compute at once: what the user sets by ``OMP_NUM_THREADS``, or else all that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2" is 4, and 2 in each of them
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else available_cores()


def engine_threads() -> tuple[int, str]:
    """How many threads ONNX Runtime gets, and whether they spin while they wait: "1", where the user wants it so, or "0"."""
    return allowed_cores(), "1" if os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE" else "0"


def one_thread_each() -> dict[str, str]:
    """Environment variables for processes that share the cores, such as those of the tests."""
    return {**dict.fromkeys(COUNTS, "1"), **SLEEPING}


def share_the_machine() -> None:
    """Let threads that wait sleep, in this process and those that it starts: a notebook's first cell and ``ldm`` do so.

    It has to come before torch is loaded. Where torch is there already, one core is left free in its place.
    """
    if any(name in os.environ for name in WAITING):
        return
    if "torch" in sys.modules:
        _leave_a_core()
    else:
        os.environ.update(SLEEPING)


@contextmanager
def few_pictures(count: int) -> Iterator[None]:
    """Inside, torch leaves a core free where the pictures made at once are few and its threads sleep while they wait."""
    if count > FEW or os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        yield
        return
    before = _leave_a_core()
    try:
        yield
    finally:
        if before:
            sys.modules["torch"].set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread: for work in many small steps, such as rendering in this process."""
    torch = sys.modules["torch"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _leave_a_core() -> int:
    """How many threads torch had, where that was changed; else 0."""
    torch = sys.modules["torch"]
    before, fewer = torch.get_num_threads(), max(1, available_cores() - 1)
    if before <= fewer or any(name in os.environ for name in COUNTS):
        return 0
    torch.set_num_threads(fewer)
    return before
