"""What an exercise is, and how an answer to it is judged: in one sentence, never with a traceback, never with the solution.

An exercise of the kinds *build* and *mend* is a function that answers rightly, cases to try it on, and the usual mistakes, each
a function that computes what that mistake would give (:class:`Build`). A *predict* or *measure* exercise asks for a number
(:class:`Number`) or for one of some letters (:class:`Choice`), a *find* or *make* exercise for something that has a property
(:class:`Find`).
"""

from __future__ import annotations

import copy
import dis
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import progress
from .catalogue import entry

# Of the largest number that is expected. float32 keeps seven digits, and sums in another order, or another way of writing the
# same formula, cost it one or two of them: a hundred times less than this. A test holds that each named mistake is off by more.
TOLERANCE = 1e-4
# Of processor time, so that a busy machine does not count. An answer takes milliseconds: what has not ended by then never will.
SECONDS = 5.0
WAITED = 4  # so many times as much by the clock on the wall, for what only waits and needs no processor
FEW = 6  # so many numbers are told one by one
WAITING = (None, ...)  # what stands where a learner has not yet written anything

ALPHAS = torch.tensor([0.99, 0.81, 0.64, 0.25, 0.01])  # alpha-bar for cases: roots that one can do in one's head


def normal(*shape: int, seed: int) -> Tensor:
    """Numbers drawn from N(0, 1), the same ones each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Verdict:
    """One sentence about an answer. It is true where the answer is right."""

    right: bool
    sentence: str
    waits: bool = False

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.sentence

    def _ipython_display_(self) -> None:
        """Nothing: the sentence was printed already."""


@dataclass(frozen=True)
class Exercise:
    """One exercise by its number in the catalogue, "3.1". Called with an answer, it prints the verdict and returns it."""

    number: str

    def __call__(self, answer: object = None) -> Verdict:
        """Print the verdict on an answer, remember that the exercise is solved where it is right, and return the verdict."""
        verdict = self.judge(answer)
        if verdict.right:
            progress.remember(self.number)
        print(verdict.sentence)
        return verdict

    @property
    def name(self) -> str:
        """What the learner's answer is called in the notebook."""
        return entry(self.number).name

    def judge(self, answer: object) -> Verdict:
        """The verdict on an answer; nothing is printed or remembered."""
        if any(answer is nothing for nothing in WAITING):
            return self.waits()
        try:
            return self.verdict(answer)
        except BROKEN as error:  # an object that can't even be looked at
            return self.not_yet(f"{self.name} can't be used as it is ({type(error).__name__}: {first_line(error)})")

    def verdict(self, answer: object) -> Verdict:
        """The verdict on an answer that is there."""
        raise NotImplementedError

    def waits(self) -> Verdict:
        """Nothing was answered yet."""
        return Verdict(
            False, f"Exercise {self.number} waits: write your lines for {self.name} above, and run both cells.", True
        )

    def solved(self, remark: str) -> Verdict:
        """It is right; ``remark`` ends the sentence."""
        return Verdict(True, f"Right, exercise {self.number} is solved: {remark}.")

    def not_yet(self, remark: str) -> Verdict:
        """It is wrong; ``remark`` ends the sentence."""
        return Verdict(False, f"Not yet: {remark}" + ("" if remark.endswith("?") else "."))


