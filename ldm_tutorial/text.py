"""Text on its way into a model: what a model can read, whether a prompt is that, and a CLIP tokenizer that is trained.

Notebook 06 builds byte-pair encoding by hand. Nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from .errors import UserError
from .storage.about import CURIOS, About, scripts

UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))  # soft hyphens and the like, which come along in copied texts
LONGEST = 10_000  # characters; no model reads a fraction of that
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # how CLIP's tokenizer splits a text into words
START, END = "<|startoftext|>", "<|endoftext|>"


def check_prompt(prompt: object, tokenizer=None, about: About = CURIOS, what: str = "prompt") -> str:
    """The prompt without space around it. With a tokenizer its length is checked too (CLIP's limit is 77 tokens, the start
    and the end token included). ``about`` says what the model can read.

    Raises:
        UserError: when it is not text, empty, in no script of the model's captions, or too long for the model to read.
    """
    if not isinstance(prompt, str):
        raise UserError(f"A {what} must be text, not {type(prompt).__name__}: try {about.example!r}.")
    prompt = prompt.encode("utf-8", "ignore").decode()  # a terminal may pass bytes that are no text
    prompt = prompt.translate(UNSEEN).strip()
    if not prompt:
        raise UserError(f"The {what} is empty: describe a picture, for example {about.example!r}.")
    if about.scripts and not set(about.scripts) & set(scripts(prompt)):
        raise UserError(
            f"The {what} {prompt[:40]!r} has nothing that this model was taught to read ({' and '.join(about.scripts)}): "
            f"try {about.example!r}."
        )
    for mark in (START, END):
        if mark in prompt.lower():
            raise UserError(f"The {what} holds {mark}, a mark that the tokenizer itself puts around a text: leave it out.")
    limit = tokenizer.model_max_length if tokenizer else 77
    if len(prompt) >= LONGEST:
        size = f"{len(prompt)} characters"
    else:
        length = len(tokenizer(prompt, verbose=False).input_ids) if tokenizer else len(prompt.split()) + 2
        if length <= limit:
            return prompt
        size = f"{length} tokens"
    raise UserError(f"The {what} is too long ({size}, the model reads {limit} tokens): shorten it to a sentence.")


def train_tokenizer(captions: Iterable[str], common_words: Iterable[str] = (), vocab_size: int = 3000):
    """A ``transformers.CLIPTokenizer`` whose byte-pair merges (Sennrich et al. 2016) are learned on captions, and on common
    words so that ordinary prompts are not spelled letter by letter.

    The vocabulary is laid out as CLIP's: 256 bytes, the same bytes ending a word, the merges in order, the two special
    tokens. ``model_max_length`` is 77, padding is the end token.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(SPLIT), "removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + "</w>" for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=endings,  # named here, or a hash map would order them
        show_progress=False,
    )
    bpe.train_from_iterator([*captions, *list(common_words) * 5], trainer)

    merges = []
    for merge in json.loads(bpe.to_str())["model"]["merges"]:
        merges.append(tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge))
    vocabulary = dict.fromkeys([*alphabet, *endings])
    vocabulary.update(dict.fromkeys(left + right for left, right in merges))
    vocabulary.update(dict.fromkeys([START, END]))
    ids = {token: i for i, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=77, pad_token=END)
