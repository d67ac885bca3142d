"""Steps against quality for DDPM, DDIM, DPM-Solver++ and UniPC: the fewest steps that keep 98% of the quality.

Quality is the share of pictures whose object and material the judge names right; all of it is the best share of any sampler.
Shares saturate early, so the Fréchet distance to fresh renders is beside them: the fewest steps within 5% of its best.
"""

from machine import options, seconds, store

FEW = (2, 3, 5, 8, 12, 20)
STEPS = {"ddpm": (5, 10, 20, 50, 100), "ddim": (*FEW, 35, 50), "dpm++": FEW, "unipc": FEW}


def fewest(curve: list[dict], good) -> int | None:
    """The smallest number of steps from which on all points of a curve are good; None where the last one isn't."""
    kept = None
    for point in sorted(curve, key=lambda p: -p["steps"]):
        if not good(point):
            break
        kept = point["steps"]
    return kept


def main() -> None:
    given = options(__doc__, pictures=(192, "pictures for each point"))
    n = 8 if given.quick else given.pictures

    import torch

    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.curios import plain
    from ldm_tutorial.measure.judge import labels_of, load_judge, predict_with_features
    from ldm_tutorial.measure.metrics import frechet_distance, rate
    from ldm_tutorial.measure.pictures import expected_prompts, renders, sample_many
    from ldm_tutorial.settings import Sampling

    judge, models = load_judge(), load_models()
    wanted = (expected_prompts("train", n - n // 2) + expected_prompts("held_out", n // 2))[:n]
    prompts = [plain(*w) for w in wanted]
    real = predict_with_features(judge, renders(wanted, seed=91)[0])[1]
    curves: dict[str, list[dict]] = {}
    for sampler, counts in STEPS.items():
        for steps in counts[:2] if given.quick else counts:
            drawn: list[torch.Tensor] = []
            how = {"sampling": Sampling(sampler, steps), "progress": False}
            taken = seconds(lambda how=how, drawn=drawn: drawn.append(sample_many(models, prompts, 0, **how)))
            seen, features = predict_with_features(judge, drawn[0])
            right = rate((seen == labels_of(wanted))[:, :2].all(1))
            point = {"steps": steps, "right": right, "frechet": frechet_distance(features, real), "seconds": taken / n}
            curves.setdefault(sampler, []).append(point)
            print(
                f"{sampler:6s} {steps:4d} steps: {right['value']:6.1%} right, Fréchet distance {point['frechet']:8.3f}, "
                f"{point['seconds']:.3f} s a picture",
                flush=True,
            )
    points = [p for curve in curves.values() for p in curve]
    best, nearest = max(p["right"]["value"] for p in points), min(p["frechet"] for p in points)
    knee = {
        name: {
            "steps_98_percent_right": fewest(curve, lambda p: p["right"]["value"] >= 0.98 * best),
            "steps_frechet_within_5_percent": fewest(curve, lambda p: p["frechet"] <= 1.05 * nearest),
        }
        for name, curve in curves.items()
    }
    for name, found in knee.items():
        print(f"{name}: 98% of the quality from {found['steps_98_percent_right']} steps, ", end="")
        print(f"Fréchet distance within 5% of the best from {found['steps_frechet_within_5_percent']}")
    store("steps", {"pictures": n, "best_right": best, "best_frechet": nearest, "knee": knee, "curves": curves}, given.quick)


if __name__ == "__main__":
    main()
