"""Pictures without torch: the exported networks run by ONNX Runtime, everything between them in numpy.

``from ldm_tutorial.engine import Engine`` imports neither torch nor diffusers nor transformers.
"""

from .engine import Engine, missing, unsupported

__all__ = ["Engine", "missing", "unsupported"]
