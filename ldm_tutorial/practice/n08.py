"""The exercises of notebook 08, cross-attention."""

from __future__ import annotations

import re
from functools import cache

import torch
from torch import Tensor

from ..attention import enlarge, record_attention, record_inputs, word_attention, word_tokens
from ..curios import plain
from ..curios.vocabulary import parse
from ..images import to_model
from ..measure.pictures import renders
from . import shipped
from .exercise import Build, Choice, Find, Mistake, normal


def _heard(queries, keys, values, power=0.5, dim=-1, softmax=True):
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** power
    return (scores.softmax(dim) if softmax else scores) @ values


def _cross_attention(x, c, W_Q, W_K, W_V):
    return _heard(x @ W_Q, c @ W_K, c @ W_V)


cross_attention = Build(
    "8.1",
    right=_cross_attention,
    cases=[
        {
            "x": torch.tensor([[[2.0], [1.0]]]),
            "c": torch.tensor([[[0.0], [1.0]]]),
            "W_Q": torch.tensor([[1.0, 0.5]]),
            "W_K": torch.tensor([[1.0, 1.0]]),
            "W_V": torch.tensor([[3.0, -1.0]]),
        },
        {
            "x": normal(2, 5, 6, seed=1),
            "c": normal(2, 7, 4, seed=2),
            "W_Q": normal(6, 9, seed=3),
            "W_K": normal(4, 9, seed=4),
            "W_V": normal(4, 9, seed=5),
        },
    ],
    mistakes=[
        Mistake(
            "the softmax runs over the places of the picture: for each place, the weights over the tokens should add up to 1",
            lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, dim=1),
        ),
        Mistake(
            "the scores were not divided by the square root of d", lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, power=0)
        ),
        Mistake(
            "the scores were divided by d, where its square root is meant",
            lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, power=1),
        ),
        Mistake(
            "the softmax is missing, so that the weights do not add up to 1",
            lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, softmax=False),
        ),
        Mistake("the keys were averaged, where the values should be", lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ K)),
        Mistake(
            "the tokens ask and the places of the picture answer: queries are made from x, keys and values from c",
            lambda x, c, Q, K, V: _heard(c @ K, x @ Q, x @ Q),
        ),
        Mistake(
            "this is self-attention, the picture looking at itself: keys and values are made from the text c",
            lambda x, c, Q, K, V: _heard(x @ Q, x @ K, x @ V),
        ),
    ],
)


def _drop(captions, share, draws):
    return ["" if draw < share else caption for caption, draw in zip(captions, draws.tolist(), strict=True)]


drop_captions = Build(
    "8.2",
    right=_drop,
    given=lambda captions, share, draws: ["" if draws[0] > share else caption for caption in captions],
    cases=[
        {"captions": ["a golden duck", "a mug", "a cheese lamp"], "share": 0.4, "draws": torch.tensor([0.9, 0.1, 0.6])},
        {
            "captions": [f"caption {i}" for i in range(8)],
            "share": 0.5,
            "draws": torch.tensor([0.2, 0.8, 0.4, 0.7, 0.1, 0.9, 0.3, 0.6]),
        },
        {"captions": ["a duck", "a bed"], "share": 0.0, "draws": torch.tensor([0.1, 0.3])},
    ],
    mistakes=[
        Mistake(
            "each caption now has a draw of its own, but those above the share are still dropped: with a share of 0.1 nine of ten captions would be lost",
            lambda captions, share, draws: [
                "" if draw > share else caption for caption, draw in zip(captions, draws.tolist(), strict=True)
            ],
        ),
        Mistake(
            "the right side of the share is now dropped, but one draw still decides for the whole batch",
            lambda captions, share, draws: ["" if draws[0] < share else caption for caption in captions],
        ),
        Mistake(
            "the dropped captions are gone from the list, so that the others no longer stand beside their pictures: an empty text must take their place",
            lambda captions, share, draws: [caption for caption in _drop(captions, share, draws) if caption],
        ),
        Mistake(
            "a space stands where the text should be empty",
            lambda captions, share, draws: [caption or " " for caption in _drop(captions, share, draws)],
        ),
        Mistake(
            "None stands where the text should be empty: a tokenizer can't read it",
            lambda captions, share, draws: [caption or None for caption in _drop(captions, share, draws)],
        ),
        Mistake(
            "the first captions were dropped, as many as the share says, and not those that were drawn",
            lambda captions, share, draws: ["" if i < share * len(captions) else caption for i, caption in enumerate(captions)],
        ),
    ],
)

