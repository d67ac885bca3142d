"""Sampling: a seed is a picture, whatever the batch, and plain diffusers makes the same one from the same folder."""

import numpy as np
import pytest
import torch

from ldm_tutorial.checkpoints import load_models
from ldm_tutorial.errors import UserError
from ldm_tutorial.sampling import SAMPLERS, compile_unet, generators, initial_latents, sample, sample_latents
from ldm_tutorial.settings import DEFAULT_SAMPLING, PLAIN_SAMPLING, Sampling, adjust

PROMPTS = ["an armchair made of avocado on a pink background", "a golden duck"]
FEW = {"steps": 5, "progress": False}


@pytest.fixture(scope="module")
def models(tiny_folder):
    return load_models(tiny_folder)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_the_shipped_model_draws_what_it_always_drew():
    """To about one of 255 in a few pixels, which other processors round otherwise. New weights need a new number."""
    picture = sample(load_models(), PROMPTS[:1], [7], sampler="ddim", progress=False)
    assert int(picture.sum()) == pytest.approx(1_847_725, abs=500)  # an unsigned sum would wrap below the expected number


def test_pictures(models):
    pictures = sample(models, PROMPTS, [1, 2], **FEW)
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == np.uint8
    assert pictures.std() > 5  # not one flat colour


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_of_a_batch_equals_the_picture_alone(models, sampler):
    prompts, seeds = [*PROMPTS, "", PROMPTS[0]], [5, 6, 7, 2**63 - 1]
    batch = sample(models, prompts, seeds, sampler=sampler, **FEW)
    for k in range(4):
        alone = sample(models, prompts[k : k + 1], seeds[k : k + 1], sampler=sampler, **FEW)
        assert apart(alone[0], batch[k]) <= 1
    reverse = sample(models, prompts[::-1], seeds[::-1], sampler=sampler, **FEW)
    assert apart(reverse[::-1], batch) <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_decides(models, sampler):
    prompts = [PROMPTS[1]] * 3
    a, b, c = sample(models, prompts, [4, 4, 5], sampler=sampler, **FEW)
    assert apart(a, b) <= 1 and apart(a, c) > 50
    again = sample(models, prompts, [4, 4, 5], sampler=sampler, **FEW)
    assert np.array_equal(again, [a, b, c])
    torch.manual_seed(123)  # the global stream of random numbers is neither read nor moved
    before = torch.get_rng_state()
    assert np.array_equal(sample(models, prompts, [4, 4, 5], sampler=sampler, **FEW), again)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_noise_is_standard_normal(models):
    noise = initial_latents(models, generators(range(200)))
    assert noise.shape == (200, 8, 16, 16)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert torch.equal(noise[17:18], initial_latents(models, generators([17])))


@pytest.mark.parametrize(
    "name, options",
    [
        ("guided", {"guidance_scale": 3.0}),
        ("unguided", {"guidance_scale": 1.0}),
        ("negative", {"guidance_scale": 3.0, "negative_prompt": "a blue table"}),
    ],
)
def test_plain_diffusers_makes_the_same_picture(models, plain, name, options):
    found, _ = plain
    theirs = (found[name] * 255).round().astype(np.uint8)
    assert theirs.shape == (2, 64, 64, 3)
    assert apart(sample(models, PROMPTS, [7, 8], PLAIN_SAMPLING, **options, **FEW), theirs) <= 1
    # The same from the same initial latents, given as they are.
    latents = initial_latents(models, generators([7, 8]))
    assert apart(sample(models, PROMPTS, [0, 0], PLAIN_SAMPLING, latents=latents, **options, **FEW), theirs) <= 1


