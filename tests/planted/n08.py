import torch
import torch.nn.functional as F


def by_einsum(x, c, W_Q, W_K, W_V):
    q, k, v = x @ W_Q, c @ W_K, c @ W_V
    A = torch.einsum("bpd,btd->bpt", q / q.size(2) ** 0.5, k).softmax(2)
    return torch.einsum("bpt,btd->bpd", A, v)


def by_library(x, c, W_Q, W_K, W_V):
    return F.scaled_dot_product_attention(x @ W_Q, c @ W_K, c @ W_V)


def hear(q, k, v, by=None, dim=2):
    scores = torch.bmm(q, k.mT) / (q.shape[2] ** 0.5 if by is None else by)
    return torch.bmm(scores.softmax(dim), v)


def drop_in_numpy(captions, share, draws):
    lost = (draws < share).numpy()
    return ["" if lost[i] else captions[i] for i in range(len(captions))]


def drop_in_a_copy(texts, p, numbers):
    kept = list(texts)
    for i in torch.nonzero(numbers < p).flatten().tolist():
        kept[i] = ""
    return kept


def heads_by_chunks(Q, K, V, heads):
    """Each head works for itself on its part of the columns."""
    parts = []
    for q, k, v in zip(Q.chunk(heads, 2), K.chunk(heads, 2), V.chunk(heads, 2), strict=True):
        parts.append(hear(q, k, v))
    return torch.cat(parts, dim=2)


def heads_by_library(Q, K, V, heads):
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (Q, K, V))
    heard = F.scaled_dot_product_attention(q, k, v)
    return heard.transpose(1, 2).reshape(Q.shape)


def attend(q, k, v, by=None, dim=3):
    scores = q @ k.transpose(2, 3) / (q.shape[3] ** 0.5 if by is None else by)
    return scores.softmax(dim) @ v


def parted(x, heads):
    return x.view(len(x), x.shape[1], heads, -1).permute(0, 2, 1, 3)


def cut(x, heads):
    return x.reshape(len(x), heads, x.shape[1], -1)


def many(Q, K, V, heads, split=parted, whole=False, **options):
    heard = attend(split(Q, heads), split(K, heads), split(V, heads), **options)
    return heard.reshape(Q.shape) if whole else heard.permute(0, 2, 1, 3).reshape(Q.shape)


RIGHT = {
    "cross_attention": [by_einsum, by_library],
    "drop_captions": [drop_in_numpy, drop_in_a_copy],
    "exchanged_tokens": ["B", "b"],
    "many_heads": [heads_by_chunks, heads_by_library],
    "misleading": [
        ("a car made of cheese on a green background", "made", "built"),
        ["A car made of cheese in front of a green wall", "front", "sight"],
    ],
}
WRONG = {
    "cross_attention": {
        "runs over the places": lambda x, c, Q, K, V: hear(x @ Q, c @ K, c @ V, dim=1),
        "not divided by the square root": lambda x, c, Q, K, V: hear(x @ Q, c @ K, c @ V, by=1),
        "this is self-attention": lambda x, c, Q, K, V: hear(x @ Q, x @ K, x @ V),
        "the tokens ask": lambda x, c, Q, K, V: hear(c @ K, x @ Q, x @ Q),
    },
    "drop_captions": {
        "those above the share are still dropped": lambda c, p, u: [t if d < p else "" for t, d in zip(c, u, strict=True)],
        "one draw still decides": lambda c, p, u: [""] * len(c) if u[0] < p else list(c),
        "gone from the list": lambda c, p, u: [t for t, d in zip(c, u, strict=True) if d >= p],
        "None stands where": lambda c, p, u: [None if d < p else t for t, d in zip(c, u, strict=True)],
    },
    "exchanged_tokens": {"queries of their own": "A", "no sum changes": "C", "one of the letters": "D"},
    "many_heads": {
        "still laid side by side by reshape": lambda q, k, v, h: many(q, k, v, h, whole=True),
        "still divided by reshape alone": lambda q, k, v, h: many(q, k, v, h, split=cut),
        "square root of the whole width": lambda q, k, v, h: many(q, k, v, h, by=q.shape[2] ** 0.5),
        "there is one head only: each": lambda q, k, v, h: many(q, k, v, 1, by=(q.shape[2] / h) ** 0.5),
        "as if there is one head only": lambda q, k, v, h: many(q, k, v, 1),
        "all three need the same": lambda q, k, v, h: many(
            q, k, v.reshape(len(v), h, len(v[0]), -1).permute(0, 2, 1, 3).reshape(v.shape), h
        ),
        "transpose(1, 2) brings it in front": lambda q, k, v, h: many(
            q, k, v, h, split=lambda x, h: x.view(*x.shape[:2], h, -1)
        ),
        "so-many-th": lambda q, k, v, h: many(q, k, v, h, split=lambda x, h: x.unflatten(2, (-1, h)).permute(0, 3, 1, 2)),
        "over the places": lambda q, k, v, h: many(q, k, v, h, dim=2),
    },
    "misleading": {
        "should be three texts": "a car made of cheese",
        "should say what the picture shows": ("a duck made of gold", "made", "built"),
        "does not stand in the prompt": ("a car made of cheese on a green background", "by", "on"),
        "has shown it for 'on' already": ("a car made of cheese on a green background", "on", "by"),
        "still name the same three things": ("a car made of cheese on a green background", "green", "blue"),
        "misleads nobody": ("a car made of cheese on a green background", "of", "from"),
        "should be one word each": ("a car made of cheese on a green background", "made of", "from"),
    },
}
