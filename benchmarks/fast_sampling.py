"""As good as the pipeline's 50 DDIM steps, in how much less time? Judged on the same prompts and the same noise.

Ours is ``settings.DEFAULT_SAMPLING``: a better solver in fewer steps, guidance only in part of the run, each text encoded once.
Quality is the share of pictures whose object and material the judge names right, and the Fréchet distance to fresh renders.
"""

from machine import clock, options, store, summary

BATCH = 16


def main() -> None:
    given = options(__doc__, pictures=(1024, "pictures of each kind"))
    n = 32 if given.quick else given.pictures

    from dataclasses import asdict

    import torch
    from diffusers import StableDiffusionPipeline
    from tqdm.auto import tqdm

    from ldm_tutorial.checkpoints import WEIGHTS, load_models
    from ldm_tutorial.curios import plain
    from ldm_tutorial.measure.judge import labels_of, load_judge, predict_with_features
    from ldm_tutorial.measure.metrics import frechet_distance, rate
    from ldm_tutorial.measure.pictures import expected_prompts, renders
    from ldm_tutorial.sampling import generators, sample
    from ldm_tutorial.settings import DEFAULT_SAMPLING

    judge, models = load_judge(), load_models()
    pipe = StableDiffusionPipeline.from_pretrained(str(WEIGHTS)).to(models.device)
    pipe.set_progress_bar_config(disable=True)
    wanted = (expected_prompts("train", n - n // 2) + expected_prompts("held_out", n // 2))[:n]
    drawn, taken = {"ours": [], "theirs": []}, {"ours": [], "theirs": []}
    for i in tqdm(range(0, n, BATCH), desc="batches", mininterval=10):
        prompts = [plain(*w) for w in wanted[i : i + BATCH]]
        seeds = list(range(i, i + len(prompts)))

        def ours(prompts=prompts, seeds=seeds):
            return sample(models, prompts, seeds, DEFAULT_SAMPLING, progress=False)

        def theirs(prompts=prompts, seeds=seeds):
            images = pipe(prompts, guidance_scale=3.0, generator=generators(seeds), output_type="np").images
            return (images * 255).round().astype("uint8")

        if i == 0:
            ours(), theirs()  # warm up
        for name, draw in {"ours": ours, "theirs": theirs}.items():
            start = clock()
            drawn[name].append(torch.as_tensor(draw()))
            taken[name].append(clock() - start)

    real = predict_with_features(judge, renders(wanted, seed=91)[0])[1]
    figures: dict = {
        "sampling": asdict(DEFAULT_SAMPLING),
        "pictures": n,
        "batch": BATCH,
        "speed": summary(taken["ours"], taken["theirs"]),
    }
    for name, pictures in drawn.items():
        seen, features = predict_with_features(judge, torch.cat(pictures))
        right = (seen == labels_of(wanted))[:, :2].all(1)
        figures[name] = {"right": rate(right), "frechet": frechet_distance(features, real)}
    ours, theirs = figures["ours"], figures["theirs"]
    figures["difference_right"] = ours["right"]["value"] - theirs["right"]["value"]
    figures["frechet_ratio"] = ours["frechet"] / theirs["frechet"]
    figures["equal_quality"] = figures["difference_right"] >= -0.005 and figures["frechet_ratio"] <= 1.05
    print(f"{figures['speed']['ratio']:.2f} times as fast as the pipeline's 50 DDIM steps ({n} pictures)")
    print(f"object and material right: ours {ours['right']['value']:.2%}, theirs {theirs['right']['value']:.2%}")
    print(f"Fréchet distance: ours {ours['frechet']:.3f}, theirs {theirs['frechet']:.3f} (x{figures['frechet_ratio']:.3f})")
    print(f"equal quality (verdicts within half a percent, distance within 5%): {figures['equal_quality']}")
    store("fast_sampling", figures, given.quick)


if __name__ == "__main__":
    main()
