"""How well a word's heat map finds the word's object: mean intersection over union with exact masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import enlarge, record_attention, word_attention, word_tokens
from ..curios import plain
from ..images import to_model
from ..models import Models
from .metrics import average
from .pictures import expected_prompts, renders


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
    noun = lambda w: w[0].split()[-1]  # noqa: E731  "teddy bear": bear
    chosen, size = expected_prompts("train", 128), models.resolution
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
    wanted = expected_prompts("train", n // 2) + expected_prompts("held_out", n - n // 2)
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