@dataclass(frozen=True)
class Stopped:
    """What an answer did instead of giving a result: it stopped with an error, ``told`` in words, in ``line`` of its code."""

    kind: str
    told: str
    line: str = ""


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: what it looks like, which ends the sentence, and a function that computes what it would give."""

    looks: str
    function: Callable


@dataclass(frozen=True)
class Build(Exercise):
    """A function to write, or (``given``) to repair.

    ``right`` computes what is expected. ``cases`` are its inputs by name, the smallest first: of those that an answer fails the
    first one is told. They are passed by position, so a learner may call them otherwise.
    """

    right: Callable
    cases: Sequence[Mapping[str, object]]
    mistakes: Sequence[Mistake]
    given: Callable | None = None
    also: Callable[[Callable], str | None] | None = None  # what is still wrong with an answer whose results are right, or None

    def verdict(self, answer: object) -> Verdict:
        """Try the answer on all cases; say which mistake it looks like where it gives what that mistake would give."""
        if not callable(answer):
            return self.not_yet(f"{self.name} should be a function, and it is {describe(answer)}")
        expected = [attempt(self.right, case)[0] for case in self.cases]
        found = []
        for case in self.cases:
            with time_limit():
                found.append(attempt(answer, case))
            if isinstance(found[-1][0], Stopped) and found[-1][0].kind == TookTooLong.__name__:
                return self.not_yet(compare(case, found[-1][0], None, self.name))
        if is_empty(answer):
            return self.waits()
        if any(isinstance(result, Stopped) and result.kind == "NotImplementedError" for result, _ in found):
            return self.waits()
        results = [result for result, _ in found]
        wrong = [i for i, result in enumerate(results) if isinstance(result, Stopped) or not agree(result, expected[i])]
        if not wrong:
            return self.finished(answer, results, expected, [name for _, changed in found for name in changed])
        if self.given is not None and self.gives(self.given, results):
            remark = f"{self.name} still gives what it gave at first, so a change that you may have made in it has no effect"
            return Verdict(False, f"Exercise {self.number} waits: {remark}.", True)
        looks = [mistake.looks for mistake in self.mistakes if self.gives(mistake.function, results)]
        first = wrong[0]
        remark = compare(self.cases[first], results[first], expected[first], self.name)
        return self.not_yet(f"{remark}; it looks as if {looks[0]}" if looks else remark)

    def finished(self, answer: Callable, results: list, expected: list, changed: list[str]) -> Verdict:
        """The results are right; so is the answer, where it gives tensors and has left its inputs as they were."""
        for ours, theirs in zip(results, expected, strict=True):
            held = unusual(ours)
            if held and isinstance(theirs, Tensor):
                return self.not_yet(
                    f"the numbers are right, but {self.name} gives {held}, where a tensor is asked for: {TO_TENSOR[held]}"
                )
        if changed:
            return self.not_yet(
                f"the result is right, but {self.name} also changes the {changed[0]} that it was given, in place"
            )
        remark = self.also(answer) if self.also is not None else None
        if remark is not None:
            return self.not_yet(remark)
        return self.solved(f"{self.name} gives what is expected in all {len(self.cases)} cases")

    def gives(self, function: Callable, results: list) -> bool:
        """Whether a function gives just these results."""
        return all(agree(result, attempt(function, case)[0]) for result, case in zip(results, self.cases, strict=True))


@dataclass(frozen=True)
class Number(Exercise):
    """A number to predict or to measure. ``mistakes`` are wrong numbers and what each looks like."""

    value: float
    within: float  # as far as this from the value is right
    because: str
    mistakes: Mapping[float, str] = field(default_factory=dict)

    def verdict(self, answer: object) -> Verdict:
        """Compare two numbers."""
        try:
            number = float(answer)  # type: ignore[arg-type]
        except OverflowError:
            return self.not_yet(f"{self.name} is much too large")
        except (TypeError, ValueError, RuntimeError):
            return self.not_yet(f"{self.name} should be one number, and it is {describe(answer)}")
        if abs(number - self.value) <= self.within:
            return self.solved(self.because)
        for wrong, looks in self.mistakes.items():
            if abs(number - wrong) <= self.within:
                return self.not_yet(f"{number:g} is too {'high' if number > self.value else 'low'}; it looks as if {looks}")
        return self.not_yet(
            f"{number:g} is too {'high' if number > self.value else 'low'}" if number == number else "that is nan"
        )


@dataclass(frozen=True)
class Choice(Exercise):
    """One of some letters to choose. ``reasons`` are the letters with what is to be said about each."""

    letter: str
    reasons: Mapping[str, str]

    def verdict(self, answer: object) -> Verdict:
        """Compare two letters."""
        chosen = str(answer).strip().strip("'\"").upper()
        if chosen not in self.reasons:
            return self.not_yet(f"{self.name} should be one of the letters {', '.join(self.reasons)}, in quotes")
        reason = self.reasons[chosen]
        return self.solved(reason) if chosen == self.letter else self.not_yet(f"{chosen} is not it; {reason}")


@dataclass(frozen=True)
class Find(Exercise):
    """Something to find or to make. ``fault`` says in part of a sentence what is wrong with an answer, or None."""

    fault: Callable[[object], str | None]
    because: str

    def verdict(self, answer: object) -> Verdict:
        """Ask whether the answer has the property."""
        if is_empty(answer):
            return self.waits()
        try:
            fault = self.fault(answer)  # no time limit: it may import a library first
        except TookTooLong as error:
            fault = endless(self.name, error.args[0], own_line(answer, error))  # type: ignore[arg-type]
        except BROKEN as error:
            fault = broken(self.name, error, own_line(answer, error))  # type: ignore[arg-type]
        return self.solved(self.because) if fault is None else self.not_yet(fault)


def attempt(function: Callable, case: Mapping[str, object]) -> tuple[object, list[str]]:
    """What a function gives for copies of a case's inputs, and the names of those that it changed in place."""
    inputs = {name: copy.deepcopy(value) for name, value in case.items()}
    try:
        result: object = function(*inputs.values())
    except BROKEN as error:
        return Stopped(type(error).__name__, first_line(error), own_line(function, error)), []
    changed = [
        name for name, value in inputs.items() if isinstance(value, (Tensor, list, dict)) and not agree(value, case[name])
    ]
    return result, changed


