"""Curios: the same seed gives the same pixels, masks are exact, every pair is in its split, captions tell the truth."""

import csv
import errno
import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from ldm_tutorial.curios import dataset, render
from ldm_tutorial.curios.captions import caption, free, tidy
from ldm_tutorial.curios.dataset import RENDER_VERSION, Curios, cache_folder, scene_at
from ldm_tutorial.curios.render import Scene
from ldm_tutorial.curios.vocabulary import (
    BACKGROUNDS,
    MATERIALS,
    OBJECTS,
    SPLITS,
    held_out,
    pairs,
    parse,
    plain,
    synonyms,
    wordings,
)
from ldm_tutorial.errors import UserError
from ldm_tutorial.images import to_picture
from tests.run import ROOT

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]
EVERY_PAIR = len(OBJECTS) * len(MATERIALS)
ARTICLE = "3D render an avocado style armchair diffusing into latent space"  # the article's own prompt


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def world():
    """One picture of every pair, drawn by two worker processes whatever the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        patch.setattr(os, "cpu_count", lambda: 2)
        return Curios("all", EVERY_PAIR, progress=False)


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of renders."""
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """How many pictures each call of the renderer drew."""
    calls, real = [], render.render
    monkeypatch.setattr(render, "render", lambda scenes, *rest: calls.append(len(scenes)) or real(scenes, *rest))
    return calls


