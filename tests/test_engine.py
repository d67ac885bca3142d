"""The engine: without torch, and number for number what torch and diffusers make."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from ldm_tutorial.checkpoints import load_models
from ldm_tutorial.engine import Engine, missing, unsupported
from ldm_tutorial.engine.noise import randn
from ldm_tutorial.engine.steps import DDIM, UniPC
from ldm_tutorial.engine.steps import SAMPLERS as ENGINE_SAMPLERS
from ldm_tutorial.errors import UserError
from ldm_tutorial.files import WEIGHTS
from ldm_tutorial.lab.commands import open_engine
from ldm_tutorial.sampling import SAMPLERS, build_sampler, sample
from ldm_tutorial.settings import DEFAULT_SAMPLING, Sampling

PROMPTS = ["an armchair made of avocado on a pink background", "a golden duck"]
SEEDS = [7, 2**40 + 3]


# --- random numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 16, 16), (1, 4, 64, 64), (16,), (1, 3, 5, 7), (17,), (31,)])
@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 - 1, 2**32 + 1, 2**63 - 1])
def test_the_noise_is_torchs(seed, shape):
    theirs = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(randn(seed, shape), theirs.numpy(), atol=2e-6)


def test_another_seed_gives_other_noise():
    assert np.abs(randn(1, (64,)) - randn(2, (64,))).max() > 0.1


# --- samplers ---------------------------------------------------------------------------------------------------------

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SCHEDULES = {
    "ours": json.loads((WEIGHTS / "scheduler" / "scheduler_config.json").read_text()),
    "sd1": {**BETAS, "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False},
    "sd2": {**BETAS, "prediction_type": "v_prediction", "timestep_spacing": "linspace", "set_alpha_to_one": False},
    "zero snr": {
        **BETAS, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True,
        "clip_sample": False,
    },
    "sample": {**BETAS, "prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": True},
}  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 61])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name, ours", [("ddim", DDIM), ("unipc", UniPC)])
def test_steps_are_the_schedulers(name, ours, schedule, steps):
    config = SCHEDULES[schedule]
    options = {"solver_order": 2, "final_sigmas_type": "zero"} if name == "unipc" else {}
    theirs = SAMPLERS[name].from_config({"clip_sample": False, **config}, **options)
    theirs.set_timesteps(steps)
    theirs.timesteps = theirs.timesteps[theirs.timesteps >= 0]
    plain = SAMPLERS["ddim"].from_config(config)
    mine = ours({"clip_sample": False, **dict(config)}, plain.alphas_cumprod.numpy(), steps)
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 4, 4, 4)).astype(np.float32)
    z_theirs = torch.from_numpy(z)
    for i, t in enumerate(theirs.timesteps):
        predicted = rng.standard_normal(z.shape).astype(np.float32)
        z = mine.step(i, predicted, z)
        z_theirs = theirs.step(torch.from_numpy(predicted), t, z_theirs).prev_sample
        scale = max(1, z_theirs.abs().max().item())
        np.testing.assert_allclose(z / scale, z_theirs.numpy() / scale, atol=2e-4, err_msg=f"step {i}")
        z = z_theirs.numpy().copy()  # each step is judged by itself


PLAIN_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FOREIGN = {
    # Stable Diffusion 1.5's own configuration: what it does not name is the library's default, another one for each sampler
    "sd 1.5": (PNDMScheduler(**PLAIN_BETAS, skip_prk_steps=True), ["ddim", "unipc"]),
    "ddim as the library makes it": (DDIMScheduler(**PLAIN_BETAS), ["ddim", "unipc"]),
    "clipped": (DDIMScheduler(**PLAIN_BETAS, clip_sample=True, steps_offset=0), ["ddim", "unipc"]),
    "karras": (DPMSolverMultistepScheduler(**PLAIN_BETAS, use_karras_sigmas=True), ["ddim"]),
    "turbo": (EulerDiscreteScheduler(**PLAIN_BETAS, timestep_spacing="trailing"), ["ddim", "unipc"]),
    "edm": (EDMEulerScheduler(), []),
    "flow": (FlowMatchEulerDiscreteScheduler(), []),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_export_offers_the_samplers_that_compute_the_same(tiny, name, tmp_path):
    """For a checkpoint's own scheduler the engine takes the steps that ``sample`` takes, or has no such sampler."""
    import copy

    from ldm_tutorial.engine.export import offered_samplers, steps_agree

    scheduler, wanted = FOREIGN[name]
    scheduler.save_pretrained(tmp_path)
    models = copy.copy(tiny[0])
    models.scheduler = type(scheduler).from_pretrained(tmp_path)
    alphas_cumprod, offered = offered_samplers(models)
    assert list(offered) == wanted
    for sampler, config in json.loads(json.dumps(offered)).items():
        for steps in (7, 50):
            theirs = build_sampler(models, sampler, steps)
            mine = ENGINE_SAMPLERS[sampler](config, alphas_cumprod, steps)
            assert steps_agree(mine, theirs)
            assert not steps_agree(ENGINE_SAMPLERS[sampler](config, alphas_cumprod, steps + 1), theirs)


