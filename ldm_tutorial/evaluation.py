"""How good is a model? A judge that learned from renders only, and every number of the model card from it.

The judge reads object, material and background off a picture, so "the prompt was followed" is a verdict and not an
impression. Fréchet distance: Heusel et al. 2017, eq. 6, in the judge's features instead of Inception's.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .curios import BACKGROUNDS, MATERIALS, OBJECTS, pairs, plain, to_model, to_picture
from .errors import UserError
from .files import damage, seal, whole
from .models import Models, default_device

JUDGE = Path(__file__).parent / "weights" / "judge"
FEATURES = 128


# --- small measures -------------------------------------------------------------------------------------------------


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB of pictures [B, C, H, W] in -1..1: 20 dB is off by a tenth of the range."""
    error = ((images - others.clamp(-1, 1)) / 2).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


def interval(hits: int, n: int) -> tuple[float, float]:
    """95% interval of a rate (Wilson 1927): where the true rate lies, as far as ``hits`` of ``n`` can tell."""
    from scipy.stats import binomtest

    found = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


class _Given(nn.Module):
    """Tells torchmetrics that what it gets are features already."""

    num_features = FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance between two sets of features [N, D] and [M, D], each seen as one Gaussian; 0 for equal sets. It grows as
    the sets get smaller: compare only figures from equal numbers of pictures."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    given = _Given()
    given.num_features = a.shape[1]
    metric = FrechetInceptionDistance(feature=given).set_dtype(torch.float64)
    metric.update(a.double().cpu(), real=True)
    metric.update(b.double().cpu(), real=False)
    return max(0.0, metric.compute().item())


def kernel_distance(features: Tensor, reference: Tensor, subsets: int = 100) -> dict:
    """Kernel distance ("KID", Bińkowski et al. 2018) of features [N, D] from a reference [M, D], which both are divided by the
    root mean square of the reference: the mean over random subsets of half the size of the smaller set, and an interval of
    1.96 standard deviations of the subsets to either side (for halves, that is about the standard error of the whole).

    Unlike a Fréchet distance it does not grow as sets get smaller: between two random sets of the same kind it is about 0,
    below as often as above.

    Raises:
        UserError: for fewer than 8 features in one of the sets.
    """
    import warnings

    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(features), len(reference)) // 2
    if size < 4:
        raise UserError(f"{2 * size} pictures are too few for a kernel distance: give at least 8 of each kind.")
    scale = reference.double().square().mean().sqrt()
    given = _Given()
    given.num_features = features.shape[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")  # we mean it to
        metric = KernelInceptionDistance(feature=given, subsets=subsets, subset_size=size)
    metric.set_dtype(torch.float64)
    metric.update(reference.double().cpu() / scale, real=True)
    metric.update(features.double().cpu() / scale, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # it draws its subsets from the global stream
        mean, deviation = metric.compute()
    half = 1.96 * deviation.item()
    return {"value": mean.item(), "n": len(features), "low": mean.item() - half, "high": mean.item() + half}


# --- the judge ------------------------------------------------------------------------------------------------------


class Judge(nn.Module):
    """A small convolutional classifier with three answers: object, material, background (0.6 M parameters)."""

    def __init__(self, width: int = 48):
        super().__init__()

        def block(before: int, after: int, size: int, stride: int) -> nn.Sequential:
            conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
            return nn.Sequential(conv, nn.GroupNorm(8, after), nn.SiLU())

        w = width
        self.body = nn.Sequential(
            block(3, w, 7, 4),  # 16 x 16
            block(w, w, 3, 1),
            block(w, 2 * w, 3, 2),  # 8 x 8
            block(2 * w, 2 * w, 3, 1),
            block(2 * w, 3 * w, 3, 2),  # 4 x 4
            block(3 * w, 3 * w, 3, 1),
            nn.Flatten(),
            nn.Linear(16 * 3 * w, FEATURES),
            nn.SiLU(),
        )
        self.heads = nn.ModuleList(nn.Linear(FEATURES, len(names)) for names in (OBJECTS, MATERIALS, BACKGROUNDS))

    def features(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, 64, 64] in -1..1 -> [B, 128], the layer before the verdicts."""
        return self.body(images)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [B, 3, 64, 64] in -1..1 -> logits [B, 18], [B, 16], [B, 8]."""
        features = self.features(images)
        return tuple(head(features) for head in self.heads)


class JudgeLoss(nn.Module):
    """Cross-entropy of the three answers. Pictures come shifted, blurred and grainy, so that softness alone misleads nobody."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor, labels: Tensor, spoil: Tensor, grain: Tensor) -> Tensor:
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        images = torch.lerp(images, blurred, spoil[:, 0, None, None, None]) + 0.1 * spoil[:, 1, None, None, None] * grain
        return sum(F.cross_entropy(answer, labels[:, i]) for i, answer in enumerate(self.judge(images)))


def save_judge(judge: Judge, folder: str | Path = JUDGE) -> Path:
    """Write ``judge.safetensors`` (fp16) with its checksum beside it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / "judge.safetensors") as scratch:
        save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, scratch)
    seal(folder)
    return folder