def draw(scenes: list[Scene], size: int = 64, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and masks in the order of the scenes."""
    found = {index: (image, mask) for index, image, mask in render.render(scenes, size, device)}
    assert sorted(found) == list(range(len(scenes)))
    images, masks = zip(*(found[i] for i in range(len(scenes))), strict=True)
    return torch.stack(images), torch.stack(masks)


# --- the same seed, the same pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_pixels_do_not_depend_on_the_batch(device):
    # 40 pictures of 6 objects: an object's pictures are traced together, in more than one chunk of 16.
    chosen = [i for i in range(EVERY_PAIR) if OBJECTS[i // len(MATERIALS)] in ("mug", "house", "flying bat")][:40]
    scenes = [scene_at("all", i)[0] for i in chosen]
    images, masks = draw(scenes, device=device)
    assert images.shape == (40, 64, 64, 3) and images.dtype == torch.uint8
    assert masks.shape == (40, 64, 64) and masks.dtype == torch.bool
    again = draw(scenes, device=device)
    assert torch.equal(again[0], images) and torch.equal(again[1], masks)
    order = random.Random(0).sample(range(40), 11)
    some = draw([scenes[i] for i in order], device=device)
    assert torch.equal(some[0], images[order]) and torch.equal(some[1], masks[order])
    for i in order[:6]:
        alone = draw([scenes[i]], device=device)
        assert torch.equal(alone[0][0], images[i]) and torch.equal(alone[1][0], masks[i])


def test_worker_processes_draw_the_same(world):
    chosen = random.Random(1).sample(range(EVERY_PAIR), 12) + [dataset.BLOCK - 1, dataset.BLOCK, EVERY_PAIR - 1]
    images, masks = draw([scene_at("all", i)[0] for i in chosen])
    assert torch.equal(images, world.images[chosen]) and torch.equal(masks, world.masks[chosen])


@pytest.mark.skipif("cuda" not in DEVICES, reason="compares a GPU with the CPU")
def test_a_gpu_draws_nearly_the_same():
    scenes = [scene_at("all", i)[0] for i in range(0, EVERY_PAIR, 12)]
    images, masks = draw(scenes)
    other_images, other_masks = draw(scenes, device="cuda")
    assert (other_images.float() - images.float()).abs().mean() < 0.5
    assert (other_masks != masks).float().mean() < 2e-3


def test_a_sample_does_not_depend_on_the_count(world):
    few = Curios("all", 5, progress=False)
    assert len(few) == 5 and torch.equal(few.images, world.images[:5]) and few.captions == world.captions[:5]


def test_other_seed_other_picture(world):
    other = Curios("all", 5, seed=1, progress=False)
    assert torch.equal(other.objects, world.objects[:5]) and torch.equal(other.materials, world.materials[:5])
    assert not any(torch.equal(a, b) for a, b in zip(other.masks, world.masks[:5], strict=True))
    assert other.captions != world.captions[:5]


def test_no_two_pictures_are_equal(world):
    assert len({image.numpy().tobytes() for image in world.images}) == EVERY_PAIR


# --- stored pixels --------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / f"golden_renders_v{RENDER_VERSION}.png"
GOLDEN_SCENES = {1: "9bd134caefe56f900d5ac4fb3c03dedf506c634a5a9b6ce855ec85d11a9d8b77"}
ADVICE = "pixels have changed: raise RENDER_VERSION and store the new ones with `python -m tests.test_curios`"


def golden_pictures() -> torch.Tensor:
    """One picture of each object, with every material and background among them: uint8 [18, 64, 64, 3]."""
    scenes = []
    for k in range(len(OBJECTS)):
        scene, _ = scene_at("all", len(MATERIALS) * k + k % len(MATERIALS))
        scenes.append(replace(scene, background=BACKGROUNDS[k % len(BACKGROUNDS)]))
    return draw(scenes)[0]


def golden_scenes() -> str:
    """The SHA-256 of which scenes the splits hold, by number."""
    digest = hashlib.sha256()
    for split in ("train", "validation", "held_out", "all"):
        for seed in (0, 3):
            for i in range(300):
                digest.update(repr(scene_at(split, i, seed)[0]).encode())
    return digest.hexdigest()


def changed(pictures: torch.Tensor) -> int:
    """How many of the 221,184 stored values differ by more than 2 of 255: what another processor rounds differs by less,
    but for a ray or two at an edge."""
    assert GOLDEN.exists(), ADVICE
    stored = torch.frombuffer(bytearray(Image.open(GOLDEN).tobytes()), dtype=torch.uint8).view(pictures.shape)
    return int(((pictures.int() - stored.int()).abs() > 2).sum())


def test_pixels_are_those_of_their_version(monkeypatch):
    assert changed(golden_pictures()) <= 20, ADVICE
    monkeypatch.setitem(render.PART_COLORS, "window", (0.45, 0.66, 0.80))  # a twentieth less blue in two small windows
    assert changed(golden_pictures()) > 100, "the test would not notice a change"


def test_scenes_are_those_of_their_version():
    assert golden_scenes() == GOLDEN_SCENES[RENDER_VERSION], ADVICE


# --- masks ----------------------------------------------------------------------------------------------------------


def coverage(scene: Scene, size: int = 64) -> torch.Tensor:
    """How many of each pixel's 2 x 2 rays hit the object, by slow and simple marching: int [size, size]."""
    shape = render.OBJECTS[scene.object]
    rays, big = render._aim([scene], shape, torch.device("cpu")), 2 * size
    who = torch.zeros(big * big, dtype=torch.long)
    d, o = rays.cast(big, who, torch.arange(big * big)), rays.eye[:, who]
    t, end = render._slab(shape, o, d, 0.02)
    ray = (t < end).nonzero()[:, 0]
    o, d, t, end = o[:, ray], d[:, ray], t[ray], end[ray]
    hit = torch.zeros(big * big, dtype=torch.int)
    for _ in range(200):
        gap = render._distance(shape, o + d * t)
        hit[ray[gap < 0.001]] = 1
        keep = (gap >= 0.001) & (t < end)
        ray, t, end, o, d = ray[keep], (t + 0.6 * gap)[keep], end[keep], o[:, keep], d[:, keep]
    return hit.view(size, 2, size, 2).sum((1, 3))


def test_masks_agree_with_slow_and_simple_rays(world):
    agreement = []
    for i in range(0, EVERY_PAIR, len(MATERIALS) + 1):  # each object once
        expected = coverage(scene_at("all", i)[0]) >= 2  # at least half of the pixel
        agreement.append(((world.masks[i] & expected).sum() / (world.masks[i] | expected).sum()).item())
        assert agreement[-1] > 0.95, world.captions[i]  # one pixel to the side would be 0.90
    assert len(agreement) >= 17 and sum(agreement) / len(agreement) > 0.98


def test_mask_and_picture_agree(monkeypatch):
    """Whatever the background's colour does not change is the object, and nothing else is."""
    monkeypatch.setattr(render, "BACKGROUNDS", {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)})
    scenes = [scene_at("all", i)[0] for i in range(3, EVERY_PAIR, len(MATERIALS) + 1)]
    black, white = ([replace(s, background=b, tone=0.0) for s in scenes] for b in ("black", "white"))
    (dark, mask), (light, same) = draw(black), draw(white)
    assert torch.equal(mask, same)  # a colour moves no edge
    change = (light.float() - dark.float()).amin(-1) / 255  # [B, 64, 64]
    wide = torch.nn.functional.max_pool2d(mask[:, None].float(), 3, 1, 1)[:, 0].bool()
    core = ~torch.nn.functional.max_pool2d((~mask)[:, None].float(), 3, 1, 1)[:, 0].bool()
    assert change[~wide].min() > 0.3  # the floor, even in the deepest shadow
    assert (change[core] > 0.15).float().mean() < 0.005  # the floor's colour shines up a little; narrow gaps show it
    assert change[mask].mean() < 0.1 < 0.6 < change[~mask].mean()


