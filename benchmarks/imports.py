"""What ``import ldm_tutorial`` adds to ``import torch``, each in new processes, in pairs."""

import subprocess
import sys
from statistics import median

from machine import options, store

TIMER = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def cost(modules: str) -> float:
    return float(subprocess.run([sys.executable, "-c", TIMER.format(modules)], check=True, capture_output=True).stdout)


def main() -> None:
    pairs = 1 if options(__doc__).quick else 9
    cost("torch, ldm_tutorial")  # the files are in memory from now on
    torch, both, parts = zip(
        *((cost("torch"), cost("torch, ldm_tutorial"), cost("torch, ldm_tutorial.sampling")) for _ in range(pairs)),
        strict=True,
    )
    added = median(b - a for a, b in zip(torch, both, strict=True))
    ratio = median(b / a for a, b in zip(torch, both, strict=True))
    heavy = median(b - a for a, b in zip(torch, parts, strict=True))
    print(f"import torch {median(torch):.2f} s; ldm_tutorial adds {added:.3f} s (x{ratio:.3f}), its sampler {heavy:.2f} s")
    figures = {"seconds_torch": median(torch), "seconds_added": added, "ratio": ratio, "seconds_added_by_sampling": heavy}
    store("imports", {**figures, "pairs": pairs}, pairs == 1)


if __name__ == "__main__":
    main()
