"""`ldm evaluate`: every number of the model card."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from ..clip import embed_images, embed_texts
from ..curios import BACKGROUNDS, Curios, pairs, plain
from ..images import psnr, to_model
from ..measure.judge import Judge, labels_of, names_of, predict, predict_with_features
from ..measure.maps import heat_map_scores
from ..measure.metrics import average, kernel_distance, nearest, rate, rate_by_group, spread
from ..measure.pictures import ARTICLE_PROMPT, accepted_prompt, expected_prompts, free_wording, renders, sample_many, to_64
from ..measure.report import GOALS
from ..models import Models
from ..settings import DEFAULT_SAMPLING, Sampling

# Prompts of each kind, avocado armchairs, article's prompts, seeds a prompt in free wording, reconstructions, views a caption
# for CLIP, heat maps, training pictures
SIZES = {
    "full": {"prompts": 2048, "avocado": 100, "article": 20, "free": 4, "psnr": 1024, "views": 2, "maps": 512, "train": 16_384},
    "quick": {"prompts": 164, "avocado": 24, "article": 8, "free": 1, "psnr": 128, "views": 1, "maps": 96, "train": 2_048},
}


def on_each_background(split: str) -> list[tuple[str, str, str]]:
    """Every pair of a split on every background: (object, material, background)."""
    scenes = []
    for object, material in pairs(split):
        for background in BACKGROUNDS:
            scenes.append((object, material, background))
    return scenes


def clip_top1(clip: CLIPModel, tokenizer, views: int = 2, choices: int = 256) -> dict:
    """How often CLIP picks the right one of 256 captions for a render of a held-out pair, each caption naming object, material
    and background, all different: the 168 of "held_out_test", so many views of each, and others of "held_out_dev" as rivals."""
    tested, rivals = on_each_background("held_out_test"), on_each_background("held_out_dev")
    captions = [plain(*w) for w in (tested + rivals)[:choices]]
    images, _ = renders(tested * views, seed=77, progress=False, size=clip.config.vision_config.image_size)
    scores = embed_images(clip, to_model(images)) @ embed_texts(clip, tokenizer, captions).T
    right = scores.argmax(1) == torch.arange(len(tested)).repeat(views)
    return rate_by_group(right, [f"{o} {m}" for o, m, _ in tested * views])


def seconds(work: Callable[[int], object], times: int) -> dict:
    """How long ``work(k)`` takes by the clock: the median of so many times as "value", the fastest as "low", the slowest as
    "high"."""
    taken = []
    for k in range(times):
        start = time.perf_counter()
        work(k)
        taken.append(time.perf_counter() - start)
    taken.sort()
    return {"value": taken[times // 2], "n": times, "low": taken[0], "high": taken[-1]}


def free_wording_scores(
    models: Models,
    judge: Judge,
    half: str = "test",
    seeds: int = 4,
    sampling: Sampling = DEFAULT_SAMPLING,
    progress: bool = True,
    engine=None,
) -> dict[str, dict]:
    """Object and material right for prompts in free wording (a prompt that is refused counts as wrong), and the background
    where the prompt names it. The intervals are by prompt. With ``half="dev"`` the keys end in ``_dev``."""
    rows = []
    for row in free_wording(half):
        rows += [row] * seeds
    prompts = [accepted_prompt(row["prompt"], models.tokenizer) for row in rows]
    accepted = torch.tensor([prompt is not None for prompt in prompts])
    pictures = to_64(sample_many(models, [prompt for prompt in prompts if prompt], 400_000, progress, sampling, engine))
    wanted = labels_of([(row["object"], row["material"], row["background"] or BACKGROUNDS[0]) for row in rows])
    right = torch.zeros(len(rows), 3, dtype=torch.bool)
    right[accepted] = predict(judge, pictures) == wanted[accepted]
    named = torch.tensor([bool(row["background"]) for row in rows])
    texts = [row["prompt"] for row in rows]
    named_texts = [row["prompt"] for row in rows if row["background"]]
    end = "" if half == "test" else f"_{half}"
    return {
        f"free_wording{end}": rate_by_group(right[:, :2].all(1), texts),
        f"free_wording_background{end}": rate_by_group(right[named, 2], named_texts),
    }


def evaluated_prompts(n: int) -> list[tuple[str, str, str]]:
    """What the pictures of :func:`evaluate` should show: n of trained pairs, n of held-out ones."""
    return expected_prompts("train", n) + expected_prompts("held_out_test", n)


def evaluate(
    models: Models,
    clip: CLIPModel,
    judge: Judge,
    size: str = "full",
    progress: bool = True,
    sampling: Sampling = DEFAULT_SAMPLING,
    second: Judge | None = None,
    engine=None,
) -> tuple[dict, Tensor]:
    """Every number of :data:`GOALS`, each ``{"value", "n", "low", "high"}``, and the generated pictures uint8 [N, 64, 64, 3]
    (a smaller model's enlarged), in the order of :func:`evaluated_prompts`. Without a second judge its two numbers are left
    out. With an ``engine`` of the same model the pictures are drawn by it."""
    n, how = SIZES[size], {"sampler": dataclasses.asdict(sampling)}
    out = seconds_of_pictures(models, sampling, engine)
    real = Curios("validation", n["psnr"], 9, models.resolution, progress).images
    decoded = [psnr(to_model(x), models.decode(models.encode(to_model(x))).cpu()) for x in real.split(64)]
    out["psnr"] = average(torch.cat(decoded))
    out["clip_top1"] = clip_top1(clip, models.tokenizer, n["views"])
    out |= heat_map_scores(models, n["maps"], progress)

    wanted, half = evaluated_prompts(n["prompts"]), n["prompts"]
    pictures = to_64(sample_many(models, [plain(*w) for w in wanted], 100_000, progress, sampling, engine))
    seen, features = predict_with_features(judge, pictures)
    right = seen == labels_of(wanted)
    follows = right[:, :2].all(1)
    names = [f"{object} {material}" for object, material, _ in wanted]
    out["prompt_trained"] = rate_by_group(follows[:half], names[:half]) | how
    out["prompt_heldout"] = rate_by_group(follows[half:], names[half:]) | how
    out["background"] = rate(right[:, 2]) | how
    if second:
        out["judges_agree"] = rate((seen == predict(second, pictures)).all(1)) | how

    armchair = labels_of([("armchair", "avocado", "pink")])[:, :2]
    for key, prompt in (("avocado", plain("armchair", "avocado")), ("article", ARTICLE_PROMPT)):
        drawn = to_64(sample_many(models, [prompt] * n[key], 200_000, progress, sampling, engine))
        name = {"avocado": "avocado_armchair", "article": "article_prompt"}[key]
        out[name] = rate((predict(judge, drawn)[:, :2] == armchair).all(1)) | how
    for key, number in free_wording_scores(models, judge, "test", n["free"], sampling, progress, engine).items():
        out[key] = number | how

    views = [renders(wanted, seed, progress)[0] for seed in (91, 92)]
    (verdicts, first), (_, other) = (predict_with_features(judge, view) for view in views)
    out["judge_validation"] = rate((verdicts == labels_of(wanted)).all(1))
    if second:
        out["second_judge_validation"] = rate((predict(second, views[0]) == labels_of(wanted)).all(1))
    out["frechet"], out["frechet_real"] = spread(features, first) | how, spread(other, first)
    out["kid"], out["kid_real"] = kernel_distance(features, first) | how, kernel_distance(other, first)
    training = Curios("train", n["train"], progress=progress).images
    some = slice(0, None, max(1, len(wanted) // 256))
    out["nearest_generated"] = average(nearest(pictures[some], training))
    out["nearest_real"] = average(nearest(views[0][some], training))
    return {key: out[key] for key in GOALS if key in out}, pictures


def seconds_of_pictures(models: Models, sampling: Sampling, engine=None) -> dict[str, dict]:
    """One picture with the models loaded, and the whole of `ldm generate` from the shell to the file."""
    prompt = "an armchair made of avocado"

    def draw(seed: int) -> None:
        sample_many(models, [prompt], seed, False, sampling, engine)

    draw(0)  # warm up
    one = seconds(draw, 5) | {"engine": "onnx" if engine else "torch"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ldm_tutorial.lab.cli", "generate", prompt, "--out", f"{folder}/picture.png"]
        whole = seconds(lambda _: subprocess.run(command, check=True, capture_output=True), 3)
    return {"seconds_per_image": one, "seconds_generate": whole}


def one_a_pair(models: Models, pictures: Tensor, n: int) -> Tensor:
    """One of the pictures of :func:`evaluate` for each pair, in the order of ``pairs("all")``; missing ones are sampled."""
    found: dict[tuple[str, str], Tensor] = {}
    for wanted, picture in zip(evaluated_prompts(n), pictures, strict=True):
        found.setdefault(wanted[:2], picture)
    missing = [pair for pair in pairs("all") if pair not in found]
    if missing:
        more = to_64(sample_many(models, [plain(*pair) for pair in missing], 300_000))
        found |= dict(zip(missing, more, strict=True))
    return torch.stack([found[pair] for pair in pairs("all")])


def draw_disagreements(pictures: Tensor, judge: Judge, second: Judge) -> Image.Image:
    """All pictures of :func:`evaluate` that the two judges name differently: over each stands what was asked for, what the
    first judge saw and what the second one saw."""
    from ..notebook import figures

    wanted = evaluated_prompts(len(pictures) // 2)
    seen, others = names_of(predict(judge, pictures)), names_of(predict(second, pictures))
    apart = [i for i in range(len(wanted)) if seen[i] != others[i]]
    titles = []
    for i in apart:
        lines = {"asked": wanted[i], "first": seen[i], "second": others[i]}
        titles.append("\n".join(f"{who}: {', '.join(names)}" for who, names in lines.items()))
    title = f"the judges differ on {len(apart)} of {len(pictures)} pictures"
    shown = pictures[apart] if apart else torch.full_like(pictures[:1], 255)
    return figures.pictures(list(shown), titles, columns=5, size=1.92, title=title)