@pytest.mark.parametrize("name, sampler", [("latents", "ddim"), ("ddpm", "ddpm")])
def test_plain_diffusers_makes_the_same_latents(models, plain, name, sampler):
    ours = sample_latents(models, PROMPTS, [7, 8], sampler=sampler, guidance_scale=3.0, **FEW).cpu()
    torch.testing.assert_close(ours, torch.from_numpy(plain[0][name]), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_the_fast_solvers_are_the_librarys(models, tiny_folder, sampler):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(tiny_folder)).to(models.device)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = SAMPLERS[sampler].from_config(pipe.scheduler.config)
    how = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"}
    theirs = pipe(PROMPTS, generator=generators([7, 8]), **how).images.cpu()
    ours = sample_latents(models, PROMPTS, [7, 8], sampler=sampler, **FEW).cpu()
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)
    assert (ours - sample_latents(models, PROMPTS, [7, 8], **FEW).cpu()).abs().max() > 0.01  # another one than DDIM


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
@pytest.mark.parametrize("steps", [1, 2, 14, 15, 20])
def test_the_fast_solvers_end_in_numbers(models, sampler, steps):
    """The last step goes to no noise at all, where log(alpha / sigma) is infinite."""
    z = sample_latents(models, ["a mug"], [1], steps=steps, sampler=sampler, progress=False)
    assert z.isfinite().all() and z.abs().max() < 1e3


def test_the_fast_solvers_need_fewer_steps(models):
    """All solve the same equation: with many steps they agree, and the fast ones are nearer to that with few."""
    how = {"guidance_scale": 1, "progress": False}
    goal = sample_latents(models, PROMPTS, [1, 2], steps=100, **how)
    far = {s: (sample_latents(models, PROMPTS, [1, 2], steps=10, sampler=s, **how) - goal).std() for s in SAMPLERS}
    assert max(far["dpm++"], far["unipc"]) < 0.9 * far["ddim"] < far["ddpm"]


def test_what_is_compared_differs(plain):
    """The equalities above would be empty if prompt, guidance and sampler changed nothing."""
    found, _ = plain
    for a, b in [("guided", "unguided"), ("guided", "negative")]:
        assert np.abs(found[a] - found[b]).max() > 0.02
    assert np.abs(found["latents"] - found["ddpm"]).max() > 0.1


@pytest.fixture
def calls(models, monkeypatch) -> list[tuple]:
    """Batch sizes and timesteps of the U-Net's calls."""
    seen, real = [], models.unet.forward

    def forward(z, t, **rest):
        assert len(rest["encoder_hidden_states"]) == len(z)
        seen.append((len(z), int(t)))
        return real(z, t, **rest)

    monkeypatch.setattr(models.unet, "forward", forward)
    return seen


@pytest.mark.parametrize("scale, rows", [(0.0, 3), (0.5, 3), (1.0, 3), (1.5, 6), (3, 6)])
def test_guidance_at_most_one_costs_half(models, calls, scale, rows):
    sample_latents(models, ["a mug"] * 3, [1, 2, 3], steps=4, sampler="ddim", guidance_scale=scale, progress=False)
    assert [n for n, _ in calls] == [rows] * 4


def test_timesteps_run_from_the_noisiest_end(models, calls):
    sample_latents(models, ["a mug"], [1], steps=4, progress=False)
    assert [t for _, t in calls] == [999, 749, 499, 249]  # "trailing"


@pytest.mark.parametrize("sampler, steps", [("ddim", 7), ("ddpm", 7), ("dpm++", 7), ("unipc", 7), ("ddim", 61), ("ddpm", 103)])
def test_as_many_timesteps_as_steps(models, calls, sampler, steps):
    """For 61 and 103 steps the library's schedulers make one more, at timestep -1, where DDIM and DDPM see pure noise."""
    sample_latents(models, ["a mug"], [1], steps=steps, sampler=sampler, guidance_scale=1, progress=False)
    found = [t for _, t in calls]
    assert len(found) == steps and found[0] == 999 and min(found) >= 0 and len(set(found)) == steps


