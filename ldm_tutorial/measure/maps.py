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


def _noun(wanted: tuple[str, str, str]) -> str:
    return wanted[0].split()[-1]  # "teddy bear": bear


def _coarse(masks: Tensor, side: int) -> Tensor:
    """Masks at a map's resolution and back: the best that a map of ``side`` x ``side`` could be."""
    small = F.adaptive_avg_pool2d(masks[:, None].float(), side)
    return F.interpolate(small, size=masks.shape[1:], mode="bilinear")[:, 0]


def choose_maps(models: Models, wanted: list, images: Tensor, masks: Tensor) -> dict:
    """The heads (at most four), timestep and threshold whose mean map fits these renders best. Heads are added one by one,
    each time the one that helps most."""
    best_score, best = 0.0, {}
    for timestep in (200, 400, 600):
        logs = _attention(models, wanted, images, timestep, [_noun(w) for w in wanted])
        heads: list[int] = []
        while len(heads) < 4:
            tries = []
            for head in set(range(logs.shape[1])) - set(heads):
                maps = enlarge(logs[:, [*heads, head]].mean(1), masks.shape[-1])
                threshold, score = best_threshold(maps, masks)
                tries.append((score, threshold, head))
            score, threshold, head = max(tries)
            heads = [*heads, head]
            if score > best_score:
                best_score, best = score, {"heads": heads, "timestep": timestep, "threshold": threshold}
    return best


def heat_map_scores(models: Models, n: int, progress: bool = True) -> dict[str, dict]:
    """The mIoU of the noun's heat map with exact masks on n noised renders, beside a constant mask, a wrong word and the
    ceiling.

    A map is the mean of some heads' logarithms. Which heads, which timestep and which threshold is chosen once on renders of
    other pairs (trained ones and "held_out_dev"), then measured on trained ones and "held_out_test".
    """
    size = models.resolution
    wanted = expected_prompts("train", 64) + expected_prompts("held_out_dev", 64)
    images, masks = renders(wanted, 81, progress, size)
    how = choose_maps(models, wanted, images, masks)
    centre = masks.float().mean(0)
    level = best_threshold(centre.expand(len(masks), -1, -1), masks)[0]

    wanted = expected_prompts("train", n // 2) + expected_prompts("held_out_test", n - n // 2)
    fresh, exact = renders(wanted, 82, progress, size)

    def maps(words: list[str]) -> Tensor:
        return _attention(models, wanted, fresh, how["timestep"], words)[:, how["heads"]].mean(1)

    right = maps([_noun(w) for w in wanted])
    wrong = maps([background for _, _, background in wanted])
    side, threshold = right.shape[-1], how["threshold"]
    fine = best_threshold(_coarse(masks, side), masks)[0]
    return {
        "noun_miou": average(overlap(enlarge(right, size), exact, threshold)) | how,
        "noun_miou_constant": average(overlap(centre.expand(n, -1, -1), exact, level)),
        "noun_miou_wrong_word": average(overlap(enlarge(wrong, size), exact, threshold)),
        "noun_miou_ceiling": average(overlap(_coarse(exact, side), exact, fine)),
    }