# --- the whole ----------------------------------------------------------------------------------------------------------


def assert_same_pictures(folder, prompts, seeds, sampling):
    """To 1 of 255, and nearly all values exactly."""
    theirs = sample(load_models(folder, "cpu"), prompts, seeds, sampling, progress=False)
    ours = Engine(folder, threads=1).sample(prompts, seeds, sampling)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        DEFAULT_SAMPLING,
        Sampling("unipc", 20, 3.0, (0.0, 0.75)),
        Sampling("ddim", 6, 5.0, negative_prompt="a blue table"),
        Sampling("unipc", 5, 1.0),
    ],
    ids=str,
)
def test_pictures_equal_the_pytorch_path(sampling):
    assert_same_pictures(WEIGHTS, PROMPTS, SEEDS, sampling)


@pytest.mark.slow
def test_two_hundred_pictures_equal_the_pytorch_path():
    from ldm_tutorial.curios import plain
    from ldm_tutorial.measure.pictures import expected_prompts

    prompts = [plain(*wanted) for wanted in expected_prompts("all", 200)]
    for start in range(0, 200, 20):
        sampler = "ddim" if start % 40 else "unipc"
        assert_same_pictures(WEIGHTS, prompts[start : start + 20], list(range(start, start + 20)), Sampling(sampler, 20))


def test_a_wrong_prompt_gives_another_picture():
    engine = Engine(threads=1)
    one, other = (engine.sample([p], [7], steps=4).astype(int) for p in PROMPTS)
    assert np.abs(one - other).mean() > 5


def test_it_needs_neither_torch_nor_diffusers_nor_transformers():
    code = (
        "import sys; from ldm_tutorial.engine import Engine; Engine().sample(['a mug'], [1], steps=2);"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# --- export ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    """The tiny random model, exported."""
    from ldm_tutorial.engine.export import export

    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(tiny_folder, folder)
    export(folder, progress=False)
    return folder


@pytest.mark.slow
def test_any_saved_model_can_be_exported(exported):
    assert not missing(exported)
    assert_same_pictures(exported, PROMPTS, SEEDS, Sampling("ddim", 4))
    assert_same_pictures(exported, PROMPTS[:1], SEEDS[:1], Sampling("unipc", 4))


@pytest.mark.slow
def test_the_shipped_graphs_are_what_the_export_makes(tmp_path):
    """Made again, the graphs compute the same; and they hold no second copy of the weights."""
    import onnxruntime

    from ldm_tutorial.engine.engine import GRAPHS
    from ldm_tutorial.engine.export import export

    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    export(folder, progress=False)
    assert json.loads((folder / "engine.json").read_text()) == json.loads((WEIGHTS / "engine.json").read_text())
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 8, 16, 16)).astype(np.float32)
    inputs = {
        "text_encoder": {"input_ids": rng.integers(0, 2000, (2, 77))},
        "unet": {
            "sample": z,
            "timestep": np.array(500),
            "encoder_hidden_states": rng.standard_normal((2, 77, 128)).astype(np.float32),
        },
        "decoder": {"latents": z},
    }
    for name, file in GRAPHS.items():
        made, shipped = (onnxruntime.InferenceSession(str(f / file)).run(None, inputs[name])[0] for f in (folder, WEIGHTS))
        np.testing.assert_allclose(made, shipped, atol=1e-5)
        assert (WEIGHTS / file).stat().st_size < 400_000


