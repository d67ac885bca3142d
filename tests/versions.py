"""Print the versions that are installed, the whole tree: `make versions` keeps them in requirements-tested.txt.

torch and torchvision are ranges, and what only they bring along is left out: a pinned torch can pick a CPU-only file that
torchvision does not fit.
"""

import platform
import re
import sys
from importlib import metadata

RANGES = {"torch": "torch>=2.11", "torchvision": "torchvision>=0.26"}
FROM_TORCH = re.compile(r"(nvidia|cuda)[-_].*|triton")
NOT_OURS = {"ldm-tutorial", "pip", "setuptools", "wheel"}
HEAD = """\
# The versions this project was last tested with ({machine}), made by `make versions`. The ranges in pyproject.toml are what
# it needs. To go back to these: pip install -r requirements-tested.txt"""


def canonical(name: str) -> str:
    """A package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lines() -> list[str]:
    """One line a package, in the order of their names."""
    found = {canonical(d.metadata["Name"]): d.version for d in metadata.distributions()}
    result = []
    for name, version in sorted(found.items()):
        if name in RANGES:
            result.append(f"{RANGES[name]}  # tested: {version}")
        elif name not in NOT_OURS and not FROM_TORCH.fullmatch(name):
            result.append(f"{name}=={version}")
    return result


if __name__ == "__main__":
    machine = f"Python {sys.version_info.major}.{sys.version_info.minor}, {platform.system()}"
    print("\n".join([HEAD.format(machine=machine), *lines()]))
