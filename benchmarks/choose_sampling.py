"""Which way of sampling should be the one of `ldm generate`, the notebooks and `ldm evaluate`?

Chosen on pairs that were trained on and on the held-out pairs for choices ("held_out_dev"), never on those that are measured.
The rule stands here before anything is sampled: of the candidates that follow the prompt about as often as the best one (within
half a percent, both kinds of pairs together) and whose kernel distance to fresh renders is within the interval of the smallest
one, and that follow the free wording of the dev half about as well as the best of them (within two hundredths, for object and
material and for the background alike), the one that asks the U-Net least often.
"""

from machine import clock, options, store

CLOSE = 0.005  # shares of right pictures that count as equal
CLOSE_FREE = 0.02  # the same for free wording, where there are fewer prompts


def candidates() -> list:
    """Those of benchmarks/training.md, the default until then first."""
    from ldm_tutorial.settings import Sampling

    middle = (0.15, 0.75)
    return [
        Sampling("ddim", 20, 3.0),
        Sampling("unipc", 12, 3.0, (0.0, 0.75)),
        Sampling("unipc", 20, 3.0, middle),
        Sampling("unipc", 20, 2.5, middle),
        Sampling("unipc", 20, 2.0, middle),
        Sampling("unipc", 20, 3.0, (0.25, 0.6)),
        Sampling("unipc", 20, 2.5, (0.2, 0.65)),
        Sampling("unipc", 20, 2.0),
        Sampling("unipc", 20, 1.5),
        Sampling("unipc", 20, 1.0),
        Sampling("unipc", 12, 3.0, middle),
        Sampling("unipc", 12, 1.5),
        Sampling("ddim", 20, 3.0, middle),
        Sampling("dpm++", 20, 3.0, middle),
        Sampling("ddpm", 40, 1.5),
    ]


def calls(sampling) -> int:
    """How many pictures the U-Net is asked for in one run: two in a guided step, one in any other."""
    start, stop = (int(end * sampling.steps) for end in sampling.guidance_interval)
    guided = stop - start if sampling.guidance_scale > 1 else 0
    return sampling.steps + guided


def eligible(rows: list[dict]) -> list[dict]:
    """The rows that pass the rule's first two conditions: obedience in plain wording, and the kernel distance."""
    most = max(row["right"]["value"] for row in rows)
    obedient = [row for row in rows if row["right"]["value"] >= most - CLOSE]
    nearest = min(obedient, key=lambda row: row["kid"]["value"])
    return [row for row in obedient if row["kid"]["value"] <= nearest["kid"]["high"]]


def choose(rows: list[dict]) -> dict:
    """Of the eligible rows, with their free wording measured, the one that the rule picks."""
    left = rows
    for key in ("free_wording", "free_wording_background"):
        most = max(row[key]["value"] for row in rows)
        left = [row for row in left if row[key]["value"] >= most - CLOSE_FREE]
    return min(left or rows, key=lambda row: (row["unet_calls"], row["kid"]["value"]))


def main() -> None:
    given = options(__doc__, pictures=(328, "pictures of each kind of pair"))
    n = 8 if given.quick else given.pictures

    import dataclasses

    from ldm_tutorial.checkpoints import WEIGHTS, load_models
    from ldm_tutorial.curios import plain
    from ldm_tutorial.lab.commands import open_engine
    from ldm_tutorial.lab.evaluation import free_wording_scores
    from ldm_tutorial.measure.judge import labels_of, load_judge, predict_with_features
    from ldm_tutorial.measure.metrics import kernel_distance, rate, rate_by_group, spread
    from ldm_tutorial.measure.pictures import expected_prompts, renders, sample_many
    from ldm_tutorial.settings import Sampling

    models, judge = load_models(), load_judge()
    wanted = expected_prompts("train", n) + expected_prompts("held_out_dev", n)
    labels, prompts = labels_of(wanted), [plain(*w) for w in wanted]
    names = [f"{object} {material}" for object, material, _ in wanted]
    (_, real), (_, other) = (predict_with_features(judge, renders(wanted, seed, progress=False)[0]) for seed in (95, 96))
    floor = {"kid": kernel_distance(other, real), "frechet": spread(other, real)}
    rows = []
    for sampling in candidates()[: 3 if given.quick else None]:
        start = clock()
        engine = open_engine("auto", WEIGHTS, sampling)
        pictures = sample_many(models, prompts, 700_000, progress=False, sampling=sampling, engine=engine)
        seconds = (clock() - start) / len(wanted)
        verdicts, features = predict_with_features(judge, pictures)
        right = (verdicts == labels)[:, :2].all(1)
        row = {
            "sampling": dataclasses.asdict(sampling),
            "unet_calls": calls(sampling),
            "seconds": seconds,
            "right": rate_by_group(right, names),
            "right_trained": rate_by_group(right[:n], names[:n]),
            "right_held_out_dev": rate_by_group(right[n:], names[n:]),
            "background": rate((verdicts == labels)[:, 2]),
            "kid": kernel_distance(features, real),
            "frechet": spread(features, real),
        }
        rows.append(row)
        print(
            f"{sampling.sampler:6s}{sampling.steps:4d} steps, {sampling.guidance_scale} in {sampling.guidance_interval}:"
            f" right {row['right_trained']['value']:.1%} trained, {row['right_held_out_dev']['value']:.1%} held out;"
            f" KID {row['kid']['value']:.3f} ({row['kid']['low']:.3f} to {row['kid']['high']:.3f}),"
            f" Fréchet {row['frechet']['value']:.1f}; {row['unet_calls']} calls, {seconds:.2f} s",
            flush=True,
        )
    left = eligible(rows)
    for row in left:
        sampling = Sampling(**row["sampling"])
        engine = open_engine("auto", WEIGHTS, sampling)
        found = free_wording_scores(models, judge, "dev", 1, sampling, False, engine)
        row |= {key.removesuffix("_dev"): value for key, value in found.items()}
        print(f"{row['sampling']}: free wording {row['free_wording']['value']:.1%},", end=" ")
        print(f"background {row['free_wording_background']['value']:.1%}", flush=True)
    chosen = choose(left)
    print(f"renders to other renders: KID {floor['kid']['value']:.3f}, Fréchet {floor['frechet']['value']:.1f}")
    print(f"chosen: {chosen['sampling']}")
    figures = {"pictures": n, "floor": floor, "rows": rows, "chosen": chosen["sampling"]}
    store("choose_sampling", figures, given.quick)


if __name__ == "__main__":
    main()
