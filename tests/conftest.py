"""For every test: a cache of renders of its own, one torch thread, no network; and a tiny untrained model to play with."""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # read when the libraries are imported
os.environ.pop("LDM_TUTORIAL_PROFILE", None)

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def settings(tmp_path_factory):
    import torch

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # all workers share one cache
    os.environ["LDM_TUTORIAL_CACHE"] = str(folder / "renders")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    from ldm_tutorial.curios import scene_at
    from ldm_tutorial.tokenizer import train_tokenizer

    return train_tokenizer([scene_at("train", i)[1] for i in range(1500)])


@pytest.fixture(scope="session")
def tiny(tokenizer):
    """(Models, CLIPModel) with random weights and under half a million numbers: as wrong as can be, and fast."""
    import torch
    from transformers import CLIPTextModel

    from ldm_tutorial.models import Models, build_clip, build_scheduler, build_unet, build_vae

    torch.manual_seed(0)
    clip = build_clip(tokenizer, width=32, text_layers=1, vision_layers=1)
    text_encoder = CLIPTextModel(clip.config.text_config)
    vae = build_vae(channels=(8, 8, 16))
    vae.register_to_config(scaling_factor=0.7)
    models = Models(vae, build_unet(channels=(16, 32), text_width=32), text_encoder, tokenizer, build_scheduler())
    return models.to("cpu"), clip.eval()


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """The same, saved. Tests that damage it make a copy first."""
    from ldm_tutorial.models import save_models

    return save_models(tiny[0], tmp_path_factory.mktemp("tiny") / "model", tiny[1])
