"""Text on its way into a model: what a model can read, whether a prompt is that, and a CLIP tokenizer that is trained.

Notebook 06 builds byte-pair encoding by hand. Nothing here needs torch.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import UserError
from .files import check_utf8, write_json

ABOUT = "course.json"
EXAMPLE = "an armchair made of avocado on a pink background"
LONGEST = 10_000  # characters; no model reads a fraction of that
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # how CLIP's tokenizer splits a text into words
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class About:
    """What a saved model says of itself in ``course.json``: what it was trained on, and how it is to be prompted.

    ``kind`` is "curios", "own pictures", or "unknown" for a checkpoint that has no such file. ``scripts`` are those of its
    captions, as :func:`scripts` names them; with none of them a prompt tells the model nothing. ``example`` is a prompt that
    it can draw, ``data`` the fingerprint of pictures and captions of one's own.
    """

    kind: str = "unknown"
    scripts: tuple[str, ...] = ()
    example: str = EXAMPLE
    resolution: int = 0
    data: str = ""

    def write(self, folder: Path) -> None:
        """Write ``course.json`` into a model's folder."""
        write_json(folder / ABOUT, asdict(self))


CURIOS = About("curios", ("Latin",), EXAMPLE, 64)


def read_about(folder: str | Path) -> About:
    """What the model in a folder says of itself; of one that says nothing, and of a hub id, the kind is "unknown".

    Raises:
        UserError: for a ``course.json`` that can't be read.
    """
    check_utf8(folder)
    path = Path(folder) / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return About(**{**found, "scripts": tuple(found["scripts"])})
    except (FileNotFoundError, NotADirectoryError):
        return About()
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{str(path)!r} can't be read: copy the model again, or train it again.") from None


def scripts(texts: Iterable[str]) -> tuple[str, ...]:
    """The scripts that texts are written in: those of letters ("Latin", "Cyrillic", "Cjk"), "digits" and "symbols"."""
    found = set()
    for letter in set("".join(texts)):
        category = unicodedata.category(letter)
        if category.startswith("L"):
            found.add(unicodedata.name(letter, "unknown").split()[0].title())
        elif category.startswith("N"):
            found.add("digits")
        elif category.startswith("S"):
            found.add("symbols")
    return tuple(sorted(found))


def check_prompt(prompt: object, tokenizer=None, about: About = CURIOS, what: str = "prompt") -> str:
    """The prompt without space around it. With a tokenizer its length is checked too (CLIP's limit is 77 tokens, the start
    and the end token included). ``about`` says what the model can read.

    Raises:
        UserError: when it is not text, empty, in no script of the model's captions, or too long for the model to read.
    """
    if not isinstance(prompt, str):
        raise UserError(f"A {what} must be text, not {type(prompt).__name__}: try {about.example!r}.")
    prompt = prompt.encode("utf-8", "ignore").decode().strip()  # a terminal may pass bytes that are no text
    if not prompt:
        raise UserError(f"The {what} is empty: describe a picture, for example {about.example!r}.")
    if about.scripts and not set(about.scripts) & set(scripts(prompt)):
        raise UserError(
            f"The {what} {prompt[:40]!r} has nothing that this model was taught to read ({' and '.join(about.scripts)}): "
            f"try {about.example!r}."
        )
    limit = tokenizer.model_max_length if tokenizer else 77
    if len(prompt) >= LONGEST:
        size = f"{len(prompt)} characters"
    else:
        length = len(tokenizer(prompt, verbose=False).input_ids) if tokenizer else len(prompt.split()) + 2
        if length <= limit:
            return prompt
        size = f"{length} tokens"
    raise UserError(f"The {what} is too long ({size}, the model reads {limit} tokens): shorten it to a sentence.")


def check_seed(seed: object) -> int:
    """A whole number from 0 to 2**63 - 1, given as a number or as text.

    Raises:
        UserError: for anything else.
    """
    text = str(seed).strip()
    if isinstance(seed, bool) or not re.fullmatch(r"\+?[0-9]{1,19}", text) or int(text) >= 2**63:
        raise UserError(f"The seed {str(seed)[:40]!r} must be a whole number from 0 upwards, for example 7.")
    return int(text)


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
