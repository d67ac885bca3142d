"""Print the oldest version of each requirement that pyproject.toml allows, as pins; torch and torchvision left out, which
are installed first and together."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> list[str]:
    """``name==version.*`` for every ``name>=version``."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["notebooks"], *extras["export"]]
    result = []
    for line in wanted:
        name, version = re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups()
        if name not in ("torch", "torchvision"):
            result.append(f"{name}=={version}.*")
    return result


if __name__ == "__main__":
    print("\n".join(pins()))
