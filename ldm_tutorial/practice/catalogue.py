"""All exercises by number, with what the notebooks and `ldm progress` say of them. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "predict": "say the answer before anything runs",
    "build": "write a function from its formula",
    "mend": "find out what is wrong with a function, and repair it",
    "measure": "a number with its uncertainty",
    "find": "something that shows what was claimed",
    "make": "something of your own",
}


@dataclass(frozen=True)
class Entry:
    """One exercise: its number, what the answer is called in the notebook, its kind, difficulty (1 to 3), and minutes."""

    number: str
    name: str
    kind: str
    difficulty: int
    minutes: int
    title: str

    @property
    def notebook(self) -> str:
        """The notebook that it belongs to: "03"."""
        return f"{int(self.number.split('.')[0]):02}"

    @property
    def heading(self) -> str:
        """What stands above it in the notebook."""
        return f"## Exercise {self.number}: {self.title}"

    @property
    def line(self) -> str:
        """The line below its heading."""
        return f"*{self.kind}: {KINDS[self.kind]} · difficulty {self.difficulty} of 3 · about {self.minutes} minutes*"


CATALOGUE = [
    Entry("3.1", "add_noise", "build", 1, 10, "any timestep in one line"),
    Entry("3.2", "noisy_variance", "predict", 1, 5, "how large are the numbers?"),
    Entry("3.3", "forward_steps", "mend", 2, 15, "a thousand small steps, with two faults"),
]


def entry(number: str) -> Entry:
    """The exercise with this number."""
    return next(e for e in CATALOGUE if e.number == number)


def of_notebook(name: str) -> list[Entry]:
    """The exercises of a notebook, "03"."""
    return [e for e in CATALOGUE if e.notebook == name]
