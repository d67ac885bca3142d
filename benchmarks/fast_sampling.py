"""As good as the pipeline's 50 DDIM steps, in how much less time? Judged on the same prompts and the same noise.

Ours is the engine with a better solver (UniPC) in few steps, guidance only in the middle of the run, each text encoded once.
How few steps is chosen on one half of the prompts: the fewest for which, and for every candidate with more, the pictures are as
good as those of 50 DDIM steps. What is reported is measured on the other half: other held-out pairs, other noise. Quality is
the share of pictures whose object and material the judge names right (within half a percent), and the Fréchet distance to fresh
renders (within 5%).
"""

from machine import clock, options, store, summary

BATCH = 16
CANDIDATES = (12, 10, 8, 6)  # steps


def as_good(ours: dict, theirs: dict) -> bool:
    """The rule: verdicts within half a percent, distance within 5%."""
    return ours["right"]["value"] >= theirs["right"]["value"] - 0.005 and ours["frechet"] <= 1.05 * theirs["frechet"]


def fewest(rows: list[dict], theirs: dict) -> int | None:
    """Of the candidates, from most steps to fewest, the last one before the first that is not as good."""
    found = None
    for row in rows:
        if not as_good(row, theirs):
            break
        found = row["steps"]
    return found


def main() -> None:
    given = options(__doc__, pictures=(512, "pictures of each half"))
    n = 32 if given.quick else given.pictures

    from dataclasses import asdict, replace

    import torch
    from diffusers import StableDiffusionPipeline
    from tqdm.auto import tqdm

    from ldm_tutorial.curios import plain
    from ldm_tutorial.engine import Engine
    from ldm_tutorial.files import WEIGHTS
    from ldm_tutorial.measure.judge import labels_of, load_judge, predict_with_features
    from ldm_tutorial.measure.metrics import frechet_distance, rate
    from ldm_tutorial.measure.pictures import expected_prompts, renders
    from ldm_tutorial.sampling import generators
    from ldm_tutorial.settings import DEFAULT_SAMPLING

    judge = load_judge()
    engine = Engine(threads=torch.get_num_threads())
    pipe = StableDiffusionPipeline.from_pretrained(str(WEIGHTS))
    pipe.set_progress_bar_config(disable=True)

    def pipeline(prompts: list[str], seeds: list[int]):
        images = pipe(prompts, guidance_scale=3.0, generator=generators(seeds), output_type="np").images
        return (images * 255).round().astype("uint8")

    def few_steps(steps: int):
        way = replace(DEFAULT_SAMPLING, steps=steps)
        return lambda prompts, seeds: engine.sample(prompts, seeds, way)

    def draw(ways: dict, wanted: list, first_seed: int) -> tuple[dict, dict]:
        """Pictures and seconds of each way, batch by batch in turn."""
        drawn: dict = {name: [] for name in ways}
        taken: dict = {name: [] for name in ways}
        for i in tqdm(range(0, len(wanted), BATCH), desc="batches", mininterval=10):
            prompts = [plain(*w) for w in wanted[i : i + BATCH]]
            seeds = [first_seed + i + k for k in range(len(prompts))]
            for name, way in ways.items():
                if i == 0:
                    way(prompts, seeds)  # warm up
                start = clock()
                drawn[name].append(torch.as_tensor(way(prompts, seeds)))
                taken[name].append(clock() - start)
        return {name: torch.cat(pictures) for name, pictures in drawn.items()}, taken

    def measure(pictures: torch.Tensor, wanted: list, real: torch.Tensor) -> dict:
        seen, features = predict_with_features(judge, pictures)
        right = (seen == labels_of(wanted))[:, :2].all(1)
        return {"right": rate(right), "frechet": frechet_distance(features, real)}

    def half(split: str) -> list:
        return (expected_prompts("train", n - n // 2) + expected_prompts(split, n // 2))[:n]

    wanted = half("held_out_dev")
    ways = {"theirs": pipeline, **{steps: few_steps(steps) for steps in CANDIDATES}}
    drawn, _ = draw(ways, wanted, 0)
    real = predict_with_features(judge, renders(wanted, seed=91)[0])[1]
    theirs = measure(drawn["theirs"], wanted, real)
    rows = [{"steps": steps, **measure(drawn[steps], wanted, real)} for steps in CANDIDATES]
    for row in rows:
        verdict = "as good" if as_good(row, theirs) else "not as good"
        ratio = row["frechet"] / theirs["frechet"]
        print(f"{row['steps']:3d} steps: right {row['right']['value']:.1%}, Fréchet x{ratio:.3f}: {verdict}", flush=True)
    chosen = fewest(rows, theirs) or max(CANDIDATES)

    wanted = half("held_out_test")
    drawn, taken = draw({"theirs": pipeline, "ours": few_steps(chosen)}, wanted, 100_000)
    real = predict_with_features(judge, renders(wanted, seed=92)[0])[1]
    figures: dict = {
        "sampling": asdict(replace(DEFAULT_SAMPLING, steps=chosen)),
        "pictures": n,
        "batch": BATCH,
        "choice": {"theirs": theirs, "rows": rows},
        "speed": summary(taken["ours"], taken["theirs"]),
        "ours": measure(drawn["ours"], wanted, real),
        "theirs": measure(drawn["theirs"], wanted, real),
    }
    ours, theirs = figures["ours"], figures["theirs"]
    figures["difference_right"] = ours["right"]["value"] - theirs["right"]["value"]
    figures["frechet_ratio"] = ours["frechet"] / theirs["frechet"]
    figures["equal_quality"] = as_good(ours, theirs)
    print(f"chosen: {chosen} steps, then on other prompts and noise:")
    print(f"{figures['speed']['ratio']:.2f} times as fast as the pipeline's 50 DDIM steps ({n} pictures, {BATCH} at a time)")
    print(f"object and material right: ours {ours['right']['value']:.2%}, theirs {theirs['right']['value']:.2%}")
    print(f"Fréchet distance: ours {ours['frechet']:.3f}, theirs {theirs['frechet']:.3f} (x{figures['frechet_ratio']:.3f})")
    print(f"equal quality (verdicts within half a percent, distance within 5%): {figures['equal_quality']}")
    store("fast_sampling", figures, given.quick)


if __name__ == "__main__":
    main()