def test_objects_never_touch_the_border():
    for name in OBJECTS:
        pitch = render.OBJECTS[name].pitch
        corners = itertools.product((-35, 35), pitch, (-1, 1))
        views = [Scene(name, "gold", "grey", y, p, 0.96, (s, s)) for y, p, s in corners]
        views.append(Scene(name, "gold", "grey", 0, pitch[0], 0.96))
        _, masks = draw(views)
        rim = masks[:, 0].any() | masks[:, -1].any() | masks[:, :, 0].any() | masks[:, :, -1].any()
        assert not rim, name
        assert (masks.any(1).sum(1).maximum(masks.any(2).sum(1)) >= 40).all(), name  # and they fill the frame


def test_masks_are_of_a_sensible_size(world):
    share = world.masks.float().mean((1, 2))
    assert share.min() > 0.1 and share.max() < 0.6


# --- what is in a picture -------------------------------------------------------------------------------------------


def test_background_colour_is_the_named_one(world):
    colors = torch.tensor([render.BACKGROUNDS[name] for name in BACKGROUNDS])
    images = world.images.float() / 255
    for corner in (images[:, :3, :3], images[:, :3, -3:]):
        assert torch.equal(torch.cdist(corner.mean((1, 2)), colors).argmin(1), world.backgrounds)
    assert set(world.backgrounds.tolist()) == set(range(len(BACKGROUNDS)))


def test_every_material_looks_its_own_way(world):
    """Crude statistics of the object's pixels alone (mean, spread, roughness of each colour) tell most materials."""
    features = []
    for image, mask in zip(world.images.float() / 255, world.masks, strict=True):
        inner = mask[1:, 1:] & mask[:-1, 1:] & mask[1:, :-1]
        rough = [(image[1:, 1:] - other).abs()[inner].mean(0) for other in (image[:-1, 1:], image[1:, :-1])]
        pixels = image[mask]
        features.append(torch.cat([pixels.mean(0), pixels.std(0), pixels.quantile(0.1, 0), pixels.quantile(0.9, 0), *rough]))
    features = torch.stack(features)
    features = (features - features.mean(0)) / features.std(0)
    one_hot = torch.nn.functional.one_hot(world.materials).float()
    sums, counts = one_hot.T @ features, one_hot.sum(0)
    right = 0
    for row, material in zip(features, world.materials, strict=True):  # each against the mean of all the others
        rest, n = sums.clone(), counts.clone()
        rest[material] -= row
        n[material] -= 1
        right += ((rest / n[:, None] - row).norm(dim=1).argmin() == material).item()
    assert right >= 0.75 * EVERY_PAIR  # chance: 1 in 16
    centres = sums / counts[:, None]
    assert (torch.cdist(centres, centres) + 9 * torch.eye(len(MATERIALS))).min() > 1  # gold and cheese too


