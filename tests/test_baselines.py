"""Baselines: made, stopped, resumed, saved and loaded at a tiny scale; then the shipped ones, as they are."""

import dataclasses
import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ldm_tutorial.baselines import (
    BASELINES,
    FOLDER,
    NOISE,
    SHARES,
    SHIPPED,
    STRONG_KL_WEIGHT,
    UNSEEN,
    batches,
    build,
    build_discriminator,
    load_baseline,
    scheduler_of,
    training_curve,
)
from ldm_tutorial.baselines.networks import NO_LABEL, label_ids, shipped_tokenizer
from ldm_tutorial.curios import MATERIALS, OBJECTS, pairs
from ldm_tutorial.errors import UserError
from ldm_tutorial.files import WEIGHTS
from ldm_tutorial.images import to_picture
from ldm_tutorial.lab import baselines
from ldm_tutorial.lab.baselines import BaselineTrainer
from ldm_tutorial.training import Recipe

HERE = sorted(json.loads((FOLDER / "curves.json").read_text()))  # those whose weights are in the package


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ": " in text, text
    return text


def shrink(patch) -> None:
    """Two steps of two pictures, from 64 renders and latents of four."""
    patch.setattr(baselines, "RENDERS", 64)
    patch.setattr(baselines, "LATENTS", 4)
    patch.setattr(batches, "PAIR_PICTURES", 4)
    for name, baseline in BASELINES.items():
        patch.setitem(BASELINES, name, dataclasses.replace(baseline, recipe=Recipe(2, 2, 1e-3, warmup=1)))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    shrink(monkeypatch)
    return BaselineTrainer(tmp_path / "run", tmp_path / "out")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Some of each kind, trained for two steps; tests that damage the folder make a copy."""
    folder = tmp_path_factory.mktemp("baselines")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        trainer = BaselineTrainer(folder / "run", folder / "out")
        for name in ("vae-diverse", "vae-f8", "gan", "latent", "pairs-10", "unet-noskips", "clip-labels"):
            trainer.train(name, progress=False)
    return folder / "out"


def batch_of(trainer: BaselineTrainer, name: str, size: int = 64) -> dict:
    """What a baseline learns from in one step."""
    return BASELINES[name].data(trainer, size)(torch.Generator().manual_seed(0))


def test_compared_ones_are_equal_but_for_one_thing():
    sizes = {name: count(build(name)) for name in BASELINES}
    assert max(sizes.values()) < 1_000_000
    assert abs(sizes["pixel"] / sizes["latent"] - 1) < 0.05, "compared at about equal size"
    same = [("unet-skips", "unet-noskips"), ("vae-diverse", "vae-narrow"), ("vae-nokl", "vae-strongkl")]
    same += [("vae-kl", "vae-nokl"), ("clip-labels", "clip-captions"), ("pairs-10", "pairs-100")]
    for one, other in same:
        assert sizes[one] == sizes[other]
        assert BASELINES[one].recipe == BASELINES[other].recipe
    assert BASELINES["vae-f2"].recipe == BASELINES["vae-f8"].recipe == BASELINES["vae-diverse"].recipe
    weights = [BASELINES[name].loss(build(name)).kl_weight for name in ("vae-nokl", "vae-kl", "vae-strongkl")]
    assert weights == [0, BASELINES["vae-diverse"].loss(build("vae-diverse")).kl_weight, STRONG_KL_WEIGHT]


def test_the_narrow_and_the_diverse_one_have_the_shipped_shape():
    shipped = json.loads((WEIGHTS / "vae" / "config.json").read_text())
    for name in ("vae-diverse", "vae-narrow"):
        config = build(name).config
        for key in ("block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups", "mid_block_add_attention"):
            assert config[key] == shipped[key] or list(config[key]) == shipped[key], key


def test_they_are_small():
    """Together at most 10 MB; the U-Net that notebook 04 makes lies beside them and is none of them."""
    sizes = [file.stat().st_size for name in SHIPPED for file in (FOLDER / name).glob("*.safetensors")]
    assert len(sizes) == len(SHIPPED) and sum(sizes) < 10_000_000


def test_shapes():
    x = torch.zeros(2, 3, 64, 64)
    latents = {"vae-diverse": (8, 16, 16), "vae-f2": (8, 32, 32), "vae-f8": (8, 8, 8), "vae-prior": (32, 2, 2)}
    for name, shape in latents.items():
        z = build(name).encode(x).latent_dist.mode()
        assert z.shape[1:] == shape
        assert build(name).decode(z).sample.shape == x.shape
    pictures = build("gan")(torch.randn(2, NOISE))
    assert pictures.shape == x.shape and pictures.abs().max() <= 1
    assert build_discriminator()(x).flatten().shape == (2,)
    assert build("latent")(torch.zeros(2, 8, 16, 16), 5).sample.shape == (2, 8, 16, 16)
    assert build("pixel")(x, 5).sample.shape == x.shape
    labels = label_ids(torch.tensor([0, 17]), torch.tensor([0, 15]), torch.tensor([0, 7]))
    assert labels.tolist() == [[0, 18, 34], [17, 33, 41]] and NO_LABEL == 42
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
        narrow = unet.config.block_out_channels[0]
        assert hidden[:, -narrow:].abs().max() == 0 < hidden[:, :narrow].abs().max()


def test_saved_in_half_and_loaded_in_full_precision(made):
    for name in ("vae-diverse", "gan", "unet-noskips", "clip-labels"):
        model = load_baseline(name, "cpu", made)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        file = next((made / name).glob("*.safetensors"))
        assert {v.dtype for v in load_file(file).values() if v.is_floating_point()} == {torch.float16}
        assert "_name_or_path" not in json.loads((made / name / "config.json").read_text())
    assert load_baseline("vae-diverse", "cpu", made).config.scaling_factor != 0.18215, "the default would be wrong"
    assert type(load_baseline("unet-noskips", "cpu", made)).__name__ == "UNet2DModel"
    assert load_baseline("unet-noskips", "cpu", made).up_blocks[0]._forward_pre_hooks, "cut again when loaded"


def test_the_shape_is_what_the_folder_says(made, tmp_path, monkeypatch):
    """Weights of an earlier recipe are loaded as they are."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.setitem(BASELINES, "vae-f8", BASELINES["vae-f2"])
    assert len(load_baseline("vae-f8", "cpu", tmp_path / "copy").config.block_out_channels) == 4


