"""The exercises of notebook 07, CLIP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .exercise import Build, Mistake, Number, normal


def _scores(images, texts, scale):
    return scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T


def _choosing(scores, dim):
    return -scores.log_softmax(dim).diagonal().mean()


def _both(scores):
    return (_choosing(scores, 0) + _choosing(scores, 1)) / 2


contrastive_loss = Build(
    "7.1",
    right=lambda images, texts, scale: _both(_scores(images, texts, scale)),
    cases=[
        {
            "image_embeds": torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
            "text_embeds": torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
            "scale": 2.0,
        },
        {"image_embeds": normal(5, 8, seed=1), "text_embeds": normal(5, 8, seed=2) + normal(5, 8, seed=1), "scale": 4.0},
    ],
    mistakes=[
        Mistake("the embeddings were not brought to length 1, so that long ones win", lambda x, y, s: _both(s * x @ y.T)),
        Mistake(
            "only the pictures choose among the captions: the captions choose among the pictures too",
            lambda x, y, s: _choosing(_scores(x, y, s), 1),
        ),
        Mistake(
            "only the captions choose among the pictures: the pictures choose among the captions too",
            lambda x, y, s: _choosing(_scores(x, y, s), 0),
        ),
        Mistake("the two directions were added up, where their mean is the loss", lambda x, y, s: 2 * _both(_scores(x, y, s))),
        Mistake(
            "the similarities were divided by scale, where they should be multiplied",
            lambda x, y, s: _both(_scores(x, y, 1 / s)),
        ),
        Mistake("scale was left out", lambda x, y, s: _both(_scores(x, y, 1.0))),
        Mistake(
            "the sum over the batch was taken, where its mean is the loss", lambda x, y, s: len(x) * _both(_scores(x, y, s))
        ),
        Mistake("the sign is the opposite: the loss should fall when the pairs fit", lambda x, y, s: -_both(_scores(x, y, s))),
        Mistake(
            "caption 0 was taken as the right one for every picture: picture k belongs to caption k",
            lambda x, y, s: (
                (
                    F.cross_entropy(_scores(x, y, s), torch.zeros(len(x), dtype=torch.long))
                    + F.cross_entropy(_scores(x, y, s).T, torch.zeros(len(x), dtype=torch.long))
                )
                / 2
            ),
        ),
    ],
)


def _search(text, images, k):
    return _cosines(text, images).argsort(descending=True)[:k]


def _cosines(text, images):
    return F.normalize(images, dim=1) @ F.normalize(text, dim=0)


search = Build(
    "7.2",
    right=_search,
    given=lambda text, images, k: (images @ text).argsort()[:k],
    cases=[
        {"text_embed": torch.tensor([1.0, 0.0]), "image_embeds": torch.tensor([[0.9, 0.1], [3.0, 4.0], [-1.0, 0.0]]), "k": 2},
        {
            "text_embed": normal(8, seed=3),
            "image_embeds": normal(30, 8, seed=4) * (1 + 4 * normal(30, 1, seed=5).abs()),
            "k": 6,
        },
    ],
    mistakes=[
        Mistake(
            "the best pictures now come first, but long embeddings still win: bring them to length 1",
            lambda t, x, k: (x @ t).argsort(descending=True)[:k],
        ),
        Mistake(
            "the lengths are now 1, but the pictures that fit worst still come first",
            lambda t, x, k: _cosines(t, x).argsort()[:k],
        ),
        Mistake("the best pictures were found, but the best of them comes last", lambda t, x, k: _cosines(t, x).argsort()[-k:]),
        Mistake(
            "these are the similarities, where the numbers of the pictures were asked for",
            lambda t, x, k: _cosines(t, x).sort(descending=True).values[:k],
        ),
        Mistake(
            "the columns were brought to length 1, where the rows are the embeddings: normalise along dim 1",
            lambda t, x, k: (F.normalize(x, dim=0) @ t).argsort(descending=True)[:k],
        ),
        Mistake(
            "all pictures were returned, where the k best were asked for",
            lambda t, x, k: _cosines(t, x).argsort(descending=True),
        ),
        Mistake("the best picture itself was left out", lambda t, x, k: _cosines(t, x).argsort(descending=True)[1 : k + 1]),
    ],
)

first_loss = Number(
    "7.3",
    value=math.log(64),
    within=0.02,
    because="a guess among 64 has the probability 1 / 64, and the loss is minus its natural logarithm, ln 64 = 4.16",
    mistakes={
        4.2: "this has one decimal, and two are asked for",
        -4.16: "the sign is the opposite: the logarithm of a probability is below 0, and the loss is minus that",
        6.0: "the logarithm was taken to the base 2: the loss uses the natural one",
        1.806: "the logarithm was taken to the base 10: the loss uses the natural one",
        64.0: "the number of captions itself was taken: the loss is the logarithm of a probability",
        0.0156: "the probability itself was taken: the loss is minus its logarithm",
        8.318: "both directions were added up: the loss is their mean",
        0.693: "two captions were counted: each picture chooses among all 64 of the batch",
        4.143: "63 captions were counted: the right one is among those to choose from",
    },
)
