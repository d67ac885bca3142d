"""`ldm evaluate`: every number of the model card."""

from __future__ import annotations

import dataclasses
import time

import torch
from torch import Tensor, nn

from ..curios import BACKGROUNDS, Curios, pairs, plain
from ..images import psnr, to_model
from ..measure.judge import Judge, labels_of, predict, predict_with_features
from ..measure.maps import heat_map_scores
from ..measure.metrics import average, nearest, rate, spread
from ..measure.pictures import ARTICLE_PROMPT, EVAL_SAMPLING, expected_prompts, renders, sample_many, to_64
from ..measure.report import GOALS
from ..models import Models
from ..sampling import sample

SIZES = {  # prompts of each kind, avocado armchairs, article's prompts, reconstructions, heat maps, training pictures
    "full": {"prompts": 2048, "avocado": 100, "article": 20, "psnr": 1024, "maps": 512, "train": 16_384},
    "quick": {"prompts": 164, "avocado": 24, "article": 8, "psnr": 128, "maps": 96, "train": 2_048},
}


@torch.no_grad()
def clip_top1(clip: nn.Module, tokenizer, n: int = 256) -> dict:
    """How often CLIP picks the right one of n captions for a render of a held-out pair, each caption naming object,
    material and background, all different."""
    device = clip.device
    triples = [(o, m, b) for o, m in pairs("held_out") for b in BACKGROUNDS]
    wanted = [triples[i * len(triples) // n] for i in range(n)]
    images, _ = renders(wanted, seed=77, progress=False, size=clip.config.vision_config.image_size)
    ids = tokenizer([plain(*w) for w in wanted], padding="longest", return_tensors="pt").input_ids.to(device)
    text = clip(input_ids=ids, pixel_values=to_model(images[:1]).to(device)).text_embeds
    image = torch.cat([clip(input_ids=ids[:1], pixel_values=to_model(x).to(device)).image_embeds for x in images.split(128)])
    return rate((image @ text.T).argmax(1).cpu() == torch.arange(n))


def seconds_per_image(models: Models, times: int = 5) -> dict:
    """One picture at a time, 20 steps with guidance, models loaded: the median, the fastest and the slowest."""
    taken = []
    for k in range(times + 1):  # the first one warms up
        start = time.perf_counter()
        sample(models, ["an armchair made of avocado"], [k], steps=20, progress=False)
        taken.append(time.perf_counter() - start)
    taken = sorted(taken[1:])
    return {"value": taken[len(taken) // 2], "n": times, "low": taken[0], "high": taken[-1]}


def evaluate(models: Models, clip: nn.Module, judge: Judge, size: str = "full", progress: bool = True) -> tuple[dict, Tensor]:
    """Every number of :data:`GOALS`, each ``{"value", "n", "low", "high"}``, and the generated pictures uint8 [N, 64, 64, 3]
    (a smaller model's enlarged), trained pairs first, in the order of :func:`expected_prompts`."""
    n, how = SIZES[size], {"sampler": dataclasses.asdict(EVAL_SAMPLING)}
    out = {"seconds_per_image": seconds_per_image(models)}
    real = Curios("validation", n["psnr"], 9, models.resolution, progress).images
    out["psnr"] = average(
        torch.cat([psnr(to_model(x), models.decode(models.encode(to_model(x))).cpu()) for x in real.split(64)])
    )
    out["clip_top1"] = clip_top1(clip, models.tokenizer)
    out |= heat_map_scores(models, n["maps"], progress)

    wanted = expected_prompts("train", n["prompts"]) + expected_prompts("held_out", n["prompts"])
    pictures = to_64(sample_many(models, [plain(*w) for w in wanted], 100_000, progress))
    seen, features = predict_with_features(judge, pictures)
    right = seen == labels_of(wanted)
    pair = right[:, :2].all(1)
    out["prompt_trained"], out["prompt_heldout"] = rate(pair[: n["prompts"]]) | how, rate(pair[n["prompts"] :]) | how
    out["background"] = rate(right[:, 2]) | how
    target = labels_of([("armchair", "avocado", "pink")])[:, :2]
    for key, prompt, count in (
        ("avocado_armchair", plain("armchair", "avocado"), n["avocado"]),
        ("article_prompt", ARTICLE_PROMPT, n["article"]),
    ):
        drawn = to_64(sample_many(models, [prompt] * count, 200_000, progress))
        out[key] = rate((predict(judge, drawn)[:, :2] == target).all(1)) | how

    views = [renders(wanted, seed, progress)[0] for seed in (91, 92)]
    judged = [predict_with_features(judge, v) for v in views]
    out["judge_validation"] = rate((judged[0][0] == labels_of(wanted)).all(1))
    out["frechet"], out["frechet_real"] = spread(features, judged[0][1]) | how, spread(judged[1][1], judged[0][1])
    training = Curios("train", n["train"], progress=progress).images
    some = slice(0, None, max(1, len(wanted) // 256))
    out["nearest_generated"] = average(nearest(pictures[some], training))
    out["nearest_real"] = average(nearest(views[0][some], training))
    return {key: out[key] for key in GOALS}, pictures


def one_a_pair(models: Models, pictures: Tensor, n: int) -> Tensor:
    """One of the pictures of :func:`evaluate` for each pair, in the order of ``pairs("all")``; missing ones are painted."""
    found: dict[tuple[str, str], Tensor] = {}
    for wish, picture in zip(expected_prompts("train", n) + expected_prompts("held_out", n), pictures, strict=True):
        found.setdefault(wish[:2], picture)
    missing = [p for p in pairs("all") if p not in found]
    if missing:
        found |= dict(zip(missing, to_64(sample_many(models, [plain(*p) for p in missing], 300_000)), strict=True))
    return torch.stack([found[p] for p in pairs("all")])