def test_an_avocado_has_flesh_and_a_stone():
    (image,), (mask,) = draw([Scene("armchair", "avocado", "blue", yaw=0)])
    pixels = image[mask].float()
    skin, flesh, stone = torch.tensor([[40, 60, 24], [205, 215, 120], [125, 72, 35]]).float()
    near = torch.cdist(pixels, torch.stack([skin, flesh, stone])).argmin(1).bincount(minlength=3) / len(pixels)
    assert near[1] > 0.3 and near[2] > 0.03 and near[0] > 0.05


def test_views_differ():
    scenes = [scene_at("train", i)[0] for i in range(2000)]
    yaws = torch.tensor([s.yaw for s in scenes])
    assert -35 <= yaws.min() < -33 and 33 < yaws.max() <= 35
    for name in OBJECTS:
        low, high = render.OBJECTS[name].pitch
        assert all(low <= s.pitch <= high for s in scenes if s.object == name)
    sides = Counter(s.light[0] > 0 for s in scenes)
    assert min(sides.values()) > 800
    assert min(Counter(s.background for s in scenes).values()) > 180


def test_the_renderer_knows_what_captions_name():
    assert tuple(render.OBJECTS) == OBJECTS and list(render.MATERIALS) == list(MATERIALS)
    assert tuple(render.BACKGROUNDS) == BACKGROUNDS
    assert len(OBJECTS) >= 18 and len(MATERIALS) >= 16 and len(BACKGROUNDS) == 8


# --- splits ---------------------------------------------------------------------------------------------------------


def test_held_out_pairs():
    kept = pairs("held_out")
    assert ("armchair", "avocado") in kept
    assert 0.13 <= len(kept) / EVERY_PAIR <= 0.17
    assert len(set(kept)) == len(kept) and all(held_out(*pair) for pair in kept)
    trained = pairs("train")
    assert pairs("validation") == trained and not set(trained) & set(kept)
    assert set(trained) | set(kept) == set(pairs("all")) == set(itertools.product(OBJECTS, MATERIALS))
    for position, names in enumerate((OBJECTS, MATERIALS)):
        counts = Counter(pair[position] for pair in trained)
        assert all(counts[name] >= 10 for name in names)
        assert {pair[position] for pair in kept} == set(names)  # and each is tested


@pytest.mark.parametrize("split", SPLITS)
def test_every_sample_is_in_its_split(split):
    seen = Counter()
    for seed in (0, 3):
        for i in range(1000):
            scene, _ = scene_at(split, i, seed)
            seen[scene.object, scene.material] += 1
            if split != "all":
                assert held_out(scene.object, scene.material) == split.startswith("held_out")
    assert set(seen) == set(pairs(split))
    assert max(seen.values()) - min(seen.values()) <= 2  # every pair as often as the next


def test_validation_shows_other_views():
    views = {s: {replace(scene_at(s, i)[0], background="grey") for i in range(1000)} for s in ("train", "validation")}
    assert len(views["train"]) == 1000 and not views["train"] & views["validation"]
    first = [scene_at(s, 0)[0] for s in ("train", "validation")]
    assert first[0].object == first[1].object and abs(first[0].yaw - first[1].yaw) > 0.01


def test_held_out_pairs_are_divided_for_good():
    dev, test = pairs("held_out_dev"), pairs("held_out_test")
    assert len(dev) == 20 and len(test) == 21 and ("armchair", "avocado") in test
    assert sorted(dev + test) == sorted(pairs("held_out"))

    def digest(pair: tuple[str, str]) -> str:
        return hashlib.sha256(f"{pair[0]}|{pair[1]}".encode()).hexdigest()

    others = [digest(pair) for pair in test if pair != ("armchair", "avocado")]
    assert max(map(digest, dev)) < min(others)
    pairs("held_out_dev").clear()  # what a caller does to its list changes nothing
    assert pairs("held_out_dev") == dev


