"""Curios: impossible objects, object x material x background, rendered on the fly with captions and exact masks."""

from .captions import caption
from .vocabulary import BACKGROUNDS, MATERIALS, OBJECTS, SPLITS, held_out, pairs, parse, plain

__all__ = ["BACKGROUNDS", "MATERIALS", "OBJECTS", "SPLITS", "Curios", "caption", "held_out", "pairs", "parse", "plain"]
__all__ += ["scene_at"]


def __getattr__(name: str):
    """``Curios`` and ``scene_at`` need torch, which is imported when they are asked for: words alone do not need it."""
    if name not in ("Curios", "scene_at"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import dataset

    return getattr(dataset, name)
