"""1,000 renders on one core and on all cores, in one run: seconds of each and their ratio."""

import os
import tempfile
import time

if __name__ == "__main__":
    os.environ["LDM_TUTORIAL_CACHE"] = tempfile.mkdtemp()

    import torch
    from machine import store

    from ldm_tutorial.curios import Curios, scene_at
    from ldm_tutorial.curios.render import render

    torch.set_num_threads(1)
    scenes = [scene_at("all", i, seed=1)[0] for i in range(1024)]
    list(render(scenes[:32]))  # warm up
    start = time.perf_counter()
    list(render(scenes))
    one = (time.perf_counter() - start) / 1.024
    start = time.perf_counter()
    Curios("all", 1024, seed=1, progress=False)
    every = (time.perf_counter() - start) / 1.024  # starting the processes and writing the cache included
    start = time.perf_counter()
    Curios("all", 1024, seed=1, progress=False)
    again = (time.perf_counter() - start) / 1.024
    speed_up, cores = one / every, os.cpu_count()
    print(f"1,000 pictures: 1 core {one:.1f} s, {cores} cores {every:.1f} s (x{speed_up:.2f}), cached {again:.2f} s")
    store("render", {"seconds_one_core": one, "seconds_all_cores": every, "speed_up": speed_up, "seconds_cached": again})