@pytest.mark.parametrize("split", ["test", "", "Train", None])
def test_unknown_split(split):
    with pytest.raises(UserError, match="There is no split .*train, validation, held_out, held_out_dev, held_out_test, all"):
        Curios(split, 1)


@pytest.mark.parametrize("count", [0, -3])
def test_no_pictures(count):
    with pytest.raises(UserError, match=f"at least 1 picture, not {count}"):
        Curios("train", count)


# --- captions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_captions_parse_back(split):
    named = 0
    for i in range(1000):
        scene, text = scene_at(split, i, seed=2)
        object, material, background = parse(text)
        assert (object, material) == (scene.object, scene.material), text
        assert background in (None, scene.background), text
        named += background is not None
    assert 0.6 < named / 1000 < 0.75


def test_plain_captions_parse_back():
    for object, material in pairs("all"):
        assert parse(plain(object, material)) == (object, material, None)
        for background in BACKGROUNDS:
            assert parse(plain(object, material, background)) == (object, material, background)
    assert plain("armchair", "avocado", "pink") == "an armchair made of avocado on a pink background"


@pytest.mark.parametrize(
    "text, named",
    [
        (ARTICLE, ("armchair", "avocado", None)),
        (ARTICLE.upper() + "!", ("armchair", "avocado", None)),
        ("a bat made of gold with wings on blue", ("flying bat", "gold", "blue")),
        ("a golden bat that flies at night", ("flying bat", "gold", None)),
        ("a waffle bat to hit a ball", ("baseball bat", "waffle", None)),
        ("a flying bat made of orange on an orange background", ("flying bat", "orange", "orange")),
        ("an orange fruit mug", ("mug", "orange", None)),
        ("a juicy orange mug on orange", ("mug", "orange", "orange")),
        ("a mug made of orange with a white background", ("mug", "orange", "white")),
        ("a golden mug on an orange background", ("mug", "gold", "orange")),
        ("a candy cane house", ("house", "candy cane", None)),
        ("a teddy bear made of yellow cheese on green", ("teddy bear", "cheese", "green")),
        ("a top hat in the style of a watermelon", ("top hat", "watermelon", None)),
        ("a zebra-striped mug in front of a grey background", ("mug", "zebra", "grey")),
        ("Could you please draw a sofa out of timber for me, in front of a gray wall?", ("armchair", "wood", "grey")),
        ("checkered easy chair, violet backdrop", ("armchair", "checkerboard", "purple")),
        ("hundreds and thousands + kettle", ("teapot", "sprinkles", None)),
        ("orange, mug, orange background", ("mug", "orange", "orange")),
        ("mug, cheese, orange", ("mug", "cheese", "orange")),
        ("the backdrop should be pale green and the spaceship looks like starry space", ("rocket", "galaxy", "green")),
        ("bat from cave, gold", ("flying bat", "gold", None)),
        ("mug on blue made of molten rock", ("mug", "lava", "blue")),
        ("a car with wings made of wood", ("car", "wood", None)),  # wings tell what a bat is, nothing else
        ("something else entirely", (None, None, None)),
        ("a bat", (None, None, None)),  # which one?
        ("a carpet and a mugger in a wooden bedroom", (None, "wood", None)),  # parts of words do not count
        ("", (None, None, None)),
    ],
)
def test_parse(text, named):
    assert parse(text) == named


