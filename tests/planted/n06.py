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


def hide_by_adding(scores):
    n = scores.shape[1]
    return torch.softmax(scores + torch.full((n, n), float("-inf")).triu(1), dim=2)


def hide_and_divide_again(scores):
    """The softmax first; what is left of each row is divided by its sum."""
    weights = torch.tril(scores.double().softmax(dim=-1))
    return weights / weights.sum(dim=-1, keepdim=True)


def hide_by_loop(scores):
    found = torch.zeros_like(scores)
    for b in range(len(scores)):
        for i in range(scores.shape[1]):
            found[b, i, : i + 1] = scores[b, i, : i + 1].softmax(0)
    return found


def look_back(scores, mask, fill=float("-inf")):
    return scores.masked_fill(mask(torch.ones(scores.shape[1:])) == 1, fill).softmax(2)


def margin_by_loop(cosine, labels, others=lambda i, j: i != j):
    same, different = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            if others(i, j):
                (same if labels[i] == labels[j] else different).append(float(cosine[i, j]))
    return sum(same) / len(same) - sum(different) / len(different)


def test_by_loop(cosine, groups):
    margins = [margin_by_loop(cosine, labels.tolist()) for labels in groups]
    return margins[0], sum(m >= margins[0] for m in margins) / len(margins)


def test_with_matrices(cosine, groups):
    sign = 2 * groups.double() - 1
    same = (sign[:, :, None] * sign[:, None, :] > 0).double()  # [D, N, N]
    oneself = torch.eye(len(cosine)).double()
    kept = same - oneself
    within = (kept * cosine).sum((1, 2)) / kept.sum((1, 2))
    across = ((1 - same) * cosine).sum((1, 2)) / (1 - same).sum((1, 2))
    margins = within - across
    return torch.tensor([margins[0], (margins + 1e-9 >= margins[0]).double().mean()])


def margins_of(cosine, groups, **options):
    return [margin_by_loop(cosine, labels.tolist(), **options) for labels in groups]


def with_oneself(cosine, groups):
    margins = margins_of(cosine, groups, others=lambda i, j: True)
    return [margins[0], sum(m >= margins[0] for m in margins) / len(margins)]


def count_larger(cosine, groups):
    first, *others = margins_of(cosine, groups)
    return [first, sum(m > first for m in others) / len(groups)]


def count_others(cosine, groups):
    first, *others = margins_of(cosine, groups)
    return [first, sum(m >= first for m in others) / len(others)]


def count_below(cosine, groups):
    margins = margins_of(cosine, groups)
    return [margins[0], sum(m <= margins[0] for m in margins) / len(margins)]


def upside_down(cosine, groups):
    margins = [-m for m in margins_of(cosine, groups)]
    return [margins[0], sum(m >= margins[0] for m in margins) / len(margins)]


RIGHT = {
    "merge_pair": [merge_backwards_list, merge_recursive],
    "attention": [attend_by_einsum, attend_with_library, attend_by_loop],
    "long_prompt": ["extraordinary kaleidoscope phosphorescent xylophone quizzical rhododendron"],
    "causal_weights": [hide_by_adding, hide_and_divide_again, hide_by_loop],
    "margin_test": [test_by_loop, test_with_matrices],
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
    "causal_weights": {
        "where e to the power of 0 is 1": lambda s: (s * torch.ones(s.shape[1:]).tril()).softmax(-1),
        "no longer adds up to 1": lambda s: torch.softmax(s, 2) * torch.ones(s.shape[1:]).tril(),
        "the wrong way round": lambda s: look_back(s, lambda ones: ones.tril(-1)),
        "gets nan": lambda s: look_back(s, torch.triu),
        "still sees the next one": lambda s: look_back(s, lambda ones: ones.triu(2)),
        "there is no mask": lambda s: torch.softmax(s, dim=2),
        "0 times infinity is nan": lambda s: (s - float("inf") * torch.ones(s.shape[1:]).triu(1)).softmax(2),
        "multiplied by minus infinity": lambda s: (
            s * torch.where(torch.ones(s.shape[1:]).tril() == 1, 1.0, float("-inf"))
        ).softmax(2),
        "before the mask as well": lambda s: look_back(torch.softmax(s, dim=2), lambda ones: ones.triu(1)),
    },
    "margin_test": {
        "compared with itself": with_oneself,
        "only larger margins": count_larger,
        "left out of the count": count_others,
        "at most as large": count_below,
        "the other way round": upside_down,
    },
}
