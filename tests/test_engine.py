"""The engine: without torch, and number for number what torch and diffusers make."""

import json
import shutil
import subprocess
import sys
from collections import Counter

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
    UniPCMultistepScheduler,
)

from ldm_tutorial.checkpoints import load_models
from ldm_tutorial.engine import Engine, missing, unsupported
from ldm_tutorial.engine.noise import randn
from ldm_tutorial.engine.steps import DDIM, UniPC
from ldm_tutorial.engine.steps import SAMPLERS as ENGINE_SAMPLERS
from ldm_tutorial.errors import UserError
from ldm_tutorial.files import WEIGHTS, write_checksums
from ldm_tutorial.lab import commands
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
    if name == "ddim":  # as build_sampler does: -1 is one too many
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
    "third order": (UniPCMultistepScheduler(**PLAIN_BETAS, solver_order=3), ["ddim"]),
    "not always corrected": (UniPCMultistepScheduler(**PLAIN_BETAS, disable_corrector=[0, 30]), ["ddim", "unipc"]),
    "thresholding": (DDIMScheduler(**PLAIN_BETAS, thresholding=True), []),
    "ours": (DDIMScheduler.from_pretrained(WEIGHTS / "scheduler"), ["ddim", "unipc"]),
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
        for steps in (7, 50, 61):
            theirs = build_sampler(models, sampler, steps)
            mine = ENGINE_SAMPLERS[sampler](config, alphas_cumprod, steps)
            assert steps_agree(mine, theirs)
            assert not steps_agree(ENGINE_SAMPLERS[sampler](config, alphas_cumprod, steps + 1), theirs)


# --- the whole ----------------------------------------------------------------------------------------------------------


def assert_same_pictures(folder, prompts, seeds, sampling):
    theirs = sample(load_models(folder, "cpu"), prompts, seeds, sampling, progress=False)
    assert_alike(Engine(folder, threads=1).sample(prompts, seeds, sampling), theirs)


def assert_alike(ours, theirs):
    """To 1 of 255, and nearly all values exactly."""
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
        Sampling("unipc", 61, 1.0),  # one of the numbers of steps that "trailing" rounds to one more
    ],
    ids=str,
)
def test_pictures_equal_the_pytorch_path(sampling):
    assert_same_pictures(WEIGHTS, PROMPTS, SEEDS, sampling)


@pytest.mark.slow
def test_two_hundred_pictures_equal_the_pytorch_path():
    from ldm_tutorial.curios import plain
    from ldm_tutorial.measure.pictures import expected_prompts, free_wording

    plainly = [plain(*wanted) for wanted in expected_prompts("all", 100)]
    freely = [row["prompt"] for row in free_wording("dev")[:100]]
    ways = [
        DEFAULT_SAMPLING,
        Sampling("ddim", 20),
        Sampling("ddim", 12, 5.0, negative_prompt="a blue table"),
        Sampling("unipc", 20, 3.0, (0.0, 0.75), negative_prompt="wood"),
        Sampling("unipc", 12, 7.5),
    ]
    models, engine = load_models(WEIGHTS, "cpu"), Engine(threads=1)
    seeds = iter(range(200))
    for k, sampling in enumerate([*ways, *ways]):  # each with prompts like the captions, and with prompts of people's own
        prompts = [*plainly, *freely][20 * k : 20 * (k + 1)]
        chosen = [next(seeds) for _ in prompts]
        assert_alike(engine.sample(prompts, chosen, sampling), sample(models, prompts, chosen, sampling, progress=False))


def test_a_wrong_prompt_gives_another_picture():
    engine = Engine(threads=1)
    one, other = (engine.sample([p], [7], steps=4).astype(int) for p in PROMPTS)
    assert np.abs(one - other).mean() > 5


IMPORTED = """
import json, sys

at_first = set(sys.modules)  # what the installation itself loads
from ldm_tutorial.engine import Engine

Engine(threads=1).sample(["a mug"], [1], steps=2)
found = set()
for name in set(sys.modules) - at_first:
    file = getattr(sys.modules[name], "__file__", None) or ""
    if "site-packages" in file:
        found.add(name.split(".")[0])
print(json.dumps(sorted(found)))
"""