@pytest.mark.parametrize(
    "object, material, phrase",
    [
        ("mug", "zebra", "a zebra-striped mug"),
        ("table", "checkerboard", "a chequered table"),
        ("duck", "gold", "a golden duck"),
        ("mug", "watermelon", "a mug made of watermelon"),
        ("armchair", "avocado", "an avocado armchair"),
        ("armchair", "avocado", "3D render of an avocado style armchair"),
        ("armchair", "avocado", "3D render an avocado style armchair"),
        ("armchair", "avocado", "an armchair made of avocado on a pink background"),
        ("mug", "gold", "a golden mug"),
        ("mug", "orange", "an orange fruit mug on orange"),
        ("flying bat", "gold", "a flying bat made of gold"),
        ("baseball bat", "gold", "a baseball bat made of gold"),
        ("flying bat", "gold", "a bat made of gold with wings"),
        ("flying bat", "gold", "a golden bat that flies at night"),
        ("baseball bat", "gold", "a bat made of gold to hit a ball"),
        ("umbrella", "wood", "a photo of a wooden umbrella"),
    ],
)
def test_phrases_can_be_said(object, material, phrase):
    rng = random.Random(0)
    said = {tidy(object, material, rng.choice(("pink", "orange")), rng) for _ in range(8000)}
    assert phrase in said


def every_scene(wording, n: int, seed: int = 0) -> list[str]:
    """n captions, each pair of object and material about equally often."""
    rng, every = random.Random(seed), pairs("all")
    return [wording(*every[i % len(every)], rng.choice(BACKGROUNDS), rng) for i in range(n)]


def test_captions_are_many_and_their_grammar_is_right():
    assert len({scene_at("train", i)[1] for i in range(3000)}) > 2500
    for text in every_scene(tidy, 3000):
        assert not re.search(r"\ba (?!uni|use|euro|one)[aeiou]|\ban (?![aeiou])|\s{2}|^\s|\s$", text, re.IGNORECASE), text
    texts = [caption(*pair, "pink", random.Random(i)).lower() for pair in pairs("all") for i in range(15)]
    ambiguous = [t for t in texts if re.search(r"\bbats?\b", t) and not re.search(r"(flying|baseball) bat", t)]
    assert len(ambiguous) > 60  # the bare word, told by its context


def test_free_wording_is_of_many_kinds():
    texts = every_scene(free, 6000)
    assert len(set(texts)) > 5900
    for text in texts:
        assert not re.search(r"\s{2}|^\s|\s$|[{}]", text), text
    kinds = {
        "a question": r"\?$",
        "politeness": r"\b(?:please|pls|would|woud|could|coud|thank)\b",
        "a comma list": r"^[\w' -]+, [\w' -]+,",
        "shouting": r"^[^a-z]+$",
        "a capital": r"^[A-Z][^A-Z]",
        "a forgotten article": r"^(?!.*\b(?:an?|the)\b).*\b(?:made|draw|looks)\b",
        "the background first": r"(?i)^\W?(?:on|in|with|against|\w+)\b.{0,25}background.{12}",
        "a typing slip": r"\b(?:wiht|teh|adn|taht)\b",
        "a list of attributes": r"(?i)\b(?:material|texture|background): ",
    }
    for kind, pattern in kinds.items():
        assert sum(bool(re.search(pattern, t)) for t in texts) > 40, kind
    plain_noun = sum(any(name in t.lower() for name in OBJECTS) for t in texts)
    assert 0.4 < plain_noun / 6000 < 0.9  # the others say it by a synonym


def test_bare_words_stand_in_either_order():
    rng = random.Random(0)
    said = {free("mug", "lava", "blue", rng).lower() for _ in range(8000)}
    assert {"mug lava", "lava mug", "mug, lava", "lava, mug"} <= said


@pytest.mark.parametrize("section, names", [("nouns", OBJECTS), ("stuffs", MATERIALS), ("colours", BACKGROUNDS)])
def test_every_synonym_is_one_of_its_own_kind_only(section, names):
    table = synonyms(section)
    assert set(table) <= set(names) and (section == "colours" or set(table) == set(names))
    words = [word for name, others in table.items() for word in (*others, *([] if name in others else [name]))]
    assert len(set(words)) == len(words)
    sentences = {"nouns": "a {} made of gold", "stuffs": "a mug made of {}", "colours": "a golden mug on a {} wall"}
    sentence = sentences[section]
    for name, others in table.items():
        for word in others:
            assert name in parse(sentence.format(word)), word