def load_judge(folder: str | Path = JUDGE, device: str | torch.device | None = None) -> Judge:
    """The judge, ready to be asked.

    Raises:
        UserError: when it is missing, cut short or altered.
    """
    folder = Path(folder)
    try:
        if damage(folder):
            raise UserError(f"The judge in {folder} is damaged: get its file again, or make a new one with `ldm train judge`.")
        judge = Judge()
        judge.load_state_dict({k: v.float() for k, v in load_file(folder / "judge.safetensors").items()})
    except UserError:
        raise
    except (OSError, SafetensorError, ValueError, RuntimeError):
        raise UserError(f"There is no judge in {folder}: make one with `ldm train judge`.") from None
    return judge.to(device or default_device()).requires_grad_(False).eval()


@torch.no_grad()
def examine(judge: Judge, pictures, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [B, 64, 64, 3] -> (verdicts [B, 3]: indices of object, material, background; features [B, 128])."""
    device = next(judge.parameters()).device
    answers, features = [], []
    for some in torch.as_tensor(pictures).split(batch):
        features.append(judge.features(to_model(some).to(device)))
        answers.append(torch.stack([head(features[-1]).argmax(1) for head in judge.heads], 1).cpu())
    return torch.cat(answers), torch.cat(features).cpu()


def verdicts(judge: Judge, pictures) -> Tensor:
    """What the judge sees in pictures uint8 [B, 64, 64, 3]: indices [B, 3] into OBJECTS, MATERIALS, BACKGROUNDS."""
    return examine(judge, pictures)[0]


# --- every number of the model card -----------------------------------------------------------------------------------

# How the judged pictures are painted: guided in the middle of the run only (Kynkäänniemi et al. 2024). Guided in
# every step, they obey no better and lie further from renders (benchmarks/training.md).
PAINT = {"sampler": "unipc", "steps": 20, "guidance_scale": 3.0, "guidance_interval": (0.15, 0.75)}
ARTICLE_PROMPT = "3D render an avocado style armchair diffusing into latent space"
SIZES = {  # prompts of each kind, avocado armchairs, article's prompts, reconstructions, heat maps, training pictures
    "full": {"prompts": 2048, "avocado": 100, "article": 20, "psnr": 1024, "maps": 512, "train": 16_384},
    "quick": {"prompts": 164, "avocado": 24, "article": 8, "psnr": 128, "maps": 96, "train": 2_048},
}
# what each key means and the value to reach; "<=" where smaller is better
GOALS = {
    "psnr": ("reconstruction of validation renders, dB", ">=", 30),
    "prompt_trained": ("object and material right, trained pairs", ">=", 0.995),
    "prompt_heldout": ("object and material right, held-out pairs", ">=", 0.99),
    "avocado_armchair": ("avocado armchairs", ">=", 0.99),
    "article_prompt": ("the article's own prompt", ">=", 0.95),
    "background": ("background right", ">=", 0.995),
    "clip_top1": ("CLIP: right caption of 256, held-out pairs", ">=", 0.98),
    "noun_miou": ("the noun's heat map against the exact mask, mIoU", ">=", 0.75),
    "noun_miou_constant": ("one constant centred mask, mIoU", None, None),
    "noun_miou_wrong_word": ("the map of the background's word, mIoU", None, None),
    "noun_miou_ceiling": ("the exact mask at the map's resolution, mIoU", None, None),
    "frechet": ("Fréchet distance, generated to fresh renders", None, None),
    "frechet_real": ("Fréchet distance, renders to other renders", None, None),
    "judge_validation": ("judge on fresh renders, all three right", ">=", 0.999),
    "nearest_generated": ("distance to the nearest training picture, generated", None, None),
    "nearest_real": ("distance to the nearest training picture, fresh renders", None, None),
    "seconds_per_image": ("seconds for one picture, 20 guided steps", "<=", 1.0),
}


def rate(right: Tensor) -> dict:
    """A share of verdicts bool [N] with its 95% interval."""
    hits, n = int(right.sum()), len(right)
    low, high = interval(hits, n)
    return {"value": hits / n, "n": n, "low": low, "high": high}


def average(values: Tensor) -> dict:
    """A mean of values [N] with its 95% interval, 1.96 standard errors to either side."""
    value, half = values.double().mean().item(), 1.96 * values.double().std().item() / len(values) ** 0.5
    return {"value": value, "n": len(values), "low": value - half, "high": value + half}


def spread(a: Tensor, b: Tensor, times: int = 20) -> dict:
    """A Fréchet distance with a 95% interval from resampled sets (bootstrap, shifted to the distance measured)."""
    value, g = frechet_distance(a, b), torch.Generator().manual_seed(0)
    again = [frechet_distance(*(x[torch.randint(len(x), (len(x),), generator=g)] for x in (a, b))) for _ in range(times)]
    half = 1.96 * torch.tensor(again).std().item()
    return {"value": value, "n": len(a), "low": max(0.0, value - half), "high": value + half}


def wishes(split: str, n: int) -> list[tuple[str, str, str]]:
    """n (object, material, background), every pair of a split equally often, every background as well."""
    every = pairs(split)
    return [(*every[i % len(every)], BACKGROUNDS[(i % len(every) + i // len(every)) % len(BACKGROUNDS)]) for i in range(n)]


def renders(wanted: list[tuple[str, str, str]], seed: int, progress: bool = True, size: int = 64) -> tuple[Tensor, Tensor]:
    """Fresh pictures uint8 [N, size, size, 3] and masks bool [N, size, size] of the wanted scenes, from other views for each
    seed."""
    from dataclasses import replace

    from tqdm.auto import tqdm

    from .curios import scene_at
    from .curios.render import render

    every = pairs("all")
    scenes = []
    for k, (object, material, background) in enumerate(wanted):
        scene, _ = scene_at("all", every.index((object, material)) + len(every) * k, seed)
        scenes.append(replace(scene, background=background))
    images = torch.empty(len(scenes), size, size, 3, dtype=torch.uint8)
    masks = torch.empty(len(scenes), size, size, dtype=torch.bool)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for i, image, mask in tqdm(render(scenes, size, device), total=len(scenes), desc="render", disable=not progress):
        images[i], masks[i] = image, mask
    return images, masks


def paint(models: Models, prompts: list[str], first_seed: int, progress: bool = True, batch: int = 32, **options) -> Tensor:
    """Pictures uint8 [N, 64, 64, 3] for many prompts, seeds counting up; options as for :func:`sampling.sample`, without
    any as :data:`PAINT` says."""
    from tqdm.auto import tqdm

    from .sampling import sample

    options, done = options or PAINT, []
    for i in tqdm(range(0, len(prompts), batch), desc="paint", disable=not progress):
        some = prompts[i : i + batch]
        seeds = [first_seed + i + k for k in range(len(some))]
        done.append(torch.as_tensor(sample(models, some, seeds, progress=False, **options)))
    return torch.cat(done)


def to_64(pictures: Tensor) -> Tensor:
    """Pictures uint8 [B, S, S, 3] of a smaller model, enlarged to what the judge reads: uint8 [B, 64, 64, 3]."""
    if pictures.shape[1] == 64:
        return pictures
    return to_picture(F.interpolate(to_model(pictures), size=(64, 64), mode="bilinear", antialias=True))


def labels_of(wanted: list[tuple[str, str, str]]) -> Tensor:
    """Names to indices [N, 3], as :func:`verdicts` gives them."""
    return torch.tensor([[OBJECTS.index(o), list(MATERIALS).index(m), BACKGROUNDS.index(b)] for o, m, b in wanted])


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


def overlap(maps: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """Intersection over union [N] of maps [N, H, W] above a threshold with masks bool [N, H, W]."""
    above = maps > threshold
    return (above & masks).flatten(1).sum(1) / (above | masks).flatten(1).sum(1).clamp(min=1)


def best_threshold(maps: Tensor, masks: Tensor) -> tuple[float, float]:
    """(threshold, mean IoU) that fits these maps best, of 19 from 0.05 to 0.95."""
    found = [(overlap(maps, masks, k / 20).mean().item(), k / 20) for k in range(1, 20)]
    return max(found)[1], max(found)[0]


@torch.no_grad()
def _attention(models: Models, wanted: list, images: Tensor, timestep: int, words: list[str]) -> Tensor:
    """What one word a picture gets of the attention, as logarithms [N, layers * heads, side, side], on renders noised to a
    timestep. (All layers with cross-attention have one resolution, as in the shipped U-Net.)"""
    from .attention import record_attention, word_attention, word_tokens

    prompts = [plain(*w) for w in wanted]
    tokens = [word_tokens(models.tokenizer, p, w) for p, w in zip(prompts, words, strict=True)]
    found = []
    for i in range(0, len(prompts), 64):
        z = models.encode(to_model(images[i : i + 64]))
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(i)).to(z.device)
        t = torch.full((len(z),), timestep, device=z.device)
        with record_attention(models.unet) as maps:
            models.unet(models.scheduler.add_noise(z, noise, t), t, models.encode_text(prompts[i : i + 64]))
        every = torch.cat([calls[0] for calls in maps.values()], 1)  # [B, layers * heads, pixels, tokens]
        found.append(word_attention(every, tokens[i : i + 64]).clamp(min=1e-8).log())
    return torch.cat(found)


def heat_map_scores(models: Models, n: int, progress: bool = True) -> dict[str, dict]:
    """mIoU of the noun's heat map with exact masks on n noised renders, beside a constant mask, a wrong word and the ceiling.

    A map is the mean of some heads' logarithms. Which heads (at most four), timestep and threshold: chosen once on other
    renders (of trained pairs), then fixed.
    """
    from .attention import enlarge

    noun = lambda w: w[0].split()[-1]  # noqa: E731  "teddy bear": bear
    chosen, size = wishes("train", 128), models.resolution
    images, masks = renders(chosen, 81, progress, size)
    best: tuple = (0.0, 0.0, 0, [])
    for timestep in (200, 400, 600):
        logs, heads = _attention(models, chosen, images, timestep, [noun(w) for w in chosen]), []
        while len(heads) < 4:  # the head that helps most, and again
            tries = [[*heads, k] for k in range(logs.shape[1]) if k not in heads]
            scores = [(*best_threshold(enlarge(logs[:, some].mean(1), size), masks)[::-1], timestep, some) for some in tries]
            heads = max(scores)[3]
            best = max(best, *scores)
    _, threshold, timestep, heads = best
    centre = masks.float().mean(0)
    level = best_threshold(centre.expand(len(masks), -1, -1), masks)[0]
    side = logs.shape[-1]

    def coarse(m: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(m[:, None].float(), side)
        return F.interpolate(small, size=m.shape[1:], mode="bilinear")[:, 0]

    fine = best_threshold(coarse(masks), masks)[0]
    wanted = wishes("train", n // 2) + wishes("held_out", n - n // 2)
    images, masks = renders(wanted, 82, progress, size)

    def maps(words: list[str]) -> Tensor:
        return enlarge(_attention(models, wanted, images, timestep, words)[:, heads].mean(1), size)

    right, wrong = maps([noun(w) for w in wanted]), maps([w[2] for w in wanted])
    how = {"heads": heads, "timestep": timestep, "threshold": threshold}
    return {
        "noun_miou": average(overlap(right, masks, threshold)) | how,
        "noun_miou_constant": average(overlap(centre.expand(n, -1, -1), masks, level)),
        "noun_miou_wrong_word": average(overlap(wrong, masks, threshold)),
        "noun_miou_ceiling": average(overlap(coarse(masks), masks, fine)),
    }


def distances(pictures: Tensor, training: Tensor) -> Tensor:
    """Root-mean-square distances [N, M] (0..1, sides averaged down to a quarter) between pictures uint8 [N or M, S, S, 3]."""
    small = [F.avg_pool2d(to_model(x) / 2, 4).flatten(1) for x in (pictures, training)]
    return torch.cdist(*small) / small[0].shape[1] ** 0.5


def nearest(pictures: Tensor, training: Tensor) -> Tensor:
    """The distance [N] to the nearest of the training pictures; see :func:`distances`."""
    return distances(pictures, training).min(1).values


def seconds_per_image(models: Models, times: int = 5) -> dict:
    """One picture at a time, 20 steps with guidance, models loaded: the median, the fastest and the slowest."""
    import time

    from .sampling import sample

    taken = []
    for k in range(times + 1):  # the first one warms up
        start = time.perf_counter()
        sample(models, ["an armchair made of avocado"], [k], steps=20, progress=False)
        taken.append(time.perf_counter() - start)
    taken = sorted(taken[1:])
    return {"value": taken[len(taken) // 2], "n": times, "low": taken[0], "high": taken[-1]}


def evaluate(models: Models, clip: nn.Module, judge: Judge, size: str = "full", progress: bool = True) -> tuple[dict, Tensor]:
    """Every number of :data:`GOALS`, each ``{"value", "n", "low", "high"}``, and the generated pictures uint8 [N, 64, 64, 3]
    (a smaller model's enlarged), trained pairs first, in the order of :func:`wishes`."""
    from .curios import Curios

    n, how = SIZES[size], {"sampler": dict(PAINT)}
    out = {"seconds_per_image": seconds_per_image(models)}
    real = Curios("validation", n["psnr"], 9, models.resolution, progress).images
    out["psnr"] = average(
        torch.cat([psnr(to_model(x), models.decode(models.encode(to_model(x))).cpu()) for x in real.split(64)])
    )
    out["clip_top1"] = clip_top1(clip, models.tokenizer)
    out |= heat_map_scores(models, n["maps"], progress)

    wanted = wishes("train", n["prompts"]) + wishes("held_out", n["prompts"])
    pictures = to_64(paint(models, [plain(*w) for w in wanted], 100_000, progress))
    seen, features = examine(judge, pictures)
    right = seen == labels_of(wanted)
    pair = right[:, :2].all(1)
    out["prompt_trained"], out["prompt_heldout"] = rate(pair[: n["prompts"]]) | how, rate(pair[n["prompts"] :]) | how
    out["background"] = rate(right[:, 2]) | how
    target = labels_of([("armchair", "avocado", "pink")])[:, :2]
    for key, prompt, count in (
        ("avocado_armchair", plain("armchair", "avocado"), n["avocado"]),
        ("article_prompt", ARTICLE_PROMPT, n["article"]),
    ):
        drawn = to_64(paint(models, [prompt] * count, 200_000, progress))
        out[key] = rate((verdicts(judge, drawn)[:, :2] == target).all(1)) | how

    views = [renders(wanted, seed, progress)[0] for seed in (91, 92)]
    judged = [examine(judge, v) for v in views]
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
    for wish, picture in zip(wishes("train", n) + wishes("held_out", n), pictures, strict=True):
        found.setdefault(wish[:2], picture)
    missing = [p for p in pairs("all") if p not in found]
    if missing:
        found |= dict(zip(missing, to_64(paint(models, [plain(*p) for p in missing], 300_000)), strict=True))
    return torch.stack([found[p] for p in pairs("all")])


def reached(value: float, sign: str, goal: float) -> bool:
    """Whether a value is on the right side of its goal."""
    return value >= goal if sign == ">=" else value <= goal


def table(found: dict) -> str:
    """The numbers as lines of text: value, interval, count, goal and whether it is reached."""
    lines = [f"{'':58s} {'value':>8s}  {'95% interval':>17s} {'n':>6s}  goal"]
    for key, (what, sign, goal) in GOALS.items():
        v, share = found[key], key.startswith(("prompt", "avocado", "article", "background", "clip", "judge"))
        show = (lambda x: f"{100 * x:.2f}%") if share else (lambda x: f"{x:.3g}")
        verdict = ""
        if sign:
            verdict = f"{sign} {show(goal)}: {'reached' if reached(v['value'], sign, goal) else 'not reached'}"
        lines.append(f"{what:58s} {show(v['value']):>8s}  {show(v['low']):>7s} to {show(v['high']):>6s} {v['n']:6d}  {verdict}")
    ratio = found["frechet"]["value"] / max(found["frechet_real"]["value"], 1e-9)
    lines.append(f"Fréchet distance against that of renders: {ratio:.1f} times (goal: at most 3)")
    return "\n".join(lines)
