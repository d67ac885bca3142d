"""Which word looks where: recording cross-attention while a U-Net runs, and turning it into heat maps.

The recording processor computes what diffusers' own does, softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1), and
keeps the softmax. Heat maps of words after Tang et al. 2023, *What the DAAM*.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UserError


class _Recorder:
    """An attention processor that also stores the probabilities of each call under its layer's name."""

    def __init__(self, name: str, maps: dict[str, list[Tensor]]):
        self.name, self.maps = name, maps

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None, **_) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # [B * heads, pixels, d]
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))  # [B * heads, tokens, d]
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key, attention_mask)  # [B * heads, pixels, tokens]
        self.maps.setdefault(self.name, []).append(probabilities.detach().float().unflatten(0, (-1, attn.heads)).cpu())
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probabilities @ value)))


@contextmanager
def record_attention(unet, layers: str = "") -> Iterator[dict[str, list[Tensor]]]:
    """While it lasts, every U-Net call adds one entry [B, heads, pixels, tokens] to each cross-attention layer's list.

    With guidance, the first half of the batch is the unconditional one. ``layers`` is a part of the names of those to record,
    to save memory with large models. The U-Net's own processors come back at the end::

        with record_attention(models.unet) as maps:
            sample(models, ["an armchair made of avocado"], [7])
        maps["mid_block.attentions.0.transformer_blocks.0.attn2"][-1].shape  # the last step
    """
    before = unet.attn_processors
    maps: dict[str, list[Tensor]] = {}
    cross = {name: name.removesuffix(".processor") for name in before if ".attn2." in name and layers in name}
    unet.set_attn_processor({name: _Recorder(cross[name], maps) if name in cross else old for name, old in before.items()})
    try:
        yield maps
    finally:
        unet.set_attn_processor(before)


def word_tokens(tokenizer, prompt: str, word: str, mention: int = 1) -> list[int]:
    """The positions in the sequence of tokens (the start token is 0) that spell ``word``, its first ``mention`` or a later one.

    Raises:
        UserError: when the prompt does not hold the word, or not so often, or so late that the model never reads it.
    """
    found = list(re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE)) if word.strip() else []
    if not 1 <= mention <= len(found):
        again = f" {mention} times" if found else ""
        raise UserError(f"{word!r} does not stand{again} in the prompt {prompt!r}: choose a word that does.")
    start, stop = found[mention - 1].span()
    spans = tokenizer.backend_tokenizer.encode(prompt).offsets
    places = [i for i, (a, b) in enumerate(spans) if a < stop and b > start and i < tokenizer.model_max_length]
    if not places:
        raise UserError(
            f"{word!r} stands beyond the {tokenizer.model_max_length} tokens that the model reads: shorten the prompt."
        )
    return places


def word_attention(attention: Tensor, tokens: list[list[int]], aspect: float = 1.0) -> Tensor:
    """Attention [B, heads, pixels, tokens] and each picture's token positions -> what the word gets of each place's attention,
    [B, heads, height, width] from 0 to 1: the mean over its tokens. ``aspect`` is the picture's height over its width."""
    height = round(math.sqrt(attention.shape[2] * aspect))
    maps = [a[:, :, t].mean(2) for a, t in zip(attention, tokens, strict=True)]
    return torch.stack(maps).unflatten(2, (height, -1))


def enlarge(maps: Tensor, size: int | tuple[int, int] = 64) -> Tensor:
    """Maps [B, h, w] bilinearly to [B, size, size] (or height and width), each stretched to run from 0 to 1."""
    maps = F.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    rounding = 1e-5 * torch.maximum(low.abs(), high.abs()) + 1e-12  # an even map stays even
    return (maps - low) / torch.maximum(high - low, rounding)


@contextmanager
def record_inputs(unet) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """While it lasts, every U-Net call adds what each cross-attention layer was given, [B, pixels, channels], to its list."""
    inputs: dict[nn.Module, list[Tensor]] = {}

    def record(layer: nn.Module, arguments: tuple) -> None:
        inputs.setdefault(layer, []).append(arguments[0].detach())

    layers = [layer for name, layer in unet.named_modules() if name.endswith("attn2")]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def word_change(models, prompt: str, word: str, inputs: dict[nn.Module, list[Tensor]], size: int = 64) -> Tensor:
    """How much else the U-Net would hear at each place if ``word`` did not stand in the prompt: [size, size], from 0 upwards.

    ``inputs`` are what :func:`record_inputs` recorded while the last picture of the batch was sampled. Each layer answers
    them again, with the prompt and with the prompt without the word; the map is how much the answers differ, summed over
    steps and layers, so that two words of a prompt can be compared. No U-Net call is needed::

        with record_inputs(models.unet) as inputs:
            sample(models, [prompt], [7])
        word_change(models, prompt, "avocado", inputs)

    Raises:
        UserError: when the prompt does not hold the word, or so late that the model never reads it.
    """
    word_tokens(models.tokenizer, prompt, word)
    without = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "", prompt, flags=re.IGNORECASE)
    states = models.encode_text([prompt, without])  # [2, 77, 128]
    effect = torch.zeros(1, size, size)
    for layer, calls in inputs.items():
        x = torch.cat([call[-1:] for call in calls])  # [steps, pixels, channels]; with guidance the prompt comes last
        heard, otherwise = [layer(x, encoder_hidden_states=c.expand(len(x), -1, -1)) for c in states]
        change = (heard - otherwise).float().square().mean(2).sqrt().sum(0).cpu()  # [pixels]
        side = math.isqrt(len(change))
        effect += F.interpolate(change.view(1, 1, side, side), size=size, mode="bilinear")[0]
    return effect[0]
