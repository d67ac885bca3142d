"""The models that come with the course, for the exercises that ask them; each is loaded once."""

from __future__ import annotations

from functools import cache


@cache
def models():
    """The joined system, on the CPU: so an answer gets the same verdict on every machine."""
    from ..checkpoints import load_models

    return load_models(device="cpu")


@cache
def judge():
    """The classifier that names object, material and background."""
    from ..measure.judge import load_judge

    return load_judge(device="cpu")
