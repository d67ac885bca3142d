import math

import torch
import torch.nn.functional as F

from ldm_tutorial.measure.metrics import interval, rate


def loss_from_cross_entropy(image_embeds, text_embeds, scale):
    a = image_embeds / image_embeds.norm(dim=-1, keepdim=True)
    b = text_embeds / text_embeds.norm(dim=-1, keepdim=True)
    scores = torch.einsum("id,jd->ij", a, b) * scale
    right = torch.arange(len(scores))
    return 0.5 * (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right))


def loss_by_loop(image_embeds, text_embeds, scale):
    n, total = len(image_embeds), 0.0
    cosine = [[float(F.cosine_similarity(x, y, dim=0)) for y in text_embeds] for x in image_embeds]
    for k in range(n):
        row = sum(math.exp(scale * cosine[k][j]) for j in range(n))
        column = sum(math.exp(scale * cosine[j][k]) for j in range(n))
        total += math.log(row) + math.log(column) - 2 * scale * cosine[k][k]
    return total / (2 * n)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def loss_long(image_embeds, text_embeds, scale):
    scores = scale * image_embeds @ text_embeds.T
    right = torch.arange(len(scores))
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def loss_one_way(image_embeds, text_embeds, scale):
    scores = scale * unit(image_embeds) @ unit(text_embeds).T
    return F.cross_entropy(scores, torch.arange(len(scores)))


def loss_divided(image_embeds, text_embeds, scale):
    return loss_from_cross_entropy(image_embeds, text_embeds, 1 / scale)


def search_topk(text_embed, image_embeds, k):
    return (unit(image_embeds) @ text_embed).topk(k).indices


def search_sorted(text_embed, image_embeds, k):
    fits = F.cosine_similarity(image_embeds, text_embed[None], dim=1).tolist()
    return sorted(range(len(fits)), key=lambda i: -fits[i])[:k]


def answers_by_einsum(image_embeds, sentence_embeds, temperature):
    answers = sentence_embeds.sum(dim=1)  # the sum points where the mean points
    answers = answers / answers.norm(dim=1, keepdim=True)
    return torch.softmax(torch.einsum("nd,cd->nc", image_embeds, answers) * (1 / temperature), dim=1)


def answers_by_cosine(images, sentences, T):
    means = torch.stack([of_one.mean(0) for of_one in sentences])
    cosines = F.cosine_similarity(images[:, None], means[None], dim=2).double()
    powers = (cosines / T).exp()
    return powers / powers.sum(1, keepdim=True)


def answers_as(images, sentences, scale, dim=1, long=False):
    means = sentences.mean(1)
    return (scale * images @ (means if long else unit(means)).T).softmax(dim)


def recall_by_sorting(similarity, k):
    order = similarity.argsort(dim=1, descending=True)[:, :k].tolist()
    hits, n = sum(i in row for i, row in enumerate(order)), len(order)
    low, high = interval(hits, n)
    return hits / n, low, high, k / n


def recall_by_rank(similarity, k):
    """The own caption is found where fewer than k captions are nearer."""
    nearer = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    found = rate(nearer < k)
    return torch.tensor([found["value"], found["low"], found["high"], k / len(similarity)])


def simple_recall(similarity, k):
    p, _, _, chance = recall_by_sorting(similarity, k)
    half = 1.96 * (p * (1 - p) / len(similarity)) ** 0.5
    return p, p - half, p + half, chance


def precision_at_k(similarity, k):
    n = len(similarity)
    hits = round(recall_by_sorting(similarity, k)[0] * n)
    return hits / (n * k), *interval(hits, n * k), k / n


RIGHT = {
    "contrastive_loss": [loss_from_cross_entropy, loss_by_loop],
    "search": [search_topk, search_sorted],
    "first_loss": [math.log(64), 4.16],
    "zero_shot": [answers_by_einsum, answers_by_cosine],
    "recall_at_k": [recall_by_sorting, recall_by_rank],
}
WRONG = {
    "contrastive_loss": {
        "not brought to length 1": loss_long,
        "only the pictures choose": loss_one_way,
        "were divided by scale": loss_divided,
        "were added up, where their mean": lambda x, y, s: 2 * loss_from_cross_entropy(x, y, s),
    },
    "search": {
        "long embeddings still win": lambda t, x, k: (x @ t).topk(k).indices,
        "that fit worst still come first": lambda t, x, k: (unit(x) @ t).topk(k, largest=False).indices,
        "the best of them comes last": lambda t, x, k: (unit(x) @ t).argsort()[-k:],
        "these are the similarities": lambda t, x, k: F.cosine_similarity(x, t[None]).topk(k).values,
    },
    "first_loss": {
        "two are asked for": 4.2,
        "the sign is the opposite": -4.16,
        "to the base 2": 6,
        "the probability itself": 1 / 64,
        "too high": 20,
    },
    "zero_shot": {
        "still multiplied by the temperature": lambda x, s, t: answers_as(x, s, t),
        "the shortest means lose": lambda x, s, t: answers_as(x, s, 1 / t, long=True),
        "runs over the pictures": lambda x, s, t: answers_as(x, s, 1 / t, dim=0),
        "the softmax is missing": lambda x, s, t: x @ unit(s.mean(1)).T / t,
        "only the first sentence": lambda x, s, t: answers_as(x, s[:, :1], 1 / t),
        "the size of the whole table": lambda x, s, t: answers_as(x, s / s.mean(1).square().sum().sqrt(), 1 / t, long=True),
        "with keepdim=True": lambda x, s, t: (x @ (s.mean(1) / s.mean(1).norm(dim=1)).T / t).softmax(1),
        "after the softmax": lambda x, s, t: answers_as(x, s, 1) / t,
    },
    "recall_at_k": {
        "the captions look for their pictures": lambda s, k: recall_by_sorting(s.T, k),
        "the k smallest": lambda s, k: recall_by_sorting(-s, k),
        "that of the first place alone": lambda s, k: (*recall_by_sorting(s, k)[:3], 1 / len(s)),
        "divided by N times k": precision_at_k,
        "not Wilson's": simple_recall,
    },
}
