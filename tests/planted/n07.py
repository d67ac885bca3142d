import math

import torch
import torch.nn.functional as F


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


RIGHT = {
    "contrastive_loss": [loss_from_cross_entropy, loss_by_loop],
    "search": [search_topk, search_sorted],
    "first_loss": [math.log(64), 4.16],
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
}