def agree(a: object, b: object) -> bool:
    """Whether two results are the same: numbers to within rounding, whatever holds them; everything else exactly."""
    if isinstance(a, Stopped) and isinstance(b, Stopped):
        return a.kind == b.kind
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and (as_numbers(a) is None or as_numbers(b) is None):
        return len(a) == len(b) and all(agree(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(agree(a[key], b[key]) for key in a)
    ours, theirs = as_numbers(a), as_numbers(b)
    if ours is None or theirs is None:
        return ours is None and theirs is None and type(a) is type(b) and bool(a == b)
    if is_whole(a) != is_whole(b) and is_picture(a, b):
        return False
    if ours.shape != theirs.shape and not ours.numel() == theirs.numel() == 1:
        return False
    finite = theirs[theirs.isfinite()]  # nan and infinity are compared as they are
    scale = finite.abs().max().clamp(min=1e-3) if finite.numel() else torch.ones(())
    return bool(torch.allclose(ours.flatten() / scale, theirs.flatten() / scale, rtol=0, atol=TOLERANCE, equal_nan=True))


def as_numbers(value: object) -> Tensor | None:
    """A tensor of float64 of what holds numbers: a number, a tensor, an array, a list of numbers; None for anything else."""
    if value is None or isinstance(value, (str, bytes, bool, dict)):
        return None
    value = plain(value)
    try:
        return torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        pass
    try:
        return torch.stack([torch.as_tensor(part).detach().cpu().double() for part in value])  # type: ignore[attr-defined]
    except (TypeError, ValueError, RuntimeError):
        return None


def plain(value: object) -> object:
    """The same numbers without gradients and not sparse, in lists too."""
    if isinstance(value, Tensor):
        return value.detach() if value.layout == torch.strided else value.detach().to_dense()
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        return [plain(part) for part in value]
    return value


TO_TENSOR = {"a numpy array": "torch.from_numpy makes one of it", "a sparse tensor": ".to_dense() makes an ordinary one of it"}


def unusual(value: object) -> str | None:
    """What holds numbers that the cells below can't use as they are, in words, or None."""
    if isinstance(value, Tensor):
        return None if value.layout == torch.strided else "a sparse tensor"
    return "a numpy array" if isinstance(value, np.ndarray) else None


def is_whole(value: object) -> bool:
    """Whether it is a tensor of whole numbers."""
    return isinstance(value, Tensor) and not value.dtype.is_floating_point


def is_picture(a: object, b: object) -> bool:
    """Whether one of the two is a tensor of bytes, as pictures are: then the other one should be such a tensor too."""
    return any(isinstance(value, Tensor) and value.dtype == torch.uint8 for value in (a, b))


def is_empty(function: object) -> bool:
    """Whether a function's body does nothing at all: a docstring, ``...`` or ``pass``."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("NOP", "RESUME", "COPY_FREE_VARS")]
    returns = all(step.opname in ("LOAD_CONST", "RETURN_VALUE", "RETURN_CONST") for step in steps)
    return returns and all(step.argval is None for step in steps)


def first_line(error: BaseException) -> str:
    """What an error says, in one short line."""
    try:
        told = str(error).strip().splitlines()
    except Exception:
        told = []
    return told[0].rstrip(".")[:160] if told else "no reason told"


def own_line(function: Callable, error: BaseException) -> str:
    """The last line of the function's own file (or notebook cell) in which an error arose."""
    code = getattr(function, "__code__", None)
    lines = [step.line for step in traceback.extract_tb(error.__traceback__) if code and step.filename == code.co_filename]
    return lines[-1] if lines and lines[-1] else ""


def compare(case: Mapping[str, object], result: object, expected: object, name: str) -> str:
    """What was given, what was expected, and what came."""
    given = ", ".join(describe_input(key, value) for key, value in case.items() if not callable(value))
    start = f"for {given}, " if given else ""
    if isinstance(result, Stopped) and result.kind == TookTooLong.__name__:
        return start + endless(name, result.told, result.line)
    if isinstance(result, Stopped):
        where = f" in the line `{result.line}`" if result.line else ""
        return f"{start}{name} stopped with an error{where} ({result.kind}: {result.told})"
    if result is None:
        return f"{start}{name} gives nothing: end it with a line that begins with return"
    ours, theirs = as_numbers(result), as_numbers(expected)
    if theirs is None and holds_tensors(expected) and isinstance(result, (list, tuple)):
        return start + compare_parts(result, expected, name)  # type: ignore[arg-type]
    if theirs is not None and ours is None:
        return f"{start}{name} should give numbers, and it gives {describe(result)}"
    if ours is not None and theirs is not None and ours.shape != theirs.shape:
        return f"{start}a result of shape {list(theirs.shape)} is expected, and {name} gives one of shape {list(ours.shape)}"
    if is_whole(result) != is_whole(expected) and isinstance(result, Tensor) and isinstance(expected, Tensor):
        return f"{start}numbers of type {expected.dtype} are expected, and {name} gives {result.dtype}"
    if ours is not None and theirs is not None and theirs.numel() > FEW:
        place = int((ours - theirs).abs().nan_to_num(float("inf")).argmax())
        index = [int(i) for i in torch.unravel_index(torch.tensor(place), theirs.shape)]
        return (
            f"{start}{theirs.flatten()[place]:.4g} is expected at {index}, and {name} gives {ours.flatten()[place]:.4g} there"
        )
    return f"{start}{describe(expected)} is expected, and {name} gives {describe(result)}"


def holds_tensors(value: object) -> bool:
    """Whether it is a list with a tensor in it, or in a list in it."""
    return isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) or holds_tensors(part) for part in value)


