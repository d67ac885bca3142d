"""The tokenizer: no text is lost, ordinary words stay whole, and the special tokens are where CLIP looks for them."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import CLIPTokenizer

from ldm_tutorial.clip import build_clip
from ldm_tutorial.curios import BACKGROUNDS, MATERIALS, OBJECTS, pairs, plain, scene_at
from ldm_tutorial.curios.vocabulary import common_words, vocabulary
from ldm_tutorial.files import WEIGHTS
from ldm_tutorial.text import train_tokenizer
from tests.run import ROOT

ARTICLE = "3D render an avocado style armchair diffusing into latent space"  # the article's own prompt


FINGERPRINT = "hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()"


@pytest.mark.parametrize("split", ["train", "validation", "held_out"])
def test_captions_come_back(tokenizer, split):
    captions = [scene_at(split, i, seed=5)[1] for i in range(300)]
    back = tokenizer.batch_decode(tokenizer(captions).input_ids, skip_special_tokens=True)
    # CLIP's rule parts "3" from "d" and punctuation from its words; nothing else may change but the case.
    assert [b.replace(" ", "") for b in back] == [c.lower().replace(" ", "") for c in captions]
    assert max(map(len, tokenizer(captions).input_ids)) <= 65  # below the limit of 77


def test_captions_fit_the_shipped_model():
    shipped = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    captions = [scene_at("all", i, seed=6)[1] for i in range(4000)]
    assert max(map(len, shipped(captions).input_ids)) <= shipped.model_max_length == 77


def test_training_is_deterministic(tokenizer):
    # Weights mean nothing under other ids. In another process, because a set or a hash map may be in another order there.
    code = (
        "import hashlib, json; from ldm_tutorial.curios import scene_at;"
        "from ldm_tutorial.curios.vocabulary import common_words; from ldm_tutorial.text import train_tokenizer;"
        f"tokenizer = train_tokenizer([scene_at('train', i)[1] for i in range(1500)], common_words()); print({FINGERPRINT})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    here = eval(FINGERPRINT, {"hashlib": hashlib, "json": json, "tokenizer": tokenizer})
    assert other.stdout.strip() == here, other.stderr


def test_merges_are_learned_from_the_captions(tokenizer):
    learned = train_tokenizer(["a quixotic zyzzyva"] * 9)
    assert learned.tokenize("zyzzyva") == ["zyzzyva</w>"] and len(tokenizer.tokenize("zyzzyva")) > 1


def test_words_of_captions_are_one_token_each(tokenizer):
    # CLIP's rule splits digits from letters: "3d" is two by design.
    phrases = [*OBJECTS, *MATERIALS, *BACKGROUNDS, *(plain(*pair, "pink") for pair in pairs("all"))]
    words = set(re.findall("[a-z]+", " ".join(phrases)))
    assert not [w for w in words if len(tokenizer.tokenize(w)) != 1]
    assert tokenizer.tokenize("3d") == ["3</w>", "d</w>"]
    names = [w for w in vocabulary(names=True) if w.isalpha()]  # their synonyms too, most of them
    assert sum(len(tokenizer.tokenize(w)) == 1 for w in names) >= 0.75 * len(names)


def test_common_words_are_hardly_split(tokenizer):
    counts = [len(tokenizer.tokenize(w)) for w in common_words()]
    assert sum(n == 1 for n in counts) >= 0.65 * len(counts)
    assert max(counts) <= 5 and sum(counts) <= 1.5 * len(counts)


def test_article_prompt_is_short(tokenizer):
    ids = tokenizer(ARTICLE).input_ids
    assert len(ids) <= 20
    assert tokenizer.decode(ids, skip_special_tokens=True) == ARTICLE.lower().replace("3d", "3 d")


def test_special_tokens(tokenizer):
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|startoftext|>", "<|endoftext|>")
    assert bos != eos and eos != 2 and tokenizer.pad_token_id == eos
    assert (bos, eos) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert tokenizer.model_max_length == 77
    assert tokenizer("").input_ids == [bos, eos]
    short, long = "a mug", "mug " * 200
    ids = tokenizer([short, long], padding="max_length", max_length=77, truncation=True).input_ids
    assert [len(row) for row in ids] == [77, 77]
    assert ids[0][0] == bos and ids[0][3:] == [eos] * 74 and eos not in ids[0][:3]
    assert ids[1][-1] == eos and ids[1].count(eos) == 1  # cut, but still ended
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))  # each id once, none missing


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.model_max_length, loaded.pad_token_id) == (77, tokenizer.eos_token_id)
    texts = [ARTICLE, "", "Ünïcödé ☃", *(scene_at("validation", i)[1] for i in range(50))]
    assert loaded(texts, padding="longest").input_ids == tokenizer(texts, padding="longest").input_ids


@pytest.mark.parametrize(
    "text, back",
    [
        ("a mug 🥑🛋️ on pink", "a mug 🥑🛋️ on pink"),
        ("Ein CAFÉ für Zoë", "ein café für zoë"),
        ("cafe\u0301", "café"),  # an accent as a character of its own
        ("東京のアボカド", "東京のアボカド"),
        ("pneumonoultramicroscopicsilicovolcanoconiosis", "pneumonoultramicroscopicsilicovolcanoconiosis"),
        ("a\tmug \n on  pink", "a mug on pink"),
        ("\x00\x7f\ufffd", "\x00\x7f\ufffd"),
    ],
)
def test_any_text_survives(tokenizer, text, back):
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == back
    assert ids.count(tokenizer.eos_token_id) == 1  # nothing became "unknown", which is the same token


def test_clip_pools_at_the_end_token(tokenizer):
    torch.manual_seed(0)
    text_model = build_clip(tokenizer, width=32, text_layers=1, vision_layers=1).eval().text_model
    config = text_model.config
    assert config.eos_token_id == tokenizer.eos_token_id and config.bos_token_id == tokenizer.bos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id and config.vocab_size == len(tokenizer)
    ids = tokenizer(["a mug", ARTICLE], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        out = text_model(input_ids=ids)
    ends = [3, len(tokenizer(ARTICLE).input_ids) - 1]
    assert torch.equal(out.pooler_output, out.last_hidden_state[[0, 1], ends])
    assert not torch.allclose(out.pooler_output[0], out.last_hidden_state[0, -1], atol=1e-3)  # not the last padding