def test_curve(made):
    found = training_curve("gan", made)
    assert found["steps"] == 2 and len(found["losses"]) == 2 and found["command"] == "ldm train baselines"
    assert found["parameters"] == count(build("gan")) and found["seconds"] >= 0 and found["seed"] == 0


def test_a_latent_model_is_charged_for_its_autoencoder(made):
    found = training_curve("latent", made)
    assert found["autoencoder"] == "vae-diverse" and found["encoding_seconds"] >= 0
    assert found["autoencoder_seconds"] == training_curve("vae-diverse", made)["seconds"]
    on_shipped = training_curve("pairs-10", made.parent / "run" / "not_shipped")
    assert on_shipped["autoencoder"] == "shipped" and "autoencoder_seconds" not in on_shipped


def test_what_is_not_shipped_stays_in_the_run(made):
    assert not (made / "pairs-10").exists()
    model = load_baseline("pairs-10", "cpu", made.parent / "run" / "not_shipped")
    assert type(model).__name__ == "LabelledUNet"


def test_curves_are_thinned():
    losses = baselines.thin(torch.arange(500.0))
    assert len(losses) == 167 and losses[:2] == [1.0, 4.0], "means of three"


def test_narrow_and_diverse_see_what_they_should(tiny):
    data, sets = tiny.data, {}
    for name in ("vae-narrow", "vae-diverse"):
        images = to_picture(batch_of(tiny, name)["images"])
        rows = [next(i for i, x in enumerate(data.images) if torch.equal(x, image)) for image in images]
        kinds = {list(MATERIALS)[m] for m in data.materials[rows].tolist()}
        assert kinds == {"gold"} if name == "vae-narrow" else len(kinds) > 1 and not kinds & set(UNSEEN)
        sets[name] = len(set(rows))
    assert sets["vae-narrow"] == sets["vae-diverse"] == int((data.materials == list(MATERIALS).index("gold")).sum())


def test_labels_say_no_more_than_the_object(tiny):
    tokenizer = shipped_tokenizer()
    labels = tokenizer.batch_decode(batch_of(tiny, "clip-labels")["input_ids"], skip_special_tokens=True)
    assert {len(t.split()) for t in labels} <= {2, 3} and all(t.split()[0] in ("a", "an") for t in labels)
    assert not any("flying" in t or "baseball" in t for t in labels)
    captions = tokenizer.batch_decode(batch_of(tiny, "clip-captions")["input_ids"], skip_special_tokens=True)
    assert max(len(t.split()) for t in captions) > 4


def test_shares_of_the_pairs_are_nested_and_leave_no_word_unknown():
    order = batches.pair_order()
    assert sorted(order) == sorted(pairs("train")) and order == batches.pair_order()
    assert order != pairs("train"), "random"
    smaller: set = set()
    for share in SHARES:
        numbers = batches.pair_scenes(share)
        seen = [pairs("train")[i % len(pairs("train"))] for i in numbers]
        assert len(numbers) == len(set(numbers)) == batches.PAIR_PICTURES, "equally many pictures, none twice"
        assert len(set(seen)) == round(len(order) * share / 100) and smaller <= set(seen)
        often = [seen.count(pair) for pair in set(seen)]
        assert max(often) - min(often) <= 1
        assert {p[0] for p in seen} == set(OBJECTS) and {p[1] for p in seen} == set(MATERIALS)
        smaller = set(seen)