def compare_parts(result: Sequence, expected: Sequence, name: str) -> str:
    """The first difference of two lists of things that are no numbers, or of different shapes."""
    if len(result) != len(expected):
        return f"{len(expected)} parts are expected, and {name} gives {len(result)}"
    place = next(i for i, (ours, theirs) in enumerate(zip(result, expected, strict=True)) if not agree(ours, theirs))
    if result[place] is None:
        return f"part {place + 1} of the {len(expected)} that {name} gives is None"
    return f"in part {place + 1} of {len(expected)}, {compare({}, result[place], expected[place], name)}"


def broken(name: str, error: BaseException, line: str) -> str:
    """What is said of an answer that raised an error while it was tried, in ``line`` of its code if it is a function."""
    what = f"stopped with an error in the line `{line}`" if line else "can't be used as it is"
    return f"{name} {what} ({type(error).__name__}: {first_line(error)})"


def endless(name: str, seconds: str, line: str) -> str:
    """What is said of an answer that was stopped because it did not end."""
    where = f" in the line `{line}`" if line else ""
    return f"{name} had not ended after about {seconds} and was stopped{where}: does every loop come to its end?"


def describe_input(name: str, value: object) -> str:
    """An input of a case by its name."""
    numbers = as_numbers(value)
    return (
        f"{name} of shape {list(numbers.shape)}"
        if numbers is not None and numbers.numel() > FEW
        else f"{name} = {describe(value)}"
    )


def describe(value: object) -> str:
    """A value in few words: small ones whole, large ones by their shape and beginning."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, int) and value.bit_length() > 200:
            return "a number of very many digits"
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    numbers = as_numbers(value)
    if isinstance(value, (list, tuple)) and len(value) <= FEW and all(isinstance(part, int) for part in value):
        return str(list(value))
    if numbers is None:
        if isinstance(value, (list, tuple)) and not all(isinstance(part, (str, int, float, type(None))) for part in value):
            return f"a {type(value).__name__} of {len(value)}"
        try:
            text = " ".join(repr(value).split())
        except Exception:
            text = f"an object of the kind {type(value).__name__}"
        return text if len(text) <= 120 else text[:110] + " and so on"
    if is_whole(value):
        numbers = numbers.long()
    if numbers.numel() == 1 and numbers.ndim == 0:
        return f"{numbers.item():.4g}"
    if numbers.numel() <= FEW:
        return str(rounded(numbers.tolist()))
    begin = ", ".join(str(rounded(x)) for x in numbers.flatten()[:3].tolist())
    return f"numbers of shape {list(numbers.shape)} that begin with {begin}"


def rounded(value):
    """Numbers, in lists of lists too, with four digits."""
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return value if isinstance(value, int) else float(f"{value:.4g}")


class TookTooLong(BaseException):
    """An answer did not end. No Exception, so that an answer's own ``except Exception`` does not catch it."""


BROKEN = (Exception, SystemExit, TookTooLong)  # all that an answer may raise; not the learner's own interruption


@contextmanager
def time_limit() -> Iterator[None]:
    """Around an answer: what runs for longer than :data:`SECONDS` is stopped with an error, where the system can do that."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def worked(number, frame):
        raise TookTooLong(f"{SECONDS:g} seconds of work")

    def waited(number, frame):
        raise TookTooLong(f"{WAITED * SECONDS:g} seconds")

    before = signal.signal(signal.SIGVTALRM, worked), signal.signal(signal.SIGALRM, waited)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITED * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGVTALRM, before[0])
        signal.signal(signal.SIGALRM, before[1])
