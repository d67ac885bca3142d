"""Companions: made, stopped, resumed, saved and loaded at a tiny scale; then the shipped ones, as they are."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ldm_tutorial import cli, companions
from ldm_tutorial.companions import COMPANIONS, FOLDER, Companions, build, curve, load_companion, scheduler_of
from ldm_tutorial.errors import UserError
from ldm_tutorial.training import Recipe


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ": " in text, text
    return text


def drawn(monkeypatch) -> dict:
    """Instead of training, keep one batch of what would be learned from, by the companion's name."""
    batches = {}
    monkeypatch.setattr(companions, "fit", lambda name, loss, draw, *a, **k: batches.update({name: draw(torch.Generator())}))
    return batches


@pytest.fixture
def tiny_recipes(monkeypatch, tmp_path):
    """Two steps of two pictures, from 64 renders."""
    monkeypatch.setattr(companions, "RENDERS", 64)
    monkeypatch.setattr(companions, "RECIPES", {name: Recipe(2, 2, 1e-3, warmup=1) for name in COMPANIONS})
    return Companions(tmp_path / "run", tmp_path / "out")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One companion of each kind, trained for two steps; tests that damage the folder make a copy."""
    folder = tmp_path_factory.mktemp("companions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(companions, "RENDERS", 64)
        patch.setattr(companions, "RECIPES", {name: Recipe(2, 2, 1e-3, warmup=1) for name in COMPANIONS})
        work = Companions(folder / "run", folder / "out")
        work.latents = torch.randn(4, 8, 16, 16)
        for name in ("vae-narrow", "vae-f8", "gan", "unet-noskips", "clip-labels", "clip-captions"):
            work.train(name, progress=False)
    return folder / "out"


def test_every_companion_has_a_recipe_and_is_small():
    assert companions.RECIPES.keys() == COMPANIONS.keys() and companions.VAES.keys() < COMPANIONS.keys()
    sizes = {name: count(build(name)) for name in COMPANIONS}
    assert max(sizes.values()) < 1_000_000 and sizes["gan"] < 500_000
    assert abs(sizes["pixel"] / sizes["latent"] - 1) < 0.05, "compared at equal size"
    for one, other in (("unet-skips", "unet-noskips"), ("vae-diverse", "vae-narrow"), ("clip-labels", "clip-captions")):
        assert sizes[one] == sizes[other]
        assert companions.RECIPES[one] == companions.RECIPES[other]


def test_shapes():
    x = torch.zeros(2, 3, 64, 64)
    for name, shape in {
        "vae-diverse": (8, 16, 16),
        "vae-f2": (8, 32, 32),
        "vae-f8": (8, 8, 8),
        "vae-prior": (16, 4, 4),
    }.items():
        z = build(name).encode(x).latent_dist.mode()
        assert z.shape[1:] == shape
        assert build(name).decode(z).sample.shape == x.shape
    pictures = build("gan")(torch.randn(2, companions.NOISE))
    assert pictures.shape == x.shape and pictures.abs().max() <= 1
    assert companions.critic()(x).flatten().shape == (2,)
    assert build("latent")(torch.zeros(2, 8, 16, 16), 5).sample.shape == (2, 8, 16, 16)
    assert build("pixel")(x, 5).sample.shape == x.shape


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
    for name in ("vae-narrow", "gan", "unet-noskips", "clip-labels"):
        model = load_companion(name, "cpu", made)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        file = next((made / name).glob("*.safetensors"))
        assert {v.dtype for v in load_file(file).values() if v.is_floating_point()} == {torch.float16}
    assert load_companion("vae-narrow", "cpu", made).config.scaling_factor != 0.18215, "the default would be wrong"
    assert type(load_companion("unet-noskips", "cpu", made)).__name__ == "UNet2DModel"
    assert load_companion("unet-noskips", "cpu", made).up_blocks[0]._forward_pre_hooks, "cut again when loaded"


def test_curve(made):
    found = curve("gan", made)
    assert found["steps"] == 2 and len(found["losses"]) == 2 and found["command"] == "ldm train companions"
    assert found["parameters"] == count(build("gan")) and found["seconds"] >= 0 and len(found["source"]) == 12


def test_curves_are_thinned(tiny_recipes, monkeypatch):
    monkeypatch.setattr(Companions, "_gan", lambda self, name, model, recipe, options: torch.arange(500.0).tolist())
    monkeypatch.setattr(companions._Clock, "__init__", lambda self, path: setattr(self, "seconds", [1.0]))
    tiny_recipes.train("gan", progress=False)
    losses = curve("gan", tiny_recipes.out)["losses"]
    assert len(losses) == 167 and losses[:2] == [1.0, 4.0], "means of three"


def test_narrow_and_diverse_see_what_they_should(tiny_recipes, monkeypatch):
    from ldm_tutorial.curios import MATERIALS, to_picture

    seen = drawn(monkeypatch)
    data = tiny_recipes.data
    for name in ("vae-narrow", "vae-diverse"):
        tiny_recipes._vae(name, build(name), Recipe(1, 32, 1e-3), {})
        images = to_picture(seen[name]["images"])
        rows = [next(i for i, x in enumerate(data.images) if torch.equal(x, image)) for image in images]
        kinds = {list(MATERIALS)[m] for m in data.materials[rows].tolist()}
        assert kinds == {"gold"} if name == "vae-narrow" else len(kinds) > 1 and not kinds & set(companions.UNSEEN)


def test_labels_say_no_more_than_the_object(tiny_recipes, monkeypatch):
    heard = drawn(monkeypatch)
    tiny_recipes._clip("clip-labels", build("clip-labels"), Recipe(1, 32, 1e-3), {})
    texts = companions._tokenizer().batch_decode(heard["clip-labels"]["input_ids"], skip_special_tokens=True)
    assert {len(t.split()) for t in texts} <= {2, 3} and all(t.split()[0] in ("a", "an") for t in texts)
    assert not any("flying" in t or "baseball" in t for t in texts)


def test_an_adversarial_training_goes_on_where_it_stopped(tiny_recipes, tmp_path, monkeypatch):
    def train(folder, steps):
        monkeypatch.setitem(companions.RECIPES, "gan", Recipe(steps, 2, 1e-3))
        Companions(tmp_path / folder, tmp_path / folder / "out").train("gan", progress=False)
        return load_file(tmp_path / folder / "out" / "gan" / "model.safetensors")

    whole = train("whole", 4)
    train("parts", 2)
    parts = train("parts", 4)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


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
            call("latent", folder=made)
        assert "ldm train companions" in one_sentence(error)
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    file = folder / "gan" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (folder / "vae-f8" / "config.json").unlink()
    (folder / "curves.json").write_text("{}")
    for call, name in ((load_companion, "gan"), (load_companion, "vae-f8"), (curve, "gan")):
        with pytest.raises(UserError) as error:
            call(name, folder=folder)
        assert "missing or damaged" in one_sentence(error)
    load_companion("vae-narrow", "cpu", folder)  # the others still serve
    (folder / "checksums.json").write_text("{")
    with pytest.raises(UserError):
        load_companion("vae-narrow", "cpu", folder)


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


@pytest.mark.parametrize("name", COMPANIONS)
def test_shipped(name):
    model, found = load_companion(name, "cpu"), curve(name)
    assert count(model) == found["parameters"] and found["steps"] == companions.RECIPES[name].steps
    assert all(p.isfinite().all() for p in model.parameters())
    assert found["losses"][-1] < found["losses"][0] or name == "gan"


def test_shipped_equal_time():
    seconds = [curve(name)["seconds"] for name in ("gan", "pixel", "latent")]
    assert max(seconds) < 1.4 * min(seconds), "compared after about equal time"
    assert sum(p.stat().st_size for p in FOLDER.rglob("*")) < 20e6