@pytest.mark.parametrize(
    "interval, rows",
    [
        ((0.0, 1.0), [4, 4, 4, 4, 4]),
        ((0.2, 0.8), [2, 4, 4, 4, 2]),
        ((0.0, 0.5), [4, 4, 2, 2, 2]),
        ((0.4, 0.4), [2, 2, 2, 2, 2]),
    ],
)
def test_no_unconditional_half_outside_the_interval(models, calls, interval, rows):
    z = sample_latents(models, PROMPTS, [1, 2], guidance_interval=interval, **FEW)
    assert [n for n, _ in calls] == rows
    whole = sample_latents(models, PROMPTS, [1, 2], Sampling("unipc"), **FEW)
    none = sample_latents(models, PROMPTS, [1, 2], guidance_scale=1, **FEW)
    assert torch.equal(z, whole) == (interval == (0, 1)) and torch.equal(z, none) == (interval == (0.4, 0.4))


def test_each_text_is_encoded_once(models, monkeypatch):
    seen, real = [], models.text_encoder.forward
    monkeypatch.setattr(models.text_encoder, "forward", lambda ids, **rest: (seen.append(len(ids)), real(ids, **rest))[1])
    z = sample_latents(models, [*PROMPTS, *PROMPTS], [1, 2, 3, 4], **FEW)
    assert seen == [3]  # two prompts and the empty one
    again = sample_latents(models, PROMPTS, [3, 4], **FEW)
    torch.testing.assert_close(z[2:], again, atol=1e-4, rtol=1e-4)


def test_the_default_way(models, calls):
    picture = sample(models, PROMPTS[:1], [1], progress=False)
    assert picture.shape == (1, 64, 64, 3) and len(calls) == DEFAULT_SAMPLING.steps
    assert sum(n for n, _ in calls) == 20  # twelve with the prompt, eight with the empty text


def test_who_names_a_sampler_gets_it_as_papers_have_it():
    assert adjust(DEFAULT_SAMPLING, sampler="ddim") == Sampling("ddim", 20, 3.0, (0.0, 1.0))
    assert adjust(DEFAULT_SAMPLING, sampler="unipc", steps=30) == Sampling("unipc", 30, 3.0, (0.0, 1.0))
    assert adjust(DEFAULT_SAMPLING, steps=30) == Sampling("unipc", 30, 3.0, (0.15, 0.75))
    assert adjust(Sampling("dpm++", 9, 2.0), sampler="ddim") == Sampling("ddim", 9, 2.0)


def test_compiled_models_are_others(models, monkeypatch):
    """What is compiled, and how; the compiler itself is tried by benchmarks/sampler.py: a minute is too long here."""
    compiled, frozen = [], []

    def compile_(function, dynamic=None):
        compiled.append((function, dynamic))

        def call(*inputs, **named):
            frozen.append(torch._inductor.config.freezing)
            return function(*inputs, **named)

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    before = [p.stride() for p in models.unet.parameters()]
    fast = compile_unet(models)
    assert fast.unet is not models.unet and fast.vae is models.vae
    (_, _), (function, dynamic) = compiled  # the first is the trial of the compiler
    assert function.__self__ is fast.unet and dynamic is False
    assert [p.stride() for p in models.unet.parameters()] == before  # as it was
    frozen.clear()
    a, b = (sample_latents(m, PROMPTS, [1, 2], **FEW) for m in (models, fast))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert frozen == [True] * 5 and not torch._inductor.config.freezing  # while the U-Net is called and not longer


