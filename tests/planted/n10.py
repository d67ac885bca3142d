import torch
import torch.nn.functional as F


def where(z, given, eps, mask, a):
    level = torch.tensor(a)
    outside = level.sqrt() * given + (1 - level).sqrt() * eps
    return torch.where(mask.bool(), z, outside)


def difference(z, given, eps, mask, a):
    noisy = a**0.5 * given.double() + (1 - a) ** 0.5 * eps.double()
    return noisy + mask * (z.double() - noisy)


def lora_linear(x, W, A, B, alpha):
    rank = A.shape[0]
    return F.linear(x, W) + (alpha / rank) * F.linear(F.linear(x, A), B)


def lora_merged(x, weights, down, up, strength):
    merged = weights.double() + strength / down.shape[0] * (up.double() @ down.double())
    return x.double() @ merged.T


def lora_in_place(x, W, A, B, alpha):
    W += alpha / A.shape[0] * B @ A
    return x @ W.T


RIGHT = {
    "keep_outside": [where, difference],
    "lora": [lora_linear, lora_merged],
    "learned_by_lora": [4 * 320 + 320 * 4, 2560],
}
WRONG = {
    "keep_outside": {
        "the other way round": lambda z, g, e, m, a: where(z, g, e, 1 - m, a),
        "put back without noise": lambda z, g, e, m, a: torch.where(m.bool(), z, g),
        "without its square roots": lambda z, g, e, m, a: torch.where(m.bool(), z, a * g + (1 - a) * e),
        "the given picture is missing": lambda z, g, e, m, a: z * m,
    },
    "lora": {
        "alpha / r is missing": lambda x, W, A, B, alpha: x @ W.T + x @ (B @ A).T,
        "not divided by the rank": lambda x, W, A, B, alpha: x @ W.T + alpha * x @ (B @ A).T,
        "frozen weights W were left out": lambda x, W, A, B, alpha: alpha / len(A) * x @ (B @ A).T,
        "changes the W that it was given": lora_in_place,
    },
    "learned_by_lora": {"one of the two": 1280, "which stay frozen": 320 * 320, "too high": 5000},
}
