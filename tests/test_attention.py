"""Recorded attention is what the U-Net used, words find their tokens, and the score rewards the right map only."""

import pytest
import torch

from ldm_tutorial.attention import (
    enlarge,
    record_attention,
    record_inputs,
    word_attention,
    word_change,
    word_tokens,
)
from ldm_tutorial.errors import UserError

PROMPT = "an Orange mug made of orange, on an orange background"


@pytest.fixture(scope="module")
def recorded(tiny):
    """(U-Net's output as it is, while recorded, the maps) for two latents, twice."""
    models, _ = tiny
    z = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    text = models.encode_text(["a golden duck", PROMPT])
    call = lambda: models.unet(z, 500, text).sample  # noqa: E731
    with torch.no_grad():
        plain = call()
        with record_attention(models.unet) as maps:
            watched = call()
            call()
    return plain, watched, maps


def test_watching_changes_nothing(recorded, tiny):
    plain, watched, _ = recorded
    torch.testing.assert_close(watched, plain)
    assert not any("_Recorder" in type(p).__name__ for p in tiny[0].unet.attn_processors.values())


def test_every_cross_attention_layer_is_recorded_at_each_call(recorded, tiny):
    _, _, maps = recorded
    layers = {name for name, _ in tiny[0].unet.named_modules() if name.endswith("attn2")}
    assert set(maps) == layers and len(layers) == 4
    for calls in maps.values():
        assert [tuple(c.shape) for c in calls] == [(2, 4, 64, 77)] * 2
        torch.testing.assert_close(calls[0].sum(-1), torch.ones(2, 4, 64))
        torch.testing.assert_close(calls[0], calls[1])


def test_the_maps_are_softmax_of_q_k(recorded, tiny):
    models, _ = tiny
    name, calls = next(iter(recorded[2].items()))
    layer, seen = models.unet.get_submodule(name), {}

    def note(_, arguments, named):
        seen.update(x=arguments[0], text=named["encoder_hidden_states"])

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        z = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
        models.unet(z, 500, models.encode_text(["a golden duck", PROMPT]))
        handle.remove()
        q, k = (
            f(s).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for f, s in zip((layer.to_q, layer.to_k), seen.values(), strict=True)
        )
    torch.testing.assert_close((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1), calls[0])


def test_processors_come_back_after_an_error(tiny):
    before = tiny[0].unet.attn_processors
    with pytest.raises(ZeroDivisionError), record_attention(tiny[0].unet):
        1 / 0  # noqa: B018
    assert tiny[0].unet.attn_processors == before


def test_a_word_finds_its_tokens(tokenizer):
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(PROMPT).input_ids)
    places = [word_tokens(tokenizer, PROMPT, "orange", mention=k) for k in (1, 2, 3)]
    assert places == [[i] for i, p in enumerate(pieces) if p == "orange</w>"]
    assert places[0] == word_tokens(tokenizer, PROMPT, "ORANGE")
    long = word_tokens(tokenizer, "a Xylophonist", "xylophonist")
    assert len(long) > 1, "an unknown word is spelled by several tokens"
    assert "".join(tokenizer.convert_ids_to_tokens(tokenizer("a xylophonist").input_ids[i] for i in long)) == "xylophonist</w>"


def test_words_with_a_hyphen_or_an_accent(tokenizer):
    prompt = "İ: a zebra-striped mug"  # lower case of the first letter has two characters
    spelled = [tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids[i] for i in word_tokens(tokenizer, prompt, w))
               for w in ("zebra-striped", "mug")]  # fmt: skip
    assert ["".join(s).replace("</w>", "") for s in spelled] == ["zebra-striped", "mug"]


@pytest.mark.parametrize("word, mention, says", [("mu", 1, "choose a word"), (" ", 1, "choose a word"), ("mug", 2, "2 times"),
                                                 ("mug", 0, "0 times"), ("(", 1, "choose a word")])  # fmt: skip
def test_a_word_that_is_not_there(tokenizer, word, mention, says):
    with pytest.raises(UserError, match=says):
        word_tokens(tokenizer, PROMPT, word, mention)


def test_a_word_that_the_model_never_reads(tokenizer):
    with pytest.raises(UserError, match="77 tokens"):
        word_tokens(tokenizer, "a " * 90 + "duck", "duck")