def test_no_compiler(models, monkeypatch, tmp_path):
    import torch._inductor.config as config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing that was compiled before
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    torch.compiler.reset()
    if models.device.type == "cuda":
        monkeypatch.setattr(torch, "compile", lambda _: 1 / 0)
    with pytest.raises(UserError, match="install a C\\+\\+ compiler") as error:
        compile_unet(models)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_guidance_moves_away_from_the_negative_prompt(models):
    options = {"prompts": [PROMPTS[0]], "seeds": [3], **FEW}
    free = sample_latents(models, **options)
    steered = sample_latents(models, negative_prompt="a wooden bed on green", **options)
    stronger = sample_latents(models, guidance_scale=8, **options)
    other = sample_latents(models, **{**options, "prompts": [PROMPTS[1]]})
    for latents in (steered, stronger, other):
        assert (latents - free).abs().max() > 0.01
    none = sample_latents(models, negative_prompt=PROMPTS[0], **options)  # away from what it goes to: no guidance at all
    plain = sample_latents(models, guidance_scale=1, **options)
    torch.testing.assert_close(none, plain, atol=1e-3, rtol=1e-3)


def test_each_prompt_draws_its_own_picture(models):
    a, b = (z[None] for z in sample_latents(models, PROMPTS, [3, 3], **FEW))
    torch.testing.assert_close(a, sample_latents(models, PROMPTS[:1], [3], **FEW), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(b, sample_latents(models, PROMPTS[1:], [3], **FEW), atol=1e-4, rtol=1e-4)
    assert (a - b).abs().max() > 0.01


def test_on_step_sees_every_step(models):
    seen = []
    z = sample_latents(models, PROMPTS, [1, 2], on_step=lambda i, t, z: seen.append((i, int(t), z.clone())), **FEW)
    assert [i for i, _, _ in seen] == [0, 1, 2, 3, 4]
    assert [t for _, t, _ in seen] == sorted((t for _, t, _ in seen), reverse=True)
    assert torch.equal(seen[-1][2], z) and not torch.equal(seen[-2][2], z)


def test_one_ddim_step_by_hand(models):
    """Song et al. 2021, eq. 12 with sigma = 0, from v: one step from the noisiest timestep to the clean picture."""
    streams = generators([3])
    z = initial_latents(models, streams)
    a = models.scheduler.alphas_cumprod[999].to(z)
    with torch.no_grad():
        v = models.unet(z, 999, encoder_hidden_states=models.encode_text(["a mug"])).sample
    expected = a.sqrt() * z - (1 - a).sqrt() * v  # alpha is 1 at the end: all that is left is the predicted picture
    found = sample_latents(models, ["a mug"], [3], steps=1, guidance_scale=1, progress=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_progress_is_shown_or_not(models, capsys):
    sample_latents(models, ["a mug"], [1], steps=2, progress=False)
    assert capsys.readouterr() == ("", "")
    sample_latents(models, ["a mug"], [1], steps=2)
    assert "denoise" in capsys.readouterr().err


def test_the_scheduler_is_left_alone(models):
    before = dict(models.scheduler.config)
    for sampler in ("ddpm", "ddim"):
        sample_latents(models, ["a mug"], [1], steps=3, sampler=sampler, progress=False)
    assert dict(models.scheduler.config) == before and len(models.scheduler.timesteps) == 1000


@pytest.mark.parametrize(
    "options, named",
    [
        ({"sampler": "euler"}, "no sampler 'euler'.*ddim, ddpm"),
        ({"guidance_interval": (0.5, 0.2)}, "interval .0.5, 0.2. must be"),
        ({"guidance_interval": (-0.1, 1)}, "0 <= start <= stop <= 1"),
        ({"guidance_interval": (0, 1.5)}, "0 <= start <= stop <= 1"),
        ({"guidance_interval": (float("nan"), 1)}, "interval .nan, 1."),
        ({"seeds": [1]}, "2 prompts need as many seeds, not 1"),
        ({"seeds": [1, 2, 3]}, "2 prompts need as many seeds, not 3"),
        ({"seeds": []}, "2 prompts need as many seeds, not 0"),
    ],
)
def test_bad_calls(models, options, named):
    with pytest.raises(UserError, match=named) as error:
        sample(models, PROMPTS, **{"seeds": [1, 2], **options}, **FEW)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
