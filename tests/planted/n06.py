import numpy as np
import torch


def merge_backwards_list(tokens, pair):
    found = []
    for token in tokens:
        if found and found[-1] is not None and (found[-1], token) == tuple(pair):
            found[-1:] = [pair[0] + pair[1], None]  # None: what was merged is not merged again
        else:
            found.append(token)
    return [token for token in found if token is not None]


def merge_recursive(parts, couple):
    if len(parts) < 2:
        return list(parts)
    if parts[0] == couple[0] and parts[1] == couple[1]:
        return [parts[0] + parts[1], *merge_recursive(parts[2:], couple)]
    return [parts[0], *merge_recursive(parts[1:], couple)]


def merge_once(tokens, pair):
    for i in range(len(tokens) - 1):
        if (tokens[i], tokens[i + 1]) == pair:
            return [*tokens[:i], "".join(pair), *tokens[i + 2 :]]
    return tokens


def merge_keeps_second(tokens, pair):
    found = []
    for i, token in enumerate(tokens):
        if (token, tokens[i + 1] if i + 1 < len(tokens) else "") == pair:
            found.append("".join(pair))
        else:
            found.append(token)
    return found


def merge_loses_last(tokens, pair):
    found, i = [], 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            found.append("".join(pair))
            i += 2
        else:
            found.append(tokens[i])
            i += 1
    return found


def merge_by_for(tokens, pair):
    found = []
    for i in range(len(tokens) - 1):
        found.append("".join(pair) if (tokens[i], tokens[i + 1]) == pair else tokens[i])
    return found


def merge_in_text(tokens, pair):
    return " ".join(tokens).replace(pair[0] + " " + pair[1], pair[0] + pair[1]).split(" ")


def attend_by_einsum(q, k, v):
    scores = torch.einsum("bid,bjd->bij", q, k) / np.sqrt(q.shape[-1])
    return torch.einsum("bij,bjd->bid", torch.softmax(scores, dim=2), v)


def attend_with_library(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def attend_by_loop(q, k, v):
    found = torch.zeros_like(v, dtype=torch.float64)
    for b in range(len(q)):
        for i in range(q.shape[1]):
            weights = torch.exp((k[b].double() @ q[b, i].double()) / q.shape[2] ** 0.5)
            found[b, i] = (weights / weights.sum()) @ v[b].double()
    return found


def attend(q, k, v, dim, by):
    return torch.softmax(torch.matmul(q, k.mT) / by, dim=dim) @ v


RIGHT = {
    "merge_pair": [merge_backwards_list, merge_recursive],
    "attention": [attend_by_einsum, attend_with_library, attend_by_loop],
    "long_prompt": ["extraordinary kaleidoscope phosphorescent xylophone quizzical rhododendron"],
}
WRONG = {
    "merge_pair": {
        "only the first place": merge_once,
        "second token of a pair is still there": merge_keeps_second,
        "the last token was lost": merge_loses_last,
        "and the last token is lost": merge_by_for,
        "looked for in the text": merge_in_text,
    },
    "attention": {
        "still runs over the tokens that ask": lambda q, k, v: attend(q, k, v, 1, q.shape[-1] ** 0.5),
        "still not divided": lambda q, k, v: attend(q, k, v, 2, 1),
        "where its square root is meant": lambda q, k, v: attend(q, k, v, 2, q.shape[-1]),
        "over the batch": lambda q, k, v: attend(q, k, v, 0, q.shape[-1] ** 0.5),
    },
    "long_prompt": {
        "take words that no caption of simple objects has": "a golden duck on a table",
        "at most 6 are allowed": "a b c d e f g h i",
        "more than 20 letters": "x" * 60,
        "only words of letters": "1234567890 1234567890 1234567890",
    },
}