def test_wordings_hold_both_names():
    for section in ("things", "clauses", "lists", "between"):
        assert len(wordings(section)) >= 15
        for line in wordings(section):
            assert re.search(r"\{(a )?o\}", line) and re.search(r"\{(a )?[mj]\}", line), line
    assert all(re.search(r"\{(a )?c\}", line) for section in ("behind", "listed") for line in wordings(section))
    assert all("{t}" in line for line in wordings("frames"))


# --- the cache ------------------------------------------------------------------------------------------------------


def test_the_second_time_is_read(cache, drawn):
    first = Curios("train", 6, progress=False)
    assert drawn == [6]
    second = Curios("train", 6, progress=False)
    assert drawn == [6]
    assert torch.equal(first.images, second.images) and torch.equal(first.masks, second.masks)
    assert not list(cache.rglob("*.part")) and len(list(cache.rglob("*.safetensors"))) == 1


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_other_tensors(path: Path) -> None:
    safetensors.torch.save_file({"other": torch.zeros(1)}, path)


@pytest.mark.parametrize("spoil", [spoil_cut, spoil_one_bit, spoil_empty, spoil_other_tensors])
def test_a_damaged_file_is_drawn_again(cache, drawn, spoil):
    first = Curios("held_out", 3, progress=False)
    (path,) = cache.rglob("*.safetensors")
    whole = path.read_bytes()
    spoil(path)
    assert path.read_bytes() != whole
    again = Curios("held_out", 3, progress=False)
    assert drawn == [3, 3] and torch.equal(again.images, first.images) and torch.equal(again.masks, first.masks)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSPC, errno.ENOENT, errno.ENOSYS])