def test_what_is_missing_or_damaged_is_said(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    (folder / "unet" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="unet/model.onnx is altered"):
        Engine(folder)
    (folder / "checksums.json").unlink()  # another's folder, without checksums
    with pytest.raises(UserError, match="can't be read .*ldm export"):
        Engine(folder)
    (folder / "unet" / "model.onnx").unlink()
    assert missing(folder) == ["unet/model.onnx"]
    with pytest.raises(UserError, match="ldm export"):
        Engine(folder)


def test_what_it_does_not_do_is_said():
    assert unsupported(Sampling("ddpm")) and not unsupported(Sampling("unipc"))
    engine = Engine(threads=1)
    with pytest.raises(UserError, match="does not have the sampler 'ddpm'"):
        engine.sample(["a mug"], [1], sampler="ddpm")
    with pytest.raises(UserError, match="give fewer"):
        engine.sample(["a mug"], [1], steps=1001)
    with pytest.raises(UserError, match="as many seeds"):
        engine.sample(["a mug"], [1, 2])


# --- the command line -----------------------------------------------------------------------------------------------------


def test_the_engine_runs_folders_and_says_so():
    with pytest.raises(UserError, match="runs exported folders, and 'someone/model' is none"):
        open_engine("onnx", "someone/model", Sampling())
    assert open_engine("auto", "someone/model", Sampling()) is None


def test_without_onnxruntime_torch_draws(monkeypatch):
    monkeypatch.setattr("ldm_tutorial.lab.commands.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # any import of it fails
    assert open_engine("auto", WEIGHTS, Sampling()) is None
    with pytest.raises(UserError, match="pip install onnxruntime"):
        open_engine("onnx", WEIGHTS, Sampling())


def test_a_folder_of_an_older_export_is_exported_anew(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    (folder / "checksums.json").unlink()
    settings = json.loads((folder / "engine.json").read_text())
    settings["scheduler"] = settings.pop("schedulers")["ddim"]
    (folder / "engine.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="older version.*ldm export"):
        Engine(folder)


def test_what_is_not_finite_is_said():
    engine = Engine(threads=1)
    engine.alphas_cumprod = np.full(1000, np.nan, np.float32)
    with pytest.raises(UserError, match="not finite"):
        engine.sample(["a mug"], [1], steps=2)


def test_generate_uses_the_engine_where_it_can(tmp_path):
    """By default no torch is imported; the two engines draw the same picture; what the engine can't do goes to torch."""
    code = "import sys; from ldm_tutorial.lab.cli import run;status = run(sys.argv[1:]); print(status, 'torch' in sys.modules)"

    def generate(*options):
        command = [sys.executable, "-c", code, "generate", "a golden duck", "--steps", "3", *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return done.stdout.split("\n")[-2], done.stderr

    assert generate("--out", "a.png")[0] == "0 False"
    assert generate("--engine", "torch", "--out", "b.png")[0] == "0 True"
    assert generate("--sampler", "ddpm", "--out", "c.png")[0] == "0 True"
    status, said = generate("--sampler", "ddpm", "--engine", "onnx", "--out", "d.png")
    assert status.startswith("2") and "does not have the sampler 'ddpm'" in said
    from PIL import Image

    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in "abc")
    assert np.abs(a - b).max() <= 1
    assert np.abs(a - c).max() > 5
