"""What every benchmark stores beside its figures: the machine, the versions, the command."""

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def describe() -> dict:
    import torch

    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "command": " ".join(["python", *sys.argv]),
    }


def store(name: str, figures: dict) -> Path:
    """Write ``results/<name>.json``: the figures and the machine they come from."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**figures, "machine": describe()}, indent=1) + "\n", encoding="utf-8")
    return path
