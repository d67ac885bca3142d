"""The exercises of notebook 06, from words to vectors."""

from __future__ import annotations

from functools import cache

import torch

from ..files import WEIGHTS
from .exercise import Build, Find, Mistake, normal


def _merge(tokens, pair, times=None, skip=True, drop_last=False):
    merged, i, done = [], 0, 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == tuple(pair) and (times is None or done < times):
            merged.append(tokens[i] + tokens[i + 1])
            i += 2 if skip else 1
            done += 1
        else:
            if i < len(tokens) - 1 or not drop_last:
                merged.append(tokens[i])
            i += 1
    return merged


def _replaced(tokens, pair):
    """The text put together and taken apart again: it also finds the pair across the border of two longer tokens."""
    return " ".join(tokens).replace(" ".join(pair), "".join(pair)).split()


merge_pair = Build(
    "6.1",
    right=_merge,
    cases=[
        {"tokens": ["l", "o", "w", "l", "o"], "pair": ("l", "o")},
        {"tokens": ["a", "a", "a"], "pair": ("a", "a")},
        {"tokens": ["h", "e", "l", "l", "o"], "pair": ("x", "y")},
        {"tokens": ["el", "o", "w", "l", "o", "w"], "pair": ("l", "o")},
        {"tokens": ["lo", "w", "e", "r</w>"], "pair": ("e", "r</w>")},
        {"tokens": ["a", "b", "a"], "pair": ("b", "a")},
        {"tokens": ["w"], "pair": ("w", "w")},
    ],
    mistakes=[
        Mistake(
            "only the first place was merged, where every place where the pair stands should be",
            lambda tokens, pair: _merge(tokens, pair, times=1),
        ),
        Mistake(
            "the second token of a pair is still there after its merge: go on two places further",
            lambda tokens, pair: _merge(tokens, pair, skip=False),
        ),
        Mistake(
            "the last token was lost where it belongs to no pair", lambda tokens, pair: _merge(tokens, pair, drop_last=True)
        ),
        Mistake(
            "the pair was looked for in the text, not among the tokens: the end of one longer token and the token after it are no such pair",
            _replaced,
        ),
        Mistake(
            "the second token of a pair is still there after its merge, and the last token is lost",
            lambda tokens, pair: _merge(tokens, pair, skip=False, drop_last=True),
        ),
        Mistake("nothing was merged", lambda tokens, pair: list(tokens)),
        Mistake("the pair is also merged in the opposite order", lambda tokens, pair: _both_orders(tokens, pair)),
        Mistake(
            "the merged tokens were put at the end, where they should stay in their place",
            lambda tokens, pair: _at_the_end(tokens, pair),
        ),
    ],
)


def _both_orders(tokens, pair):
    merged, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) in (tuple(pair), tuple(pair)[::-1]):
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def _at_the_end(tokens, pair):
    merged, joined = _merge(tokens, pair), "".join(pair)
    return [x for x in merged if x != joined] + [x for x in merged if x == joined]


def _attention(q, k, v, axis=-1, scale=True, power=0.5):
    scores = q @ k.transpose(-1, -2)
    if scale:
        scores = scores / q.shape[-1] ** power
    return scores.softmax(axis) @ v


attention = Build(
    "6.2",
    right=_attention,
    given=lambda q, k, v: _attention(q, k, v, axis=1, scale=False),
    cases=[
        {
            "q": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
            "k": torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]),
            "v": torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]),
        },
        {"q": normal(2, 5, 16, seed=1), "k": normal(2, 5, 16, seed=2), "v": normal(2, 5, 16, seed=3)},
    ],
    mistakes=[
        Mistake(
            "the scores are now divided, but the softmax still runs over the tokens that ask: for each of those, the weights over the tokens that are looked at should add up to 1",
            lambda q, k, v: _attention(q, k, v, axis=1),
        ),
        Mistake(
            "the softmax now runs the right way, but the scores are still not divided by the square root of the width",
            lambda q, k, v: _attention(q, k, v, scale=False),
        ),
        Mistake(
            "the scores were divided by the width, where its square root is meant", lambda q, k, v: _attention(q, k, v, power=1)
        ),
        Mistake(
            "the softmax runs over the batch, so that one text depends on another", lambda q, k, v: _attention(q, k, v, axis=0)
        ),
        Mistake(
            "there is no softmax any more: the weights do not add up to 1",
            lambda q, k, v: (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5) @ v,
        ),
        Mistake("queries and keys changed places", lambda q, k, v: _attention(k, q, v)),
        Mistake("the keys were averaged, where the values should be", lambda q, k, v: _attention(q, k, k)),
        Mistake(
            "the softmax was taken first and the weights were divided afterwards",
            lambda q, k, v: ((q @ k.transpose(-1, -2)).softmax(-1) / q.shape[-1] ** 0.5) @ v,
        ),
    ],
)


@cache
def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(WEIGHTS / "tokenizer"))


MOST_WORDS, ENOUGH_TOKENS = 6, 30


def _fault(prompt: object) -> str | None:
    if not isinstance(prompt, str):
        return "long_prompt should be a text in quotes"
    words = len(prompt.split())
    if words > MOST_WORDS:
        return f"this prompt has {words} words, and at most {MOST_WORDS} are allowed"
    if any(len(word) > 20 for word in prompt.split()):
        return "one of these words has more than 20 letters: ordinary words will do"
    if not all(word.strip(".,!?").isalpha() for word in prompt.split()):
        return "only words of letters are allowed"
    tokens = len(_tokenizer()(prompt).input_ids)
    if tokens < ENOUGH_TOKENS:
        return f"this prompt has {tokens} tokens, and {ENOUGH_TOKENS} are asked for: take words that no caption of simple objects has"
    return None


long_prompt = Find(
    "6.3",
    fault=_fault,
    because="words that no caption had are spelled out in small pieces, so a prompt can reach the limit of 77 tokens with few words",
)
