"""The exercises of notebook 07, CLIP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..measure.metrics import interval
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


def _zero_shot(images, sentences, temperature, unit=True, times=False, dim=1, softmax=True, over=1):
    answers = sentences.mean(1)
    answers = F.normalize(answers, dim=over) if unit else answers
    scores = images @ answers.T
    scores = scores * temperature if times else scores / temperature
    return scores.softmax(dim) if softmax else scores


def _units(*shape, seed, shift=0.0):
    return F.normalize(normal(*shape, seed=seed) + shift, dim=-1)


def _but(**wrong):
    return lambda images, sentences, temperature: _zero_shot(images, sentences, temperature, **wrong)


def _divided_by(size):
    """The means divided by something else than their lengths."""

    def zero_shot(images, sentences, temperature):
        means = sentences.mean(1)
        return (images @ (means / size(means)).T / temperature).softmax(1)

    return zero_shot


zero_shot = Build(
    "7.4",
    right=_zero_shot,
    given=_but(unit=False, times=True),
    cases=[
        {
            "image_embeds": torch.tensor([[0.8, 0.6]]),
            "sentence_embeds": torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.6, 0.8]]]),
            "temperature": 0.5,
        },
        {
            "image_embeds": _units(5, 8, seed=6),
            "sentence_embeds": _units(3, 4, 8, seed=7, shift=normal(3, 1, 8, seed=8)),
            "temperature": 0.1,
        },
    ],
    mistakes=[
        Mistake(
            "the means now have length 1, but the cosines are still multiplied by the temperature: a low temperature should make the softmax more certain",
            _but(times=True),
        ),
        Mistake(
            "the cosines are now divided by the temperature, but a mean of several vectors of length 1 is shorter than 1, and the shortest means lose: bring the means to length 1",
            _but(unit=False),
        ),
        Mistake(
            "the softmax runs over the pictures: for each picture the shares of all answers should add up to 1", _but(dim=0)
        ),
        Mistake("the softmax is missing: these are scores, which do not add up to 1", _but(softmax=False)),
        Mistake(
            "only the first sentence of each answer was used, where the mean of all its sentences was asked for",
            lambda images, sentences, temperature: _zero_shot(images, sentences[:, :1], temperature),
        ),
        Mistake(
            "the columns of the means were brought to length 1, where each mean, a row, should be: normalise along dim 1",
            _but(over=0),
        ),
        Mistake("the temperature was left out", lambda images, sentences, temperature: _zero_shot(images, sentences, 1.0)),
        Mistake(
            "all means were divided by one number, the size of the whole table: each has a length of its own, norm(dim=1)",
            _divided_by(lambda means: means.norm()),
        ),
        Mistake(
            "the lengths of the means lie along the wrong axis: with keepdim=True they stand in a column, and each row is divided by its own",
            _divided_by(lambda means: means.norm(dim=1)),
        ),
        Mistake(
            "the shares were divided by the temperature, after the softmax: the cosines should be, before it",
            lambda images, sentences, temperature: _zero_shot(images, sentences, 1.0) / temperature,
        ),
    ],
)


def _recall(similarity, k):
    return _counted(_among_best(similarity, k), k)


def _among_best(similarity, k, dim=1, largest=True):
    best = similarity.topk(k, dim=dim, largest=largest).indices
    own = torch.arange(len(similarity))
    return (best == (own[:, None] if dim == 1 else own)).any(dim)


def _counted(found, k, n=None, chance=None):
    hits, count = int(found.sum()), len(found)
    low, high = interval(hits, n or count)
    return torch.tensor([hits / (n or count), low, high, k / count if chance is None else chance])


def _in_place_k(similarity, k):
    return similarity.topk(k, dim=1).indices[:, -1] == torch.arange(len(similarity))


def _pairs(count, seed):
    return 0.3 * normal(count, count, seed=seed) + 0.3 * torch.eye(count)


recall_at_k = Build(
    "7.5",
    right=_recall,
    cases=[
        {"similarity": torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.2, 0.1], [0.8, 0.7, 0.6]]), "k": 1},
        {"similarity": _pairs(12, seed=9), "k": 3},
        {"similarity": _pairs(40, seed=10), "k": 5},
    ],
    mistakes=[
        Mistake(
            "the captions look for their pictures, down the columns, where the pictures should look for their captions, along the rows",
            lambda s, k: _counted(_among_best(s, k, dim=0), k),
        ),
        Mistake("the k smallest cosines were taken", lambda s, k: _counted(_among_best(s, k, largest=False), k)),
        Mistake(
            "chance is that of the first place alone: k places of N hold the own caption with a chance of k / N",
            lambda s, k: _counted(_among_best(s, k), k, chance=1 / len(s)),
        ),
        Mistake(
            "only the first place was looked at, whatever k is",
            lambda s, k: _counted(_among_best(s, 1), k),
        ),
        Mistake(
            "only place number k was looked at: the own caption may stand in any of the first k places",
            lambda s, k: _counted(_in_place_k(s, k), k),
        ),
        Mistake(
            "the hits were divided by N times k: each picture has one own caption, so n is the number of pictures",
            lambda s, k: _counted(_among_best(s, k), k, n=len(s) * k),
        ),
        Mistake("the numbers are percentages, where shares from 0 to 1 were asked for", lambda s, k: 100 * _recall(s, k)),
        Mistake(
            "the ends of the interval are not Wilson's: they are the recall plus and minus 1.96 simple standard errors",
            lambda s, k: _simple_interval(_among_best(s, k), k),
        ),
    ],
)


def _simple_interval(found, k):
    p, n = found.double().mean().item(), len(found)
    half = 1.96 * (p * (1 - p) / n) ** 0.5
    return torch.tensor([p, p - half, p + half, k / n])
