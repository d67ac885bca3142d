"""The exercises of notebook 08, cross-attention."""

from __future__ import annotations

import torch

from .exercise import Build, Choice, Mistake, normal


def _heard(queries, keys, values, power=0.5, dim=-1, softmax=True):
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** power
    return (scores.softmax(dim) if softmax else scores) @ values


def _cross_attention(x, c, W_Q, W_K, W_V):
    return _heard(x @ W_Q, c @ W_K, c @ W_V)


cross_attention = Build(
    "8.1",
    right=_cross_attention,
    cases=[
        {
            "x": torch.tensor([[[2.0], [1.0]]]),
            "c": torch.tensor([[[0.0], [1.0]]]),
            "W_Q": torch.tensor([[1.0, 0.5]]),
            "W_K": torch.tensor([[1.0, 1.0]]),
            "W_V": torch.tensor([[3.0, -1.0]]),
        },
        {
            "x": normal(2, 5, 6, seed=1),
            "c": normal(2, 7, 4, seed=2),
            "W_Q": normal(6, 9, seed=3),
            "W_K": normal(4, 9, seed=4),
            "W_V": normal(4, 9, seed=5),
        },
    ],
    mistakes=[
        Mistake(
            "the softmax runs over the places of the picture: for each place, the weights over the tokens should add up to 1",
            lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, dim=1),
        ),
        Mistake(
            "the scores were not divided by the square root of d", lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, power=0)
        ),
        Mistake(
            "the scores were divided by d, where its square root is meant",
            lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, power=1),
        ),
        Mistake(
            "the softmax is missing, so that the weights do not add up to 1",
            lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ V, softmax=False),
        ),
        Mistake("the keys were averaged, where the values should be", lambda x, c, Q, K, V: _heard(x @ Q, c @ K, c @ K)),
        Mistake(
            "the tokens ask and the places of the picture answer: queries are made from x, keys and values from c",
            lambda x, c, Q, K, V: _heard(c @ K, x @ Q, x @ Q),
        ),
        Mistake(
            "this is self-attention, the picture looking at itself: keys and values are made from the text c",
            lambda x, c, Q, K, V: _heard(x @ Q, x @ K, x @ V),
        ),
    ],
)


def _drop(captions, share, draws):
    return ["" if draw < share else caption for caption, draw in zip(captions, draws.tolist(), strict=True)]


drop_captions = Build(
    "8.2",
    right=_drop,
    given=lambda captions, share, draws: ["" if draws[0] > share else caption for caption in captions],
    cases=[
        {"captions": ["a golden duck", "a mug", "a cheese lamp"], "share": 0.4, "draws": torch.tensor([0.9, 0.1, 0.6])},
        {
            "captions": [f"caption {i}" for i in range(8)],
            "share": 0.5,
            "draws": torch.tensor([0.2, 0.8, 0.4, 0.7, 0.1, 0.9, 0.3, 0.6]),
        },
        {"captions": ["a duck", "a bed"], "share": 0.0, "draws": torch.tensor([0.1, 0.3])},
    ],
    mistakes=[
        Mistake(
            "each caption now has a draw of its own, but those above the share are still dropped: with a share of 0.1 nine of ten captions would be lost",
            lambda captions, share, draws: [
                "" if draw > share else caption for caption, draw in zip(captions, draws.tolist(), strict=True)
            ],
        ),
        Mistake(
            "the right side of the share is now dropped, but one draw still decides for the whole batch",
            lambda captions, share, draws: ["" if draws[0] < share else caption for caption in captions],
        ),
        Mistake(
            "the dropped captions are gone from the list, so that the others no longer stand beside their pictures: an empty text must take their place",
            lambda captions, share, draws: [caption for caption in _drop(captions, share, draws) if caption],
        ),
        Mistake(
            "a space stands where the text should be empty",
            lambda captions, share, draws: [caption or " " for caption in _drop(captions, share, draws)],
        ),
        Mistake(
            "None stands where the text should be empty: a tokenizer can't read it",
            lambda captions, share, draws: [caption or None for caption in _drop(captions, share, draws)],
        ),
        Mistake(
            "the first captions were dropped, as many as the share says, and not those that were drawn",
            lambda captions, share, draws: ["" if i < share * len(captions) else caption for i, caption in enumerate(captions)],
        ),
    ],
)

exchanged_tokens = Choice(
    "8.3",
    letter="B",
    reasons={
        "A": "the places of the picture ask with queries of their own, which nobody has exchanged",
        "B": "each place takes an average over all tokens, and an average does not depend on their order, so only the text encoder can tell who comes first",
        "C": "a weight goes with its own key and value wherever they stand in the list, so no sum changes",
    },
)
