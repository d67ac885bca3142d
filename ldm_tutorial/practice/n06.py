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
    "6.2",
    fault=_fault,
    because="words that no caption had are spelled out in small pieces, so a prompt can reach the limit of 77 tokens with few words",
)


def _attention(q, k, v, axis=-1, scale=True, power=0.5):
    scores = q @ k.transpose(-1, -2)
    if scale:
        scores = scores / q.shape[-1] ** power
    return scores.softmax(axis) @ v


attention = Build(
    "6.3",
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


def _hidden_by(fill, keep, axis=-1, at_diagonal=1):
    """Weights with what is above a diagonal filled before the softmax."""

    def weights(scores):
        later = torch.ones_like(scores, dtype=torch.bool).triu(at_diagonal)
        return scores.masked_fill(later if keep == "earlier" else later.mT, fill).softmax(axis)

    return weights


_causal_weights = _hidden_by(float("-inf"), "earlier")


def _times_infinity(scores):
    """Scores of later tokens multiplied by minus infinity."""
    return (scores * torch.ones_like(scores).masked_fill(torch.ones_like(scores).triu(1) > 0, float("-inf"))).softmax(-1)


causal_weights = Build(
    "6.4",
    right=_causal_weights,
    cases=[
        {"scores": torch.tensor([[[1.0, 2.0], [0.5, 0.5]]])},
        {"scores": normal(2, 5, 5, seed=4)},
        {"scores": normal(1, 3, 3, seed=5) - 4},
    ],
    mistakes=[
        Mistake(
            "the scores of later tokens were set to 0 before the softmax, where e to the power of 0 is 1, so that later tokens still get weight: minus infinity gives them none",
            _hidden_by(0.0, "earlier"),
        ),
        Mistake(
            "the weights of later tokens were set to 0 after the softmax, so that the rest of a row no longer adds up to 1",
            lambda scores: scores.softmax(-1).tril(),
        ),
        Mistake(
            "the mask is the wrong way round: each token looks at itself and at what comes later",
            _hidden_by(float("-inf"), "later"),
        ),
        Mistake(
            "each token is hidden from itself too, so that the first one has nothing to look at and gets nan: the mask begins one place beside the diagonal",
            _hidden_by(float("-inf"), "earlier", at_diagonal=0),
        ),
        Mistake(
            "each token still sees the next one: the mask begins one place too far from the diagonal",
            _hidden_by(float("-inf"), "earlier", at_diagonal=2),
        ),
        Mistake(
            "the mask is right, but the softmax runs over the tokens that ask: each row should add up to 1",
            _hidden_by(float("-inf"), "earlier", axis=1),
        ),
        Mistake("there is no mask: later tokens get weight as well", lambda scores: scores.softmax(-1)),
        Mistake(
            "later tokens are hidden, but there is no softmax, so that these are still scores",
            lambda scores: scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf")),
        ),
        Mistake(
            "a mask of zeros and ones was multiplied by infinity, and 0 times infinity is nan: masked_fill puts minus infinity in some places alone",
            lambda scores: scores * float("nan"),
        ),
        Mistake(
            "the scores of later tokens were multiplied by minus infinity, which makes plus infinity of those below 0: they should become minus infinity, whatever they were",
            _times_infinity,
        ),
        Mistake(
            "a softmax was taken before the mask as well: only the masked scores go into it, once",
            lambda scores: _causal_weights(scores.softmax(-1)),
        ),
    ],
)


def _margin(cosine, group, oneself=False, groups=(0, 1)):
    same = group[:, None] == group
    counted = torch.stack([group == g for g in groups]).any(0)
    within = same & counted & (torch.ones_like(same) if oneself else ~torch.eye(len(group), dtype=torch.bool))
    return cosine[within].mean() - cosine[~same].mean()


def _margin_test(cosine, groups, margin=_margin, share=lambda margins: (margins >= margins[0]).double().mean()):
    margins = torch.stack([margin(cosine, group) for group in groups])
    return torch.stack([margins[0].double(), share(margins)])


def _with_share(share):
    return lambda cosine, groups: _margin_test(cosine, groups, share=share)


def _with_margin(margin):
    return lambda cosine, groups: _margin_test(cosine, groups, margin)


def _cosines(count, seed):
    states = torch.nn.functional.normalize(normal(count, 6, seed=seed) + 0.5, dim=1)
    return states @ states.T


margin_test = Build(
    "6.5",
    right=_margin_test,
    cases=[
        {
            "cosine": torch.tensor([[1.0, 0.9, 0.2, 0.3], [0.9, 1.0, 0.4, 0.1], [0.2, 0.4, 1.0, 0.7], [0.3, 0.1, 0.7, 1.0]]),
            "groups": torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]]),
        },
        {
            "cosine": _cosines(6, seed=7),
            "groups": torch.tensor(
                [[0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 1]]
                + [[0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 1, 1], [0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 0, 1, 0]]
            ),
        },
    ],
    mistakes=[
        Mistake(
            "each state was also compared with itself, which always gives 1 and makes every margin too large",
            _with_margin(lambda cosine, group: _margin(cosine, group, oneself=True)),
        ),
        Mistake(
            "the difference was taken the other way round: the mean over the same group comes first",
            _with_margin(lambda cosine, group: -_margin(cosine, group)),
        ),
        Mistake(
            "only pairs within the first group were counted: both groups have pairs of the same group",
            _with_margin(lambda cosine, group: _margin(cosine, group, groups=(0,))),
        ),
        Mistake(
            "the margin is right, but only larger margins were counted: the true division counts too, so the share is never 0",
            _with_share(lambda margins: (margins > margins[0]).double().mean()),
        ),
        Mistake(
            "the margin is right, but the true division was left out of the count: it is one of the divisions",
            _with_share(lambda margins: (margins[1:] >= margins[0]).double().mean()),
        ),
        Mistake(
            "the margin is right, but the share counts the margins that are at most as large, where at least as large was asked for",
            _with_share(lambda margins: (margins <= margins[0]).double().mean()),
        ),
        Mistake(
            "the margin is right, but the divisions were counted, where their share of all was asked for",
            _with_share(lambda margins: (margins >= margins[0]).double().sum()),
        ),
        Mistake(
            "the mean over pairs of different groups was not subtracted",
            _with_margin(lambda cosine, group: _margin(cosine, group) + cosine[group[:, None] != group].mean()),
        ),
    ],
)
