"""For every test: a cache of renders of its own, one torch thread, no network; and a tiny untrained model to play with."""

import os
import signal

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # read when the libraries are imported
os.environ.pop("LDM_TUTORIAL_PROFILE", None)

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """Ctrl-C interrupts, also where the tests were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def settings(tmp_path_factory):
    import torch

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # all workers share one cache
    os.environ["LDM_TUTORIAL_CACHE"] = str(folder / "renders")
    torch.set_num_threads(1)


@pytest.fixture
def ldm(monkeypatch, capsys):
    """Runs `ldm ...` in this process: (exit status, stdout, stderr)."""
    import sys

    from ldm_tutorial.lab import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ldm", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        return (status or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tokenizer():
    from ldm_tutorial.curios import scene_at
    from ldm_tutorial.curios.vocabulary import common_words
    from ldm_tutorial.text import train_tokenizer

    captions = [scene_at("train", i)[1] for i in range(1500)]
    return train_tokenizer(captions, common_words())


@pytest.fixture(scope="session")
def tiny(tokenizer):
    """(Models, CLIPModel) with random weights and under half a million numbers: as wrong as can be, and fast."""
    import torch
    from transformers import CLIPTextModel

    from ldm_tutorial.autoencoder import build_vae
    from ldm_tutorial.clip import build_clip
    from ldm_tutorial.diffusion import build_scheduler, build_unet
    from ldm_tutorial.models import Models

    torch.manual_seed(0)
    clip = build_clip(tokenizer, width=32, text_layers=1, vision_layers=1)
    text_encoder = CLIPTextModel(clip.config.text_config)
    vae = build_vae(channels=(8, 8, 16))
    vae.register_to_config(scaling_factor=0.7)
    unet = build_unet(channels=(16, 32), text_width=32)
    models = Models(vae, unet, text_encoder, tokenizer, build_scheduler())
    return models.to("cpu").for_inference(), clip.eval()


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """The same, saved. Tests that damage it make a copy first."""
    from ldm_tutorial.checkpoints import save_models

    return save_models(tiny[0], tmp_path_factory.mktemp("tiny") / "model", tiny[1])


PLAIN = """
import sys
sys.modules["ldm_tutorial"] = None  # any import of it fails
import numpy, torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

torch.set_num_threads(1)
folder, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder).to("cuda" if torch.cuda.is_available() else "cpu")
pipe.set_progress_bar_config(disable=True)
prompts = ["an armchair made of avocado on a pink background", "a golden duck"]


def draw(seeds=(7, 8), output_type="np", **options):
    streams = [torch.Generator().manual_seed(s) for s in seeds]
    options = {"num_inference_steps": 5, "generator": streams, "output_type": output_type, **options}
    with torch.no_grad():
        return pipe(prompts, **options).images


found = {
    "guided": draw(guidance_scale=3.0),
    "unguided": draw(guidance_scale=1.0),
    "negative": draw(guidance_scale=3.0, negative_prompt=["a blue table"] * 2),
    "latents": draw(guidance_scale=3.0, output_type="latent").cpu().numpy(),
}
pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
found["ddpm"] = draw(guidance_scale=3.0, output_type="latent").cpu().numpy()
numpy.savez(out, dtypes=[str(m.dtype) for m in (pipe.vae, pipe.unet, pipe.text_encoder)], **found)
"""


@pytest.fixture(scope="session")
def plain(tiny_folder, tmp_path_factory):
    """What `diffusers` alone makes of the tiny folder, in a process that cannot import this package: its pictures (floats
    0..1) and latents by name, and what it printed on stderr."""
    import subprocess
    import sys

    import numpy

    folder = tmp_path_factory.mktemp("plain")
    command = [sys.executable, "-c", PLAIN, str(tiny_folder), str(folder / "found.npz")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with numpy.load(folder / "found.npz") as found:
        return dict(found), done.stderr
