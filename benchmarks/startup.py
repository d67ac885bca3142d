"""From the shell to the answer: `ldm --help`, a wrong option, `ldm generate`, and the same picture by plain diffusers.

Each is a new process, by the wall clock; all of them are run in turn, and a first round, which only warms the disk's cache up,
is not counted. `ldm generate` and plain diffusers are run once more in each round beside a process that never rests.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import LOAD, busy_core, options, store

PROMPT = "an armchair made of avocado"
LDM = [sys.executable, "-m", "ldm_tutorial.lab.cli"]
PLAIN = """
import sys
import torch
from diffusers import StableDiffusionPipeline
folder, prompt, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder)
g = torch.Generator().manual_seed(0)
pipe(prompt, num_inference_steps=20, guidance_scale=3.0, generator=g).images[0].save(out)
"""
COMMANDS = {  # name: the command, and the exit status that it must have
    "help": ([*LDM, "--help"], 0),
    "wrong_option": ([*LDM, "generate", PROMPT, "--no-such-option"], 2),
    "generate": ([*LDM, "generate", PROMPT, "--sampler", "ddim", "--out", "picture.png"], 0),
    "generate_with_torch": ([*LDM, "generate", PROMPT, "--sampler", "ddim", "--engine", "torch", "--out", "picture.png"], 0),
    "plain_diffusers": ([sys.executable, "-c", PLAIN, "WEIGHTS", PROMPT, "picture.png"], 0),
}

ROWS = [(name, name, False) for name in COMMANDS]  # name, command, whether a core is busy meanwhile
ROWS += [(f"{name}_beside_a_busy_core", name, True) for name in ("generate", "plain_diffusers")]


def seconds(command: list[str], status: int) -> float:
    """How long a command takes, in an empty folder."""
    from ldm_tutorial.files import WEIGHTS

    command = [str(WEIGHTS) if word == "WEIGHTS" else word for word in command]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        taken = time.perf_counter() - start
        if done.returncode != status:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
        if "picture.png" in command and not (Path(folder) / "picture.png").exists():
            raise RuntimeError(f"{command} made no picture")
    return taken


def main() -> None:
    given = options(__doc__, rounds=(3, "rounds that count"))
    rounds = 1 if given.quick else given.rounds
    taken: dict[str, list[float]] = {name: [] for name, _, _ in ROWS}
    for k in range(rounds + 1):
        for name, command, busy in ROWS:
            with busy_core(busy):
                spent = seconds(*COMMANDS[command])
            if k > 0:
                taken[name].append(spent)
    figures = {name: {"median": median(s), "lowest": min(s), "highest": max(s)} for name, s in taken.items()}
    for name, found in figures.items():
        print(f"{name:34s} {found['median']:5.2f} s ({found['lowest']:.2f} to {found['highest']:.2f})")
    ratio = median(b / a for a, b in zip(taken["generate"], taken["plain_diffusers"], strict=True))
    print(f"ldm generate is {ratio:.2f} times as fast as plain diffusers' script; load average before it began: {LOAD:.1f}")
    store("startup", {"seconds": figures, "ratio": ratio, "rounds": rounds, "clock": "wall clock"}, given.quick)


if __name__ == "__main__":
    main()