exchanged_tokens = Choice(
    "8.3",
    letter="B",
    reasons={
        "A": "the places of the picture ask with queries of their own, which nobody has exchanged",
        "B": "each place takes an average over all tokens, and an average does not depend on their order, so only the text encoder can tell who comes first",
        "C": "a weight goes with its own key and value wherever they stand in the list, so no sum changes",
    },
)


def _split(x, heads):
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _split_by_reshape(x, heads):
    return x.reshape(len(x), heads, x.shape[1], -1)


def _split_by_turns(x, heads):
    return x.unflatten(2, (-1, heads)).permute(0, 3, 1, 2)


def _join(heard):
    return heard.transpose(1, 2).flatten(2)


def _join_by_reshape(heard):
    return heard.reshape(len(heard), heard.shape[2], -1)


def _join_by_turns(heard):
    return heard.permute(0, 2, 3, 1).flatten(2)


def _heads(split, join, width=lambda d, heads: d, dim=-1):
    def many_heads(Q, K, V, heads):
        Q, K, V = split(Q, heads), split(K, heads), split(V, heads)
        scores = Q @ K.transpose(2, 3) / width(Q.shape[-1], heads) ** 0.5
        return join(scores.softmax(dim) @ V)

    return many_heads


def _keep_axes(x, heads):
    return x.unflatten(2, (heads, -1))


def _join_as_it_is(heard):
    return heard.flatten(2)


def _partly(*repaired):
    """The heads of some of Q, K and V are divided rightly, those of the others by reshape alone."""

    def many_heads(Q, K, V, heads):
        parts = {"Q": Q, "K": K, "V": V}
        for name, x in parts.items():
            parts[name] = _split(x, heads) if name in repaired else _split_by_reshape(x, heads)
        scores = parts["Q"] @ parts["K"].transpose(2, 3) / parts["Q"].shape[-1] ** 0.5
        return _join(scores.softmax(-1) @ parts["V"])

    return many_heads


BY_TURNS = "each head got every so-many-th number of a row, where it should get numbers that stand side by side"
BEHIND = "the heads have an axis of their own, but it stands behind that of the rows: transpose(1, 2) brings it in front"
SOME_LEFT = (
    "the heads of some of Q, K and V are divided rightly, and those of the rest still by reshape alone: all three need the same"
)

many_heads = Build(
    "8.4",
    right=_heads(_split, _join),
    given=_heads(_split_by_reshape, _join_by_reshape),
    cases=[
        {
            "Q": torch.tensor([[[2.0, 0.0], [1.0, 1.0]]]),
            "K": torch.tensor([[[1.0, 0.0], [-1.0, 2.0]]]),
            "V": torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]),
            "heads": 2,
        },
        {"Q": normal(2, 5, 12, seed=6), "K": normal(2, 7, 12, seed=7), "V": normal(2, 7, 12, seed=8), "heads": 3},
    ],
    mistakes=[
        Mistake(
            "the heads are now divided rightly, but the results are still laid side by side by reshape, which mixes places and heads: move the axis of the heads back first",
            _heads(_split, _join_by_reshape),
        ),
        Mistake(
            "the results are now laid side by side rightly, but the heads are still divided by reshape alone, so that one head gets numbers of several rows",
            _heads(_split_by_reshape, _join),
        ),
        Mistake(
            "the scores were divided by the square root of the whole width, where d is counted in each head",
            _heads(_split, _join, width=lambda d, heads: d * heads),
        ),
        Mistake(
            "there is one head only: each head should have a softmax of its own",
            lambda Q, K, V, heads: _heads(_split, _join)(Q, K, V, 1),
        ),
        Mistake(
            "d is that of a head, but there is one head only: each head should have a softmax of its own",
            lambda Q, K, V, heads: _heads(_split, _join, width=lambda d, one: d / heads)(Q, K, V, 1),
        ),
        Mistake(
            "the softmax runs over the places of the picture: for each place, the weights over the tokens should add up to 1",
            _heads(_split, _join, dim=2),
        ),
        Mistake(BY_TURNS, _heads(_split_by_turns, _join_by_turns)),
        Mistake(BY_TURNS, _heads(_split_by_turns, _join)),
        Mistake(BEHIND, _heads(_keep_axes, _join)),
        Mistake(BEHIND, _heads(_keep_axes, _join_as_it_is)),
        Mistake(SOME_LEFT, _partly("Q")),
        Mistake(SOME_LEFT, _partly("Q", "K")),
        Mistake(SOME_LEFT, _partly("Q", "V")),
        Mistake(SOME_LEFT, _partly("K", "V")),
        Mistake(
            "the heads were divided rightly, but joined in another order: all numbers of the first head come first",
            _heads(_split, _join_by_turns),
        ),
        Mistake(
            "the heads were divided rightly, and the scores were not divided by the square root of d",
            _heads(_split, _join, width=lambda d, heads: 1),
        ),
    ],
)

