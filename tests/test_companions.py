"""Companions: made, stopped, resumed, saved and loaded at a tiny scale; then the shipped ones, as they are."""

import dataclasses
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ldm_tutorial import cli, companions
from ldm_tutorial.companions import (
    COMPANIONS,
    FOLDER,
    SHIPPED,
    Companions,
    build,
    curve,
    load_companion,
    pair_order,
    pair_scenes,
    scheduler_of,
)
from ldm_tutorial.curios import MATERIALS, OBJECTS, pairs, to_picture
from ldm_tutorial.errors import UserError
from ldm_tutorial.training import Recipe
from tests.run import ROOT


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ": " in text, text
    return text


def shrink(patch) -> None:
    """Two steps of two pictures, from 64 renders and latents of four."""
    patch.setattr(companions, "RENDERS", 64)
    patch.setattr(companions, "LATENTS", 4)
    patch.setattr(companions, "PAIR_PICTURES", 4)
    recipe = Recipe(2, 2, 1e-3, warmup=1)
    patch.setattr(companions, "COMPANIONS", {name: dataclasses.replace(c, recipe=recipe) for name, c in COMPANIONS.items()})


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    shrink(monkeypatch)
    return Companions(tmp_path / "run", tmp_path / "out")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Some of each kind, trained for two steps; tests that damage the folder make a copy."""
    folder = tmp_path_factory.mktemp("companions")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        work = Companions(folder / "run", folder / "out")
        for name in ("vae-diverse", "vae-f8", "gan", "latent", "pairs-10", "unet-noskips", "clip-labels", "clip-captions"):
            work.train(name, progress=False)
    return folder / "out"


def batch_of(work: Companions, name: str, size: int = 64) -> dict:
    """What a companion learns from in one step."""
    return COMPANIONS[name].data(work, size)(torch.Generator().manual_seed(0))


def test_compared_ones_are_equal_but_for_one_thing():
    sizes = {name: count(build(name)) for name in COMPANIONS}
    assert max(sizes.values()) < 1_000_000
    assert 2 * sum(sizes[name] for name in SHIPPED) < 10e6, "two bytes a number, 10 MB in all"
    assert abs(sizes["pixel"] / sizes["latent"] - 1) < 0.1, "compared at about equal size"
    for one, other in (("unet-skips", "unet-noskips"), ("vae-diverse", "vae-narrow"), ("vae-nokl", "vae-strongkl"),
                       ("vae-kl", "vae-nokl"), ("clip-labels", "clip-captions"), ("pairs-10", "pairs-100")):  # fmt: skip
        assert sizes[one] == sizes[other]
        assert COMPANIONS[one].recipe == COMPANIONS[other].recipe
    assert COMPANIONS["vae-f2"].recipe == COMPANIONS["vae-f8"].recipe == COMPANIONS["vae-diverse"].recipe
    weights = [COMPANIONS[name].loss(build(name)).kl_weight for name in ("vae-nokl", "vae-kl", "vae-strongkl")]
    assert weights == [0, COMPANIONS["vae-diverse"].loss(build("vae-diverse")).kl_weight, companions.STRONG_KL_WEIGHT]


def test_the_narrow_and_the_diverse_one_have_the_shipped_shape():
    from ldm_tutorial.models import WEIGHTS

    shipped = json.loads((WEIGHTS / "vae" / "config.json").read_text())
    for name in ("vae-diverse", "vae-narrow"):
        config = build(name).config
        for key in ("block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups", "mid_block_add_attention"):
            assert config[key] == shipped[key] or list(config[key]) == shipped[key], key


def test_shapes():
    x = torch.zeros(2, 3, 64, 64)
    for name, shape in {
        "vae-diverse": (8, 16, 16),
        "vae-f2": (8, 32, 32),
        "vae-f8": (8, 8, 8),
        "vae-prior": (32, 2, 2),
    }.items():
        z = build(name).encode(x).latent_dist.mode()
        assert z.shape[1:] == shape
        assert build(name).decode(z).sample.shape == x.shape
    pictures = build("gan")(torch.randn(2, companions.NOISE))
    assert pictures.shape == x.shape and pictures.abs().max() <= 1
    assert companions.build_discriminator()(x).flatten().shape == (2,)
    assert build("latent")(torch.zeros(2, 8, 16, 16), 5).sample.shape == (2, 8, 16, 16)
    assert build("pixel")(x, 5).sample.shape == x.shape
    labels = companions.label_ids(torch.tensor([0, 17]), torch.tensor([0, 15]), torch.tensor([0, 7]))
    assert labels.tolist() == [[0, 18, 34], [17, 33, 41]] and companions.NO_LABEL == 42
    assert build("pairs-10")(torch.zeros(2, 8, 16, 16), torch.tensor([5, 6]), labels).shape == (2, 8, 16, 16)


def test_schedulers():
    assert scheduler_of("unet-skips").config.prediction_type == "epsilon"
    assert scheduler_of("latent").config.prediction_type == scheduler_of("pixel").config.prediction_type == "v_prediction"
    assert scheduler_of("latent").config.beta_schedule == "squaredcos_cap_v2"


def test_cut_skips():
    """Nothing that the down blocks saw may reach the output except through the narrow middle."""
    torch.manual_seed(0)
    unet, x, seen = build("unet-noskips").eval(), torch.randn(1, 8, 16, 16), []
    for block in unet.up_blocks:
        block.resnets[-1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        unet(x, 5)
    for hidden in seen:  # [what came up | what was handed across]
        narrow = build("unet-noskips").config.block_out_channels[0]
        assert hidden[:, -narrow:].abs().max() == 0 < hidden[:, :narrow].abs().max()


def test_saved_in_half_and_loaded_in_full_precision(made):
    for name in ("vae-diverse", "gan", "unet-noskips", "clip-labels"):
        model = load_companion(name, "cpu", made)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        file = next((made / name).glob("*.safetensors"))
        assert {v.dtype for v in load_file(file).values() if v.is_floating_point()} == {torch.float16}
    assert load_companion("vae-diverse", "cpu", made).config.scaling_factor != 0.18215, "the default would be wrong"
    assert type(load_companion("unet-noskips", "cpu", made)).__name__ == "UNet2DModel"
    assert load_companion("unet-noskips", "cpu", made).up_blocks[0]._forward_pre_hooks, "cut again when loaded"


def test_curve(made):
    found = curve("gan", made)
    assert found["steps"] == 2 and len(found["losses"]) == 2 and found["command"] == "ldm train companions"
    assert found["parameters"] == count(build("gan")) and found["seconds"] >= 0 and len(found["source"]) == 12
    assert found["seed"] == 0


def test_a_latent_model_is_charged_for_its_autoencoder(made):
    found = curve("latent", made)
    assert found["autoencoder"] == "vae-diverse" and found["encoding_seconds"] >= 0
    assert found["autoencoder_seconds"] == curve("vae-diverse", made)["seconds"]
    shipped = curve("pairs-10", made.parent / "run" / "not_shipped")
    assert shipped["autoencoder"] == "shipped" and "autoencoder_seconds" not in shipped


def test_what_is_not_shipped_stays_in_the_run(made):
    assert not (made / "pairs-10").exists()
    model = load_companion("pairs-10", "cpu", made.parent / "run" / "not_shipped")
    assert type(model).__name__ == "LabelledUNet"


def test_curves_are_thinned(tiny, monkeypatch):
    monkeypatch.setattr(Companions, "_adversarial", lambda *_: torch.arange(500.0).tolist())
    monkeypatch.setattr(companions, "COMPANIONS", {"gan": COMPANIONS["gan"]})
    monkeypatch.setattr(companions._Clock, "__init__", lambda self, path: setattr(self, "seconds", [1.0]))
    tiny.scale = 2 / COMPANIONS["gan"].recipe.steps
    tiny.train("gan", progress=False)
    losses = curve("gan", tiny.out)["losses"]
    assert len(losses) == 167 and losses[:2] == [1.0, 4.0], "means of three"


def test_narrow_and_diverse_see_what_they_should(tiny):
    data, sets = tiny.data, {}
    for name in ("vae-narrow", "vae-diverse"):
        images = to_picture(batch_of(tiny, name)["images"])
        rows = [next(i for i, x in enumerate(data.images) if torch.equal(x, image)) for image in images]
        kinds = {list(MATERIALS)[m] for m in data.materials[rows].tolist()}
        assert kinds == {"gold"} if name == "vae-narrow" else len(kinds) > 1 and not kinds & set(companions.UNSEEN)
        sets[name] = len(set(rows))
    assert sets["vae-narrow"] == sets["vae-diverse"] == int((data.materials == list(MATERIALS).index("gold")).sum())


def test_labels_say_no_more_than_the_object(tiny):
    ids = batch_of(tiny, "clip-labels")["input_ids"]
    texts = companions._tokenizer().batch_decode(ids, skip_special_tokens=True)
    assert {len(t.split()) for t in texts} <= {2, 3} and all(t.split()[0] in ("a", "an") for t in texts)
    assert not any("flying" in t or "baseball" in t for t in texts)
    longer = companions._tokenizer().batch_decode(batch_of(tiny, "clip-captions")["input_ids"], skip_special_tokens=True)
    assert max(len(t.split()) for t in longer) > 4


def test_shares_of_the_pairs_are_nested_and_leave_no_word_unknown():
    order = pair_order()
    assert sorted(order) == sorted(pairs("train")) and order == pair_order()
    smallest: set = set()
    for share in companions.SHARES:
        numbers = pair_scenes(share)
        seen = [pairs("train")[i % len(pairs("train"))] for i in numbers]
        assert len(numbers) == len(set(numbers)) == companions.PAIR_PICTURES, "equally many pictures, none twice"
        assert len(set(seen)) == round(len(order) * share / 100) and smallest <= set(seen)
        assert max(seen.count(p) for p in set(seen)) - min(seen.count(p) for p in set(seen)) <= 1
        assert {p[0] for p in seen} == set(OBJECTS) and {p[1] for p in seen} == set(MATERIALS)
        smallest = set(seen)
    assert order != pairs("train"), "random"


def test_labels_belong_to_their_pictures(tiny, monkeypatch):
    from ldm_tutorial.evaluation import load_judge, verdicts

    monkeypatch.setattr(companions, "PAIR_PICTURES", 32)
    latents, labels = tiny.labelled_latents(10)
    assert max(pair_scenes(10)) >= len(tiny.data), "some are not in the data set, and rendered for this"
    vae, _ = tiny.autoencoder("shipped")
    with torch.no_grad():
        pictures = to_picture(vae.decode(latents / vae.config.scaling_factor).sample)
    seen = companions.label_ids(*verdicts(load_judge(device="cpu"), pictures).T)
    assert (seen == labels).all(1).float().mean() > 0.9
    assert (seen.roll(1, 0) == labels).all(1).float().mean() < 0.2, "control: the neighbour's labels"
    again, _ = tiny.labelled_latents(10)
    assert torch.equal(latents, again), "read from the run's folder"


def test_some_labels_are_dropped(tiny):
    labels = batch_of(tiny, "pairs-10", 256)["labels"]
    silent = (labels == companions.NO_LABEL).all(1)
    assert 0.03 < silent.float().mean() < 0.2
    assert (labels[~silent] < companions.NO_LABEL).all()


def test_another_seed_begins_elsewhere(tiny, tmp_path):
    other = Companions(tmp_path / "run-1", tmp_path / "out-1", seed=1)
    for work in (tiny, other):
        work.train("vae-f2", progress=False)
    one, two = (load_file(w.out / "vae-f2" / "diffusion_pytorch_model.safetensors") for w in (tiny, other))
    assert any(not torch.equal(one[k], two[k]) for k in one)
    assert curve("vae-f2", other.out)["seed"] == 1


def test_an_adversarial_training_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(companions, "SAVE_EVERY", 2)
    recipe = Recipe(4, 2, 1e-3, ema=0.9)

    def teach(folder: str, recipe: Recipe, on_step=lambda step, loss: None) -> dict:
        torch.manual_seed(0)
        model = build("gan")
        work = Companions(tmp_path / folder, tmp_path / folder / "out")
        work.teach("gan", model, COMPANIONS["gan"].data(work, recipe.batch), recipe, on_step, progress=False)
        return model.state_dict()

    def interrupt(step: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    whole = teach("whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        teach("parts", recipe, interrupt)
    taken = []
    parts = teach("parts", recipe, lambda step, loss: taken.append(step))
    assert taken == [2, 3] and all(torch.equal(whole[k], parts[k]) for k in whole)
    with pytest.raises(UserError) as error:
        teach("parts", dataclasses.replace(recipe, lr=2e-3))
    assert "other settings" in one_sentence(error)


def test_gan_losses_pull_in_opposite_directions():
    low, high = torch.full((4,), -3.0), torch.full((4,), 3.0)
    assert companions.discriminator_loss(high, low) < companions.discriminator_loss(low, high)
    assert companions.generator_loss(high) < companions.generator_loss(low)
    assert abs(companions.discriminator_loss(torch.zeros(4), torch.zeros(4)).item() - 2 * torch.tensor(2.0).log().item()) < 1e-6


def test_seconds_are_carried_over(tmp_path):
    first = companions._Clock(tmp_path / "c.json")
    for step in range(10):
        first(step, 0.0)
    (tmp_path / "c.json").write_text(json.dumps([float(i) for i in range(10)]))
    second = companions._Clock(tmp_path / "c.json")
    second(5, 0.0)  # the last checkpoint was after five steps
    assert second.seconds == [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]


def test_what_is_missing_or_damaged_is_said_in_a_sentence(made, tmp_path):
    with pytest.raises(UserError) as error:
        load_companion("vae-wide", "cpu", made)
    assert "vae-diverse" in one_sentence(error)
    for call in (load_companion, curve):
        with pytest.raises(UserError) as error:
            call("pixel", folder=made)
        assert "ldm train companions" in one_sentence(error)
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    file = folder / "gan" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (folder / "vae-f8" / "config.json").unlink()
    (folder / "curves.json").write_text("{}")
    for call, name in ((load_companion, "gan"), (load_companion, "vae-f8"), (curve, "gan")):
        with pytest.raises(UserError) as error:
            call(name, folder=folder)
        assert "missing or damaged" in one_sentence(error)
    load_companion("vae-diverse", "cpu", folder)  # the others still serve
    (folder / "checksums.json").write_text("{")
    with pytest.raises(UserError):
        load_companion("vae-diverse", "cpu", folder)


def test_nothing_half_written_is_left(made):
    assert not [p.name for p in made.rglob("*") if ".part" in p.name]


def test_command(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(companions, "train_companions", lambda *a: calls.append(a) or a[1])
    monkeypatch.setattr(sys, "argv", ["ldm", "train", "companions", "--run", str(tmp_path / "r"), "--scale", "0.5"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0 and calls == [(tmp_path / "r", tmp_path / "r" / "companions", 0.5)]
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name):
    model, found = load_companion(name, "cpu"), curve(name)
    assert count(model) == found["parameters"] and found["steps"] == COMPANIONS[name].recipe.steps
    assert all(p.isfinite().all() for p in model.parameters())
    assert found["losses"][-1] < found["losses"][0] or name == "gan"


def test_shipped_are_small():
    assert sum(p.stat().st_size for p in FOLDER.rglob("*.safetensors")) < 10e6


def test_equal_time():
    """Seconds of a step, timed in turn in one process, times the steps of the recipe: the autoencoder's share is counted."""
    stored = json.loads((ROOT / "benchmarks" / "results" / "baselines.json").read_text())["budget"]
    assert set(stored["all"]) == {name for name in SHIPPED if COMPANIONS[name].equal_time}
    for name in stored["all"]:
        assert stored[name]["seconds"] / stored[name]["seconds_a_step"] == pytest.approx(COMPANIONS[name].recipe.steps)
    assert stored["all"]["latent"] > stored["latent"]["seconds"] + stored["vae-diverse"]["seconds"]
    assert max(stored["all"].values()) < 1.2 * min(stored["all"].values())
