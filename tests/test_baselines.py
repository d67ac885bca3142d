"""Baselines: made, stopped, resumed, saved and loaded at a tiny scale; then the shipped ones, as they are."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ldm_tutorial import baselines as shipped
from ldm_tutorial.baselines import BASELINES, FOLDER, build, load_baseline, scheduler_of, training_curve
from ldm_tutorial.errors import UserError
from ldm_tutorial.images import to_picture
from ldm_tutorial.lab import baselines
from ldm_tutorial.lab.baselines import BaselineTrainer
from ldm_tutorial.training import Recipe


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ": " in text, text
    return text


def drawn(monkeypatch) -> dict:
    """Instead of training, keep one batch of what would be learned from, by the baseline's name."""
    batches = {}
    monkeypatch.setattr(baselines, "fit", lambda name, loss, draw, *a, **k: batches.update({name: draw(torch.Generator())}))
    return batches


@pytest.fixture
def tiny_recipes(monkeypatch, tmp_path):
    """Two steps of two pictures, from 64 renders."""
    monkeypatch.setattr(baselines, "RENDERS", 64)
    monkeypatch.setattr(baselines, "RECIPES", {name: Recipe(2, 2, 1e-3, warmup=1) for name in BASELINES})
    return BaselineTrainer(tmp_path / "run", tmp_path / "out")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One baseline of each kind, trained for two steps; tests that damage the folder make a copy."""
    folder = tmp_path_factory.mktemp("baselines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "RENDERS", 64)
        patch.setattr(baselines, "RECIPES", {name: Recipe(2, 2, 1e-3, warmup=1) for name in BASELINES})
        work = BaselineTrainer(folder / "run", folder / "out")
        work.latents = torch.randn(4, 8, 16, 16)
        for name in ("vae-narrow", "vae-f8", "gan", "unet-noskips", "clip-labels", "clip-captions"):
            work.train(name, progress=False)
    return folder / "out"


def test_every_baseline_has_a_recipe_and_is_small():
    assert baselines.RECIPES.keys() == BASELINES.keys() and shipped.VAES.keys() < BASELINES.keys()
    sizes = {name: count(build(name)) for name in BASELINES}
    assert max(sizes.values()) < 1_000_000 and sizes["gan"] < 500_000
    assert abs(sizes["pixel"] / sizes["latent"] - 1) < 0.05, "compared at equal size"
    for one, other in (("unet-skips", "unet-noskips"), ("vae-diverse", "vae-narrow"), ("clip-labels", "clip-captions")):
        assert sizes[one] == sizes[other]
        assert baselines.RECIPES[one] == baselines.RECIPES[other]


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
    pictures = build("gan")(torch.randn(2, shipped.NOISE))
    assert pictures.shape == x.shape and pictures.abs().max() <= 1
    assert shipped.build_discriminator()(x).flatten().shape == (2,)
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
        model = load_baseline(name, "cpu", made)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        file = next((made / name).glob("*.safetensors"))
        assert {v.dtype for v in load_file(file).values() if v.is_floating_point()} == {torch.float16}
    assert load_baseline("vae-narrow", "cpu", made).config.scaling_factor != 0.18215, "the default would be wrong"
    assert type(load_baseline("unet-noskips", "cpu", made)).__name__ == "UNet2DModel"
    assert load_baseline("unet-noskips", "cpu", made).up_blocks[0]._forward_pre_hooks, "cut again when loaded"


def test_curve(made):
    found = training_curve("gan", made)
    assert found["steps"] == 2 and len(found["losses"]) == 2 and found["command"] == "ldm train baselines"
    assert found["parameters"] == count(build("gan")) and found["seconds"] >= 0


def test_curves_are_thinned(tiny_recipes, monkeypatch):
    monkeypatch.setattr(BaselineTrainer, "_gan", lambda self, name, model, recipe, options: torch.arange(500.0).tolist())
    monkeypatch.setattr(baselines._Clock, "__init__", lambda self, path: setattr(self, "seconds", [1.0]))
    tiny_recipes.train("gan", progress=False)
    losses = training_curve("gan", tiny_recipes.out)["losses"]
    assert len(losses) == 167 and losses[:2] == [1.0, 4.0], "means of three"


def test_narrow_and_diverse_see_what_they_should(tiny_recipes, monkeypatch):
    from ldm_tutorial.curios import MATERIALS

    seen = drawn(monkeypatch)
    data = tiny_recipes.data
    for name in ("vae-narrow", "vae-diverse"):
        tiny_recipes._vae(name, build(name), Recipe(1, 32, 1e-3), {})
        images = to_picture(seen[name]["images"])
        rows = [next(i for i, x in enumerate(data.images) if torch.equal(x, image)) for image in images]
        kinds = {list(MATERIALS)[m] for m in data.materials[rows].tolist()}
        assert kinds == {"gold"} if name == "vae-narrow" else len(kinds) > 1 and not kinds & set(shipped.UNSEEN)


def test_labels_say_no_more_than_the_object(tiny_recipes, monkeypatch):
    heard = drawn(monkeypatch)
    tiny_recipes._clip("clip-labels", build("clip-labels"), Recipe(1, 32, 1e-3), {})
    texts = shipped._tokenizer().batch_decode(heard["clip-labels"]["input_ids"], skip_special_tokens=True)
    assert {len(t.split()) for t in texts} <= {2, 3} and all(t.split()[0] in ("a", "an") for t in texts)
    assert not any("flying" in t or "baseball" in t for t in texts)


def test_an_adversarial_training_goes_on_where_it_stopped(tiny_recipes, tmp_path, monkeypatch):
    monkeypatch.setitem(baselines.RECIPES, "gan", Recipe(4, 2, 1e-3))
    plain_call = baselines._Clock.__call__

    def stop_after_two(clock, step, loss):
        plain_call(clock, step, loss)
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    def train(folder):
        BaselineTrainer(tmp_path / folder, tmp_path / folder / "out").train("gan", progress=False)
        return load_file(tmp_path / folder / "out" / "gan" / "model.safetensors")

    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(baselines._Clock, "__call__", stop_after_two)
        with pytest.raises(UserError, match="stopped at step 2 of 4"):
            train("parts")
    parts = train("parts")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_seconds_are_carried_over(tmp_path):
    first = baselines._Clock(tmp_path / "c.json")
    for step in range(10):
        first(step, 0.0)
    (tmp_path / "c.json").write_text(json.dumps([float(i) for i in range(10)]))
    second = baselines._Clock(tmp_path / "c.json")
    second(5, 0.0)  # the last checkpoint was after five steps
    assert second.seconds == [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]


def test_what_is_missing_or_damaged_is_said_in_a_sentence(made, tmp_path):
    with pytest.raises(UserError) as error:
        load_baseline("vae-wide", "cpu", made)
    assert "vae-diverse" in one_sentence(error)
    for call in (load_baseline, training_curve):
        with pytest.raises(UserError) as error:
            call("latent", folder=made)
        assert "ldm train baselines" in one_sentence(error)
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    file = folder / "gan" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (folder / "vae-f8" / "config.json").unlink()
    (folder / "curves.json").write_text("{}")
    for call, name in ((load_baseline, "gan"), (load_baseline, "vae-f8"), (training_curve, "gan")):
        with pytest.raises(UserError) as error:
            call(name, folder=folder)
        assert "missing or damaged" in one_sentence(error)
    load_baseline("vae-narrow", "cpu", folder)  # the others still serve
    (folder / "checksums.json").write_text("{")
    with pytest.raises(UserError):
        load_baseline("vae-narrow", "cpu", folder)


def test_nothing_half_written_is_left(made):
    assert not [p.name for p in made.rglob("*") if ".part" in p.name]


def test_command(monkeypatch, tmp_path, ldm):
    calls = []
    monkeypatch.setattr(baselines, "train_baselines", lambda *given, **options: calls.append(given) or given[1])
    status, out, err = ldm("train", "baselines", "--run", tmp_path / "r", "--scale", "0.5")
    assert status == 0 and "wrote" in out, err
    assert calls == [(tmp_path / "r", tmp_path / "r" / "baselines", 0.5)]


@pytest.mark.parametrize("name", BASELINES)
def test_shipped(name):
    model, found = load_baseline(name, "cpu"), training_curve(name)
    assert count(model) == found["parameters"] and found["steps"] == baselines.RECIPES[name].steps
    assert all(p.isfinite().all() for p in model.parameters())
    assert found["losses"][-1] < found["losses"][0] or name == "gan"


def test_shipped_equal_time():
    seconds = [training_curve(name)["seconds"] for name in ("gan", "pixel", "latent")]
    assert max(seconds) < 1.4 * min(seconds), "compared after about equal time"
    assert sum(p.stat().st_size for p in FOLDER.rglob("*")) < 20e6