def test_what_a_word_gets():
    attention = torch.full((1, 2, 64, 5), 0.01)
    attention[0, 0, 9, 2] = 1.0  # head 0: row 1, column 1; token 2
    attention[0, 1, 9, 2] = 0.09
    assert word_attention(attention, [[2]]).shape == (1, 2, 8, 8)
    torch.testing.assert_close(word_attention(attention, [[2, 3]])[0, :, 1, 1], torch.tensor([0.505, 0.05]))
    mean = enlarge(word_attention(attention, [[2]]).mean(1))
    logs = enlarge(word_attention(attention, [[2]]).log().mean(1))
    for maps in (mean, logs):
        assert maps.shape == (1, 64, 64) and maps.min() == 0 and maps.max() == 1
        assert maps[0].argmax().item() in (64 * y + x for y in range(8, 16) for x in range(8, 16))
    assert enlarge(word_attention(attention, [[1]]).mean(1)).max() < 0.05, "a map without a peak is not rounding blown up"
    # in the logarithm a head that is 10 times fainter everywhere weighs as much
    fainter = attention.clone()
    fainter[:, 1] /= 10
    torch.testing.assert_close(enlarge(word_attention(fainter, [[2]]).log().mean(1)), logs)
    assert (enlarge(word_attention(fainter, [[2]]).mean(1)) - mean).abs().max() > 0


def test_enlarge_keeps_the_order():
    ramp = torch.arange(64.0).view(1, 8, 8)
    big = enlarge(ramp, 32)
    assert big.shape == (1, 32, 32) and (big[0].diff(dim=0) >= 0).all() and (big[0].diff(dim=1) >= 0).all()


def test_score_finds_a_planted_map_and_no_other(tiny, monkeypatch):
    """With attention made from the exact masks in one head, the score is near the ceiling; a wrong word gets little."""
    from ldm_tutorial.measure import maps

    masks = torch.zeros(12, 64, 64, dtype=torch.bool)
    for i in range(12):
        masks[i, 8 + i : 40 + i, 4 + 2 * i : 36 + 2 * i] = True

    def renders(wanted, seed, progress=True, size=64):
        return torch.zeros(len(wanted), 64, 64, 3, dtype=torch.uint8), masks[torch.arange(len(wanted)) % 12]

    def attention(models, wanted, images, timestep, words):
        inside = torch.nn.functional.adaptive_avg_pool2d(masks[torch.arange(len(wanted)) % 12][:, None].float(), 8)[:, 0]
        wrong = torch.tensor([word == w[2] for word, w in zip(words, wanted, strict=True)]).view(-1, 1, 1)
        logs = torch.randn(len(wanted), 6, 8, 8, generator=torch.Generator().manual_seed(timestep))
        logs[:, 4] = torch.where(wrong, 1 - inside, inside) * 50
        return logs

    monkeypatch.setattr(maps, "renders", renders)
    monkeypatch.setattr(maps, "_attention", attention)
    found = maps.heat_map_scores(tiny[0], 8, progress=False)
    assert 4 in found["noun_miou"]["heads"]
    value = {k: v["value"] for k, v in found.items()}
    assert value["noun_miou_ceiling"] > 0.85 and value["noun_miou"] > 0.8 > value["noun_miou_constant"] + 0.1
    assert value["noun_miou_wrong_word"] < 0.2
    assert all(v["n"] == 8 and v["low"] <= v["value"] <= v["high"] for v in found.values())


def test_the_effect_of_a_word_is_what_a_layer_answers_without_it(tiny):
    """The first layer's input does not depend on the text: there two U-Net calls tell the same as the recording of one."""
    models, _ = tiny
    prompt, without = "a golden duck on a pink background", "a  duck on a pink background"
    z = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    answers = []

    @torch.no_grad()
    def call(text):
        states = models.encode_text(["", text])  # as with guidance: the prompt comes last
        models.unet(z.repeat(2, 1, 1, 1), 500, states)

    with record_inputs(models.unet) as inputs:
        call(prompt)
    assert {tuple(x.shape[:2]) for calls in inputs.values() for x in calls} == {(2, 64)} and len(inputs) == 4
    first = next(iter(inputs))
    hook = first.register_forward_hook(lambda layer, given, answer: answers.append(answer[-1]))
    call(prompt)
    call(without)
    hook.remove()
    change = (answers[0] - answers[1]).square().mean(1).sqrt()
    expected = enlarge(change.view(1, 8, 8))[0]
    effect = word_change(models, prompt, "golden", {first: inputs[first]})
    torch.testing.assert_close(enlarge(effect[None])[0], expected, rtol=1e-4, atol=1e-4)
    assert word_change(models, prompt, "Golden", inputs).shape == (64, 64)
    assert not first._forward_pre_hooks and not first._forward_hooks, "nothing is left behind"
    with pytest.raises(UserError, match="'teapot' does not stand"):
        word_change(models, prompt, "teapot", inputs)


def test_a_deaf_layer_shows_no_effect(tiny):
    models, _ = tiny
    layer = next(m for name, m in models.unet.named_modules() if name.endswith("attn2"))
    inputs = {layer: [torch.randn(1, 64, layer.to_q.in_features)]}
    before = layer.to_v.weight.clone()
    try:
        layer.to_v.weight.data.zero_()
        assert not word_change(models, "a golden duck", "golden", inputs).any()
    finally:
        layer.to_v.weight.data.copy_(before)
    assert word_change(models, "a golden duck", "golden", inputs).any()
