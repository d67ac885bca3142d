"""The engine (ONNX Runtime and numpy) against ``StableDiffusionPipeline.__call__``: same weights, prompts, steps and noise.

One picture and a batch of 16, with one thread and with all cores, each pair in turn by the wall clock; the pictures must be
equal to 1 of 255. Then equal quality: against 50 DDIM steps of the pipeline, the default way of sampling, and the way with the
fewest steps that ``fast_sampling.py`` found as good. Ratios above 1 mean that the engine is faster. Then how near
both come to the processor's limit: operations a second of one U-Net call for a batch of 32, on one thread, beside those of a
plain matrix product. Last, what each needs of memory: the peak of a process that does nothing else.

PyTorch's threads spin while they wait, the engine's sleep. With ``OMP_WAIT_POLICY=PASSIVE`` before the command PyTorch's sleep
too, as in notebooks and `ldm` (docs/architecture.md, Threads): those figures are stored as ``engine_sleeping``.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial

import machine
from machine import RESULTS, compare, options, store

PROMPTS = ["an armchair made of avocado on a pink background", "a golden duck", "a zebra-striped teapot on grey", "a brick bed"]
# Linux counts what the parent held before it started the child among the child's `ru_maxrss`, but not in VmHWM.
PEAK = """
from pathlib import Path
status = Path("/proc/self/status")
if status.exists():
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    print(int(line.split()[1]) * 1024)
else:
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
"""
ENGINE_PROCESS = f"""
from ldm_tutorial.engine import Engine
Engine().sample(["a golden duck"], [0])
{PEAK}
"""
PIPELINE_PROCESS = f"""
import sys
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe("a golden duck", num_inference_steps=20, guidance_scale=3.0)
{PEAK}
"""


def peak_bytes(code: str, *arguments: str) -> int:
    """The largest memory that a process of this code ever held."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def operations_a_second(engine, unet, quick: bool) -> dict[str, float]:
    """Billions of operations a second of one thread: a product of two matrices, the U-Net by the engine, and by torch."""
    import numpy as np
    import torch
    from threadpoolctl import threadpool_limits
    from torch.utils.flop_counter import FlopCounterMode

    side, batch = (256, 2) if quick else (2048, 32)
    rng = np.random.default_rng(0)
    one, other = rng.random((2, side, side), np.float32)
    z = rng.standard_normal((batch, 8, 16, 16), np.float32)
    text = rng.standard_normal((batch, 77, 128), np.float32)
    inputs = torch.from_numpy(z), 500, torch.from_numpy(text)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(*inputs)
    work = counter.get_total_flops()

    def rate(operations: float, call) -> float:
        call()  # warm up
        spent = []
        for _ in range(2 if quick else 8):
            start = time.process_time()
            call()
            spent.append(time.process_time() - start)
        return operations / min(spent) / 1e9

    with threadpool_limits(1), torch.no_grad():
        return {
            "matrix_product": rate(2 * side**3, lambda: one @ other),
            "engine": rate(work, lambda: engine.predict(z, 500, text)),
            "torch": rate(work, lambda: unet(*inputs)),
        }


def main() -> None:
    given = options(__doc__, pairs=(7, "timed pairs"))
    sleeping = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    pairs, steps = (1, 2) if given.quick else (given.pairs, 20)

    import numpy as np
    import torch
    from diffusers import StableDiffusionPipeline

    from ldm_tutorial.engine import Engine
    from ldm_tutorial.files import WEIGHTS
    from ldm_tutorial.sampling import generators
    from ldm_tutorial.settings import DEFAULT_SAMPLING, Sampling
    from ldm_tutorial.storage.threads import available_cores

    machine.clock, machine.clock_name = time.perf_counter, lambda: "wall clock"  # the engine's threads are not torch's
    pipe = StableDiffusionPipeline.from_pretrained(str(WEIGHTS))
    pipe.set_progress_bar_config(disable=True)
    ddim = Sampling("ddim", steps, 3.0)
    record = json.loads((RESULTS / "fast_sampling.json").read_text(encoding="utf-8"))
    fewest_steps = Sampling(**record["sampling"])

    def pipeline(prompts: list[str], seeds: list[int], steps: int) -> np.ndarray:
        images = pipe(
            prompts, num_inference_steps=steps, guidance_scale=3.0, generator=generators(seeds), output_type="np"
        ).images
        return (images * 255).round().astype(np.uint8)

    figures: dict = {"steps": steps, "guidance_scale": 3.0}
    for threads in sorted({1, available_cores()}):
        torch.set_num_threads(threads)
        engine = Engine(threads=threads)
        for batch in (1, 16):
            prompts, seeds = [PROMPTS[k % len(PROMPTS)] for k in range(batch)], list(range(batch))
            ours = partial(engine.sample, prompts, seeds, ddim)
            theirs = partial(pipeline, prompts, seeds, steps)
            apart = int(np.abs(ours().astype(int) - theirs()).max())
            assert apart <= 1, f"the pictures differ by {apart} of 255"
            found = compare(ours, theirs, pairs)
            print(f"{threads} thread(s), batch {batch}: {found['ratio']:.2f} times the pipeline ({found['lowest']:.2f} to")
            print(f"    {found['highest']:.2f}), {found['seconds_ours']:.2f} s against {found['seconds_theirs']:.2f}")
            figures[f"threads_{threads}_batch_{batch}"] = {**found, "largest_difference": apart}
        prompts, seeds = PROMPTS[:1], [0]
        theirs = partial(pipeline, prompts, seeds, 2 if given.quick else 50)
        for name, sampling in {"default": DEFAULT_SAMPLING, "equal_quality": fewest_steps}.items():
            found = compare(partial(engine.sample, prompts, seeds, sampling), theirs, pairs)
            what = f"{sampling.steps} steps of {sampling.sampler} against 50 DDIM steps"
            print(f"{threads} thread(s), {what}: {found['ratio']:.2f} times ({found['lowest']:.2f} to {found['highest']:.2f})")
            figures[f"threads_{threads}_{name}"] = found | {"steps": sampling.steps}
    torch.set_num_threads(1)
    figures["gflops_one_thread"] = operations_a_second(Engine(threads=1), pipe.unet, given.quick)
    print("billions of operations a second, one thread:", {k: round(v) for k, v in figures["gflops_one_thread"].items()})
    peaks = {"engine": peak_bytes(ENGINE_PROCESS), "plain_diffusers": peak_bytes(PIPELINE_PROCESS, str(WEIGHTS))}
    print(f"peak of memory: {peaks['engine'] / 2**20:.0f} MiB, plain diffusers {peaks['plain_diffusers'] / 2**20:.0f} MiB")
    store("engine_sleeping" if sleeping else "engine", figures | {"peak_bytes": peaks}, given.quick)


if __name__ == "__main__":
    main()
