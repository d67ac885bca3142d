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

    from ldm_tutorial.curios import plain
    from ldm_tutorial.evaluation import examine, frechet_distance, labels_of, load_judge, paint, rate, renders, wishes
    from ldm_tutorial.models import load_models

    judge, models = load_judge(), load_models()
    wanted = (wishes("train", n - n // 2) + wishes("held_out", n // 2))[:n]
    prompts = [plain(*w) for w in wanted]
    real = examine(judge, renders(wanted, seed=91)[0])[1]
    curves: dict[str, list[dict]] = {}
    for sampler, counts in STEPS.items():
        for steps in counts[:2] if given.quick else counts:
            drawn: list[torch.Tensor] = []
            how = {"steps": steps, "sampler": sampler, "batch": 16}
            taken = seconds(lambda how=how, drawn=drawn: drawn.append(paint(models, prompts, 0, progress=False, **how)))
            seen, features = examine(judge, drawn[0])
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