def test_what_of_others_it_imports():
    """These four libraries and no more: neither torch nor diffusers nor transformers."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
    imported = [name for name in json.loads(done.stdout) if name != "ldm_tutorial"]
    assert imported == ["numpy", "onnxruntime", "tokenizers", "tqdm"], done.stderr


# --- export ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    """The tiny random model, exported: its U-Net's weights in several files, its text encoder's in two variants."""
    from ldm_tutorial.engine.export import export

    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(tiny_folder, folder)
    unet = load_models(folder, "cpu").unet
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.half().save_pretrained(folder / "unet", max_shard_size="200KB")
    weights = folder / "text_encoder" / "model.safetensors"
    shutil.copy(weights, weights.with_name("model.fp16.safetensors"))
    write_checksums(folder)
    export(folder, progress=False)
    return folder


def shared(graph) -> dict[str, int]:
    """How many tensors of a graph lie in each file beside it."""
    import onnx

    files = []
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        files += [entry.value for entry in tensor.external_data if entry.key == "location"]
    return dict(Counter(files))


def test_any_saved_model_can_be_exported(exported):
    assert not missing(exported)
    assert list(shared(exported / "text_encoder" / "model.onnx")) == ["model.safetensors"], "of the variant that is loaded"
    assert set(shared(exported / "unet" / "model.onnx")) == {p.name for p in exported.glob("unet/*.safetensors")}
    assert len(shared(exported / "unet" / "model.onnx")) > 1
    assert_same_pictures(exported, PROMPTS, SEEDS, Sampling("ddim", 4))
    assert_same_pictures(exported, PROMPTS[:1], SEEDS[:1], Sampling("unipc", 4))


@pytest.mark.slow
def test_the_shipped_graphs_are_what_the_export_makes(tmp_path):
    """Made again, the graphs are of as many operations and compute the same; and they hold no second copy of the weights."""
    import onnx
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
        operations, of_shipped = (
            Counter(node.op_type for node in onnx.load(f / file, load_external_data=False).graph.node)
            for f in (folder, WEIGHTS)
        )
        assert operations == of_shipped
        assert shared(folder / file) == shared(WEIGHTS / file)
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
    assert open_engine("auto", folder, Sampling()) is None
    with pytest.raises(UserError, match="ldm export"):
        Engine(folder)


def test_settings_that_are_no_settings_are_said(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    (folder / "engine.json").write_text("{")
    for choice in ("auto", "onnx"):
        (folder / "checksums.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match="engine.json' can't be read: `ldm export"):
            open_engine(choice, folder, Sampling())


def test_what_can_not_be_exported_is_said(tiny_folder, tmp_path):
    from ldm_tutorial.engine.export import export

    with pytest.raises(UserError, match="is no folder: a checkpoint of the hub"):
        export("someone/model")
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "checksums.json").unlink()
    EDMEulerScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EDMEulerScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="EDMEulerScheduler.*can't be exported"):
        export(folder)


def test_a_network_that_can_not_be_exported_is_said(tmp_path, monkeypatch):
    from ldm_tutorial.engine import export

    def refuse(*_, **__):
        raise torch.onnx.OnnxExporterError("no such operation\nand more")

    layer, inputs = torch.nn.Linear(20, 20), {"x": torch.zeros(2, 20)}
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(UserError, match="2 GB itself"):
        export.export_graph(layer, inputs, [], tmp_path / "a.onnx")
    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(UserError, match=r"does not export this network \(no such operation\)"):
        export.export_graph(layer, inputs, [], tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_torch_can_not_use_is_none(monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(commands, "DRIVERS", (str(tmp_path / "nvidia[0-9]*"),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for built, usable in (("2.9.0", True), ("2.9.0+cu128", True), ("2.9.0+cpu", False)):
        monkeypatch.setattr(commands, "version", lambda name, built=built: built)
        assert commands.torch_has_cuda() == usable
    monkeypatch.setattr(commands, "version", lambda name: "2.9.0")
    assert open_engine("auto", WEIGHTS, Sampling()) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not commands.torch_has_cuda()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia0").unlink()
    assert not commands.torch_has_cuda()


def test_steps_beyond_the_schedule_are_refused():
    engine = Engine(threads=1)
    leading = {"timestep_spacing": "leading", "steps_offset": 1}
    engine.settings["schedulers"] = {name: config | leading for name, config in engine.settings["schedulers"].items()}
    with pytest.raises(UserError, match="would begin at timestep 1000 of 1000: give fewer"):
        engine.sample(["a mug"], [1], Sampling("ddim", 1000))


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
