"""How many threads, and whether they spin while they wait: milliseconds of a guided step, of a batch's, of a training step,
of rendering.

Each way is a process of its own, since most of these settings are read once; all are asked in turn, on the machine as it is
("idle", beside whatever else runs: see the load average) and beside one more process that never rests ("busy").
"""

import json
import os
import subprocess
import sys
from statistics import median

from machine import LOAD, busy_core, options, store

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
ALL = os.cpu_count() or 1
WAYS = {  # name: engine, threads, environment, whether threads spin (the engine's own setting)
    "torch, all threads": ("torch", ALL, {}, True),
    "torch, all threads, PASSIVE": ("torch", ALL, {"OMP_WAIT_POLICY": "PASSIVE"}, False),
    "torch, all threads, SPINCOUNT=10000": ("torch", ALL, {"GOMP_SPINCOUNT": "10000"}, True),
    "torch, one thread less": ("torch", max(1, ALL - 1), {}, True),
    "ONNX Runtime, all threads": ("onnx", ALL, {}, True),
    "ONNX Runtime, all threads, not spinning": ("onnx", ALL, {}, False),
    "ONNX Runtime, one thread less": ("onnx", max(1, ALL - 1), {}, False),
}
JOBS = {
    "guided step": (2, 8),
    "step of a batch of 16": (32, 2),
    "training step": (16, 2),
    "rendering": (16, 1),
}  # pictures a call, calls a round
ONLY_TORCH = ("training step", "rendering")
# Waits for lines of JSON, each a job, and answers each with the milliseconds of its calls.
WORKER = """
import json, sys, time
import numpy as np
engine, threads, spin, folder = json.loads(sys.argv[1])
if engine == "torch":
    import copy, torch
    from ldm_tutorial.checkpoints import load_models
    torch.set_num_threads(threads)
    models = load_models(folder, "cpu")
    learner = copy.deepcopy(models.unet).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-4)
    from ldm_tutorial.curios import scene_at
    from ldm_tutorial.curios.render import render
else:
    import onnxruntime
    from ldm_tutorial.engine.engine import GRAPHS
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    unet = onnxruntime.InferenceSession(f"{folder}/{GRAPHS['unet']}", options, providers=["CPUExecutionProvider"])

def call(job, z, text):
    if engine == "onnx":
        unet.run(None, {"sample": z, "timestep": np.array(500), "encoder_hidden_states": text})
        return
    if job == "rendering":
        list(render([scene_at("train", i)[0] for i in range(len(z))], 64, "cpu"))
        return
    z, text = torch.from_numpy(z), torch.from_numpy(text)
    if job == "training step":
        learner(z, torch.tensor(500), text).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    else:
        with torch.no_grad():
            models.unet(z, torch.tensor(500), text)

print(json.dumps("ready"), flush=True)
rng = np.random.default_rng(0)
shape, width = (models.latent_shape(), models.unet.config.cross_attention_dim) if engine == "torch" else (
    [unet.get_inputs()[0].shape[k] for k in (1, 2, 3)], unet.get_inputs()[2].shape[2])
for line in sys.stdin:
    job, pictures, calls = json.loads(line)
    z = rng.standard_normal((pictures, *shape)).astype(np.float32)
    text = rng.standard_normal((pictures, 77, width)).astype(np.float32)
    taken = []
    for k in range(calls + 1):
        start = time.perf_counter()
        call(job, z, text)
        taken.append((time.perf_counter() - start) * 1000)
    print(json.dumps(taken[1:]), flush=True)  # the first one warms up
"""


class Worker:
    """A process that computes in one of the ways."""

    def __init__(self, way: tuple, folder: str):
        engine, threads, changes, spin = way
        environment = {name: value for name, value in os.environ.items() if name not in SETTINGS} | changes
        command = [sys.executable, "-c", WORKER, json.dumps([engine, threads, spin, folder])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended early")
        return json.loads(line)

    def ask(self, job: str, pictures: int, calls: int) -> list[float]:
        """Milliseconds of each call."""
        self.process.stdin.write(json.dumps([job, pictures, calls]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def main() -> None:
    given = options(__doc__, rounds=(4, "times that each way is asked, idle and busy"))
    rounds = 1 if given.quick else given.rounds

    from ldm_tutorial.checkpoints import WEIGHTS

    workers = {name: Worker(way, str(WEIGHTS)) for name, way in WAYS.items()}
    taken: dict[tuple, list[float]] = {}
    for _ in range(rounds):
        for state in ("idle", "busy"):
            with busy_core(state == "busy"):
                for job, (pictures, calls) in JOBS.items():
                    for name, worker in workers.items():
                        if job in ONLY_TORCH and WAYS[name][0] == "onnx":
                            continue
                        spent = worker.ask(job, pictures, 1 if given.quick else calls)
                        taken.setdefault((name, job, state), []).extend(spent)
    for worker in workers.values():
        worker.close()

    rows: dict[str, dict] = {name: {} for name in WAYS}
    for (name, job, state), spent in taken.items():
        rows[name].setdefault(job, {})[state] = {"median": median(spent), "lowest": min(spent)}
    print("milliseconds, median (lowest); idle / beside one busy core")
    for job in JOBS:
        print(f"\n{job}, {JOBS[job][0]} pictures a call")
        for name, found in rows.items():
            if job in found:
                cells = (f"{found[job][s]['median']:7.0f} ({found[job][s]['lowest']:.0f})" for s in ("idle", "busy"))
                print(f"  {name:40s} {' / '.join(cells)}")
    print(f"\nload average before it began: {LOAD:.1f} on {ALL} cores")
    store("threads", {"milliseconds": rows, "rounds": rounds, "clock": "wall clock"}, given.quick)


if __name__ == "__main__":
    main()