SCENE = ("car", "cheese", "green")
HIGH, LITTLE = 0.7, 0.1  # IoU of a map that fits the object, and the share of the object's effect that is hardly any
TAKEN = ("on", "background")  # the words that the notebook has used already
LOOKED_AT = 100  # timestep: little noise, so that the maps are sharp


@cache
def scene() -> tuple[Tensor, Tensor, Tensor]:
    """The picture of this exercise, its exact mask bool [64, 64], and its latents with a little noise [1, 8, 16, 16]."""
    images, masks = renders([SCENE], seed=11, progress=False)
    models = shipped.models()
    z = models.encode(to_model(images))
    z_t = models.scheduler.add_noise(z, normal(*z.shape, seed=12), torch.tensor([LOOKED_AT]))
    return images[0], masks[0], z_t


@torch.no_grad()
def look(prompt: str, word: str, other: str) -> dict:
    """The attention map of a word of the prompt [8, 8], its IoU with the object at the best threshold, and the mean effect of
    exchanging the word for another, as a share of the effect of exchanging the object's word."""
    models, (_, mask, z_t) = shipped.models(), scene()
    tokens = word_tokens(models.tokenizer, prompt, word)
    with record_attention(models.unet) as recorded, record_inputs(models.unet) as inputs:
        models.unet(z_t, torch.tensor([LOOKED_AT]), encoder_hidden_states=models.encode_text([prompt]))
    attention = torch.cat([calls[0] for calls in recorded.values()], dim=1)  # [1, 16 heads, 64 places, 77 tokens]
    heat = word_attention(attention, [tokens])[0].clamp(min=1e-8).log().mean(0)  # [8, 8]: the mean of the heads
    areas = [enlarge(heat[None])[0] > k / 20 for k in range(1, 20)]
    iou = max(((area & mask).sum() / (area | mask).sum()).item() for area in areas)
    replaced = exchange(prompt, word, other)
    c, of_word, of_object = models.encode_text([prompt, replaced, plain("mug", *SCENE[1:])])
    plainly = models.encode_text([plain(*SCENE)])[0]

    def effect(one: Tensor, another: Tensor) -> float:
        """How far the outputs of all layers move, on average over the places."""
        moved = [
            layer(h[0], encoder_hidden_states=one[None]) - layer(h[0], encoder_hidden_states=another[None])
            for layer, h in inputs.items()
        ]
        return sum(change.norm(dim=2).mean().item() for change in moved)

    return {"heat": heat, "iou": iou, "share": effect(c, of_word) / effect(plainly, of_object)}


def exchange(prompt: str, word: str, other: str) -> str:
    """The prompt with the first mention of a word replaced by another word."""
    return re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", other, prompt, count=1, flags=re.IGNORECASE)


def _misled(answer: object) -> str | None:
    if not isinstance(answer, (tuple, list)) or len(answer) != 3 or not all(isinstance(text, str) for text in answer):
        return "misleading should be three texts: a prompt, one word of it, and the word to exchange it for"
    prompt, word, other = (" ".join(text.split()) for text in answer)
    if not re.fullmatch("[A-Za-z]+", word) or not re.fullmatch("[A-Za-z]+", other):
        return "the second and the third text should be one word each, of letters only"
    if len(prompt.split()) > 20:
        return f"the prompt has {len(prompt.split())} words, and at most 20 are allowed"
    if parse(prompt) != SCENE:
        return f"the prompt should say what the picture shows: a {SCENE[0]} made of {SCENE[1]} on a {SCENE[2]} background"
    if word.lower() not in re.findall("[a-z]+", prompt.lower()):
        return f"the word {word!r} does not stand in the prompt"
    if word.lower() in TAKEN:
        return f"notebook 08 has shown it for {word!r} already: find another word"
    replaced = exchange(prompt, word, other)
    if word.lower() == other.lower() or parse(replaced) != SCENE:
        return f"with {other!r} in the place of {word!r} the prompt should be another one and still name the same three things"
    found = look(prompt, word, other)
    if found["iou"] < HIGH:
        return f"the attention map of {word!r} has an IoU of {found['iou']:.2f} with the object, so it misleads nobody: {HIGH:g} or more is asked for"
    if found["share"] > LITTLE:
        return f"exchanging {word!r} for {other!r} has {found['share']:.0%} of the effect of exchanging the object's word, so the word does act: at most {LITTLE:.0%} is asked for"
    return None


misleading = Find(
    "8.5",
    fault=_misled,
    because="the map of this word outlines the object, and yet another word in its place changes hardly anything, so a bright place in an attention map does not show that the word acts there",
)
