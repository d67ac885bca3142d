"""1,000 renders on one core and on all cores, in one run: seconds of each and their ratio."""

import os
import tempfile

from machine import options, store


def main() -> None:
    given = options(__doc__)
    count = 64 if given.quick else 1024

    import time

    import torch

    from ldm_tutorial.curios import Curios, scene_at
    from ldm_tutorial.curios.render import render

    def seconds_a_thousand(work) -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1000 / count

    torch.set_num_threads(1)
    scenes = [scene_at("all", i, seed=1)[0] for i in range(count)]
    list(render(scenes[:32]))  # warm up
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LDM_TUTORIAL_CACHE"] = cache
        one = seconds_a_thousand(lambda: list(render(scenes)))
        # starting the processes and writing the cache included
        every = seconds_a_thousand(lambda: Curios("all", count, seed=1, progress=False))
        again = seconds_a_thousand(lambda: Curios("all", count, seed=1, progress=False))
    cores = os.cpu_count()
    print(f"1,000 pictures: 1 core {one:.1f} s, {cores} cores {every:.1f} s (x{one / every:.2f}), cached {again:.2f} s")
    figures = {"seconds_one_core": one, "seconds_all_cores": every, "speed_up": one / every, "seconds_cached": again}
    store("render", {"pictures": count, **figures}, given.quick)


if __name__ == "__main__":
    main()
