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


RIGHT = {
    "cross_attention": [by_einsum, by_library],
    "drop_captions": [drop_in_numpy, drop_in_a_copy],
    "exchanged_tokens": ["B", "b"],
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
}