def test_labels_belong_to_their_pictures(tiny, monkeypatch):
    from ldm_tutorial.measure.judge import load_judge, predict

    monkeypatch.setattr(batches, "PAIR_PICTURES", 32)
    latents, labels = tiny.labelled_latents(10)
    assert max(batches.pair_scenes(10)) >= len(tiny.data), "some are not in the data set, and rendered for this"
    vae, _ = tiny.autoencoder("shipped")
    with torch.no_grad():
        pictures = to_picture(vae.decode(latents / vae.config.scaling_factor).sample)
    seen = label_ids(*predict(load_judge(device="cpu"), pictures).T)
    assert (seen == labels).all(1).float().mean() > 0.9
    assert (seen.roll(1, 0) == labels).all(1).float().mean() < 0.2, "control: the neighbour's labels"
    seconds = tiny.encoding_seconds
    again, _ = tiny.labelled_latents(10)
    assert torch.equal(latents, again) and tiny.encoding_seconds == pytest.approx(seconds, abs=0.1), (
        "read from the run's folder"
    )


def test_some_labels_are_dropped(tiny):
    labels = batch_of(tiny, "pairs-10", 256)["labels"]
    silent = (labels == NO_LABEL).all(1)
    assert 0.03 < silent.float().mean() < 0.2
    assert (labels[~silent] < NO_LABEL).all()


def test_another_seed_begins_elsewhere(tiny, tmp_path):
    other = BaselineTrainer(tmp_path / "run-1", tmp_path / "out-1", seed=1)
    for trainer in (tiny, other):
        trainer.train("vae-kl", progress=False)
    one, two = (load_file(t.out / "vae-kl" / "diffusion_pytorch_model.safetensors") for t in (tiny, other))
    assert any(not torch.equal(one[k], two[k]) for k in one)
    assert training_curve("vae-kl", other.out)["seed"] == 1


def test_a_gan_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(BASELINES, "gan", dataclasses.replace(BASELINES["gan"], recipe=Recipe(4, 2, 1e-3, ema=0.9)))
    plain_call = baselines._Clock.__call__

    def stop_after_two(clock, step, loss):
        plain_call(clock, step, loss)
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    def train(folder):
        BaselineTrainer(tmp_path / folder, tmp_path / folder / "out").train("gan", progress=False)
        return load_file(tmp_path / folder / "out" / "gan" / "diffusion_pytorch_model.safetensors")

    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(baselines._Clock, "__call__", stop_after_two)
        with pytest.raises(UserError, match="stopped at step 2 of 4"):
            train("parts")
    parts = train("parts")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    monkeypatch.setitem(BASELINES, "gan", dataclasses.replace(BASELINES["gan"], recipe=Recipe(4, 2, 2e-3, ema=0.9)))
    with pytest.raises(UserError) as error:
        train("parts")
    assert "other settings" in one_sentence(error)


def test_gan_losses_pull_in_opposite_directions():
    low, high = torch.full((4,), -3.0), torch.full((4,), 3.0)
    assert baselines.discriminator_loss(high, low) < baselines.discriminator_loss(low, high)
    assert baselines.generator_loss(high) < baselines.generator_loss(low)
    undecided = baselines.discriminator_loss(torch.zeros(4), torch.zeros(4))
    assert undecided.item() == pytest.approx(2 * torch.tensor(2.0).log().item())


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
            call("pixel", folder=made)
        assert "ldm train baselines" in one_sentence(error)
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    file = folder / "gan" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (folder / "vae-f8" / "config.json").unlink()
    (folder / "curves.json").write_text("{}")
    for call, name in ((load_baseline, "gan"), (load_baseline, "vae-f8"), (training_curve, "gan")):
        with pytest.raises(UserError) as error:
            call(name, folder=folder)
        assert "missing or damaged" in one_sentence(error)
    load_baseline("vae-diverse", "cpu", folder)  # the others still serve
    (folder / "checksums.json").write_text("{")
    with pytest.raises(UserError):
        load_baseline("vae-diverse", "cpu", folder)


def test_nothing_half_written_is_left(made):
    assert not [p.name for p in made.rglob("*") if ".part" in p.name]


def test_command(monkeypatch, tmp_path, ldm):
    calls = []
    monkeypatch.setattr(baselines, "train_baselines", lambda *given, **options: calls.append(given) or given[1])
    status, out, err = ldm("train", "baselines", "--run", tmp_path / "r", "--scale", "0.5")
    assert status == 0 and "wrote" in out, err
    assert calls == [(tmp_path / "r", tmp_path / "r" / "baselines", 0.5)]


@pytest.mark.parametrize("name", HERE)
def test_shipped(name):
    model, found = load_baseline(name, "cpu"), training_curve(name)
    assert name in SHIPPED and count(model) == found["parameters"]
    assert all(p.isfinite().all() for p in model.parameters())
    assert found["losses"][-1] < found["losses"][0] or name == "gan"


def test_shipped_equal_time():
    curves = [training_curve(name) for name in ("gan", "pixel", "latent")]
    seconds = [
        sum(value for key, value in curve.items() if key.endswith("seconds")) for curve in curves
    ]  # autoencoder included
    assert max(seconds) < 1.4 * min(seconds), "compared after about equal time"
    assert sum(p.stat().st_size for p in FOLDER.rglob("*")) < 20e6
