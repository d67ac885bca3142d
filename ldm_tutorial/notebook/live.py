"""A loss curve that redraws itself while a model trains."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from .figures import COLORS, STYLE, ImageWithAlt, png


class LiveCurve:
    """A loss curve that redraws itself in place while a model trains; pass it to ``fit`` as ``on_step``.

    The grey line is every step, the coloured one a running mean; ``good`` shades the range to expect at the end. ``marks``
    are one or two losses to compare with, by name: broken lines, named in the legend.
    """

    def __init__(
        self,
        title: str,
        steps: int,
        every: int = 25,
        good: tuple[float, float] | None = None,
        marks: dict[str, float] | None = None,
    ):
        from IPython.display import display

        self.title, self.steps, self.every, self.good, self.marks = title, steps, every, good, marks or {}
        self.losses: list[float] = []
        self.first = 0  # the step that the first loss belongs to
        self.handle = display(ImageWithAlt(self._draw(), f"Loss curve of {title}"), display_id=True)

    def __call__(self, step: int, loss: float) -> None:
        """Take note of a step's loss, and draw now and then."""
        self.first = step if not self.losses else self.first  # a resumed run starts later
        self.losses.append(loss)
        if len(self.losses) % self.every == 0 or step + 1 == self.steps:
            alt = f"Loss curve of {self.title}: {self.losses[-1]:.3f} after {step + 1} steps"
            self.handle.update(ImageWithAlt(self._draw(), alt))

    @mpl.rc_context(fname=STYLE)
    def _draw(self) -> bytes:
        # Not one of pyplot's: where the drawing is interrupted, the notebook would show those half drawn.
        figure = Figure(figsize=(6, 2.6), layout="constrained")
        axis = figure.subplots()
        if self.losses:
            w = min(20, len(self.losses))
            mean = np.convolve(self.losses, np.ones(w) / w, "valid")
            steps = self.first + np.arange(len(self.losses))
            axis.plot(steps, self.losses, color="0.8", linewidth=0.8)
            axis.plot(steps[w - 1 :], mean, linewidth=2)
            highest = [np.quantile(self.losses, 0.98) * 1.2, *(1.4 * loss for loss in self.marks.values())]
            axis.set_ylim(0, max(highest))  # the legend stands above the marks
        if self.good:
            axis.axhspan(*self.good, color=COLORS["green"], alpha=0.2, label="good at the end")
        looks = zip(("orange", "purple"), ("--", "-."), strict=True)
        for (name, loss), (color, dashes) in zip(self.marks.items(), looks, strict=False):
            axis.axhline(loss, color=COLORS[color], linestyle=dashes, label=f"{name}: {loss:.2f}")
        if self.good or self.marks:
            axis.legend(loc="upper right", ncols=2 if self.marks else 1, fontsize=10)
        axis.set(xlim=(0, self.steps), xlabel="step", ylabel="loss", title=self.title)
        return png(figure)