def test_where_there_are_no_semaphores(cache, drawn, monkeypatch, number):
    """In some containers and sandboxes: this process renders, one picture after the other."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # else one process is enough, where the tests run with one thread
    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", refuse)
    monkeypatch.setattr(dataset, "BLOCK", 2)
    assert len(Curios("train", 4, progress=False)) == 4 and drawn == [2, 2]


def test_what_is_half_written_is_never_read(cache, drawn, monkeypatch):
    real = dataset.save_file

    def die(tensors, path, metadata=None):
        real(tensors, path, metadata)
        spoil_cut(Path(path))
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "save_file", die)
    with pytest.raises(KeyboardInterrupt):
        Curios("train", 2, progress=False)
    assert not list(cache.rglob("*.safetensors"))
    monkeypatch.setattr(dataset, "save_file", real)
    assert len(Curios("train", 2, progress=False)) == 2 and drawn == [2, 2]


def test_a_stale_version_is_not_read(cache, drawn, monkeypatch):
    Curios("train", 2, progress=False)
    monkeypatch.setattr(dataset, "RENDER_VERSION", RENDER_VERSION + 1)
    Curios("train", 2, progress=False)
    assert drawn == [2, 2]


def refuse(*_, **options):
    raise PermissionError(13, "Permission denied")


def test_a_complete_cache_may_be_read_only(cache, drawn, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", 3)
    first = Curios("train", 3, progress=False)
    for written in ("filelock.FileLock.__init__", "os.replace", "pathlib.Path.mkdir"):
        monkeypatch.setattr(written, refuse)
    assert torch.equal(Curios("train", 3, progress=False).images, first.images) and drawn == [3]
    fewer = Curios("train", 2, progress=False)  # a part of a block
    assert torch.equal(fewer.images, first.images[:2]) and torch.equal(fewer.masks, first.masks[:2]) and drawn == [3]
    with pytest.raises(UserError, match="Can't write to .* LDM_TUTORIAL_CACHE") as error:
        Curios("train", 4, progress=False)
    assert "\n" not in str(error.value)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LDM_TUTORIAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="LDM_TUTORIAL_CACHE"):
        Curios("train", 1, progress=False)


def test_a_full_disk(cache, monkeypatch):
    def full(*_):
        raise safetensors.SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(dataset, "save_file", full)
    with pytest.raises(UserError, match="No space left .* LDM_TUTORIAL_CACHE"):
        Curios("train", 1, progress=False)
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_no_home(monkeypatch):
    monkeypatch.delenv("LDM_TUTORIAL_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "ldm_tutorial"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().is_relative_to(tempfile.gettempdir())


def test_split_seed_size_and_count_are_kept_apart(cache, drawn):
    Curios("train", 2, progress=False)
    Curios("validation", 2, progress=False)
    Curios("train", 2, seed=1, progress=False)
    Curios("train", 3, progress=False)
    small = Curios("train", 2, size=32, progress=False)
    assert drawn == [2, 2, 2, 3, 2] and small.images.shape == (2, 32, 32, 3) and small.masks.shape == (2, 32, 32)


def test_two_processes_at_once(cache):
    code = (
        "import torch; torch.set_num_threads(1); from ldm_tutorial.curios import Curios, render; real = render.render;"
        "calls = []; render.render = lambda *a: calls.append(1) or real(*a);"
        "data = Curios('validation', 60, progress=False); import hashlib;"
        "print(len(calls), hashlib.sha256(data.images.numpy().tobytes()).hexdigest())"
    )
    code = "import torch; torch.cuda.is_available = lambda: False;" + code
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert all(out for out, _ in answers), answers
    (calls_a, sum_a), (calls_b, sum_b) = (out.split() for out, _ in answers)
    assert sum_a == sum_b
    assert int(calls_a) + int(calls_b) == 1  # one drew, the other waited and read
    assert not list(cache.rglob("*.part")) and len(list(cache.rglob("*.safetensors"))) == 1


# --- for others -----------------------------------------------------------------------------------------------------


def test_items(world):
    item = world[37]
    assert item["image"].shape == (3, 64, 64) and item["image"].dtype == torch.float32
    assert torch.equal(to_picture(item["image"][None])[0], world.images[37])
    assert torch.equal(item["mask"], world.masks[37])
    scene, text = scene_at("all", 37)
    assert (item["object"], item["material"], item["background"]) == (scene.object, scene.material, scene.background)
    assert item["caption"] == text == world.captions[37]
    assert world.objects[37] == OBJECTS.index(scene.object)
    assert world[-1]["caption"] == world.captions[-1]
    with pytest.raises(IndexError):
        world[len(world)]


def test_items_make_batches(world):
    batch = next(iter(torch.utils.data.DataLoader(world, batch_size=8, shuffle=False)))
    assert batch["image"].shape == (8, 3, 64, 64) and batch["caption"] == world.captions[:8]


def test_export_is_an_image_folder(tmp_path):
    data = Curios("validation", 7, progress=False)
    folder = data.export(tmp_path / "new" / "folder")
    with open(folder / "validation" / "metadata.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [r["text"] for r in rows] == data.captions
    assert [Image.open(folder / "validation" / r["file_name"]).size for r in rows] == [(64, 64)] * 7

    from datasets import load_dataset

    loaded = load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["validation"]
    table = loaded["validation"]
    assert set(table.column_names) == {"image", "text", "object", "material", "background"} and len(table) == 7
    for i, row in enumerate(table):
        picture = torch.frombuffer(bytearray(row["image"].convert("RGB").tobytes()), dtype=torch.uint8).view(64, 64, 3)
        assert torch.equal(picture, data.images[i])
        assert (row["text"], row["object"]) == (data.captions[i], data[i]["object"])
        assert (row["material"], row["background"]) == (data[i]["material"], data[i]["background"])


def test_words_need_no_torch():
    code = (
        "import sys; from ldm_tutorial.curios import pairs, parse, plain; import ldm_tutorial.curios.vocabulary as v;"
        "v.note_unknown_words('a red sofa'); print('torch' in sys.modules); import ldm_tutorial.curios as c;"
        "c.scene_at; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


if __name__ == "__main__":
    Image.fromarray(golden_pictures().view(-1, 64, 3).numpy()).save(GOLDEN, optimize=True)
    print(f"wrote {GOLDEN}; {RENDER_VERSION}: {golden_scenes()}")
