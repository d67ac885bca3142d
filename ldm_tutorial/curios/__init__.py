"""Curios: impossible objects, object x material x background, rendered on the fly with captions and exact masks."""

from .captions import BACKGROUNDS, MATERIALS, OBJECTS, caption, parse, plain
from .dataset import SPLITS, Curios, held_out, pairs, scene_at, to_model, to_picture

__all__ = [
    "BACKGROUNDS", "MATERIALS", "OBJECTS", "SPLITS", "Curios", "caption", "held_out", "pairs", "parse", "plain",
    "scene_at", "to_model", "to_picture",
]  # fmt: skip
