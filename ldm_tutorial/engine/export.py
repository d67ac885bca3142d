"""`ldm export`: the networks of a saved model as ONNX graphs, without a second copy of their weights.

A graph's large tensors stay in the ``.safetensors`` file beside it: ONNX keeps a tensor as (file, offset, length), and a
safetensors file is raw tensors behind a header. What is stored in half precision is cast when the graph is loaded.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..checkpoints import load_models
from ..errors import UserError
from ..files import CHECKSUMS, atomic_write, write_checksums, write_json
from ..models import Models
from ..sampling import build_sampler
from ..storage.folders import CLASSES, choose_weights, weight_files
from ..storage.schedules import REFUSALS
from .engine import GRAPHS, SETTINGS
from .steps import SAMPLERS

SMALL = 256  # numbers: what is smaller stays in the graph
LARGEST = 1_900_000_000  # bytes of weights in the graph itself


class _UNet(nn.Module):
    def __init__(self, models: Models):
        super().__init__()
        self.unet = models.unet

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.unet(sample, timestep, encoder_hidden_states).sample


class _TextEncoder(nn.Module):
    def __init__(self, models: Models):
        super().__init__()
        self.text_encoder = models.text_encoder

    def forward(self, input_ids):
        return self.text_encoder(input_ids)[0]


class _Decoder(nn.Module):
    def __init__(self, models: Models):
        super().__init__()
        self.vae = models.vae

    def forward(self, latents):
        shift = self.vae.config.get("shift_factor") or 0
        return self.vae.decode(latents / self.vae.config.scaling_factor + shift).sample


def export(folder: str | Path, progress: bool = True) -> list[Path]:
    """Write the graphs and ``engine.json`` into a model's folder; returns what was written.

    Raises:
        UserError: when the export's libraries are missing, the folder holds no model or can't be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("Exporting needs onnx and onnxscript: `pip install 'ldm-tutorial[export]'`.") from None
    from tqdm.auto import tqdm

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is no folder: a checkpoint of the hub can be exported once its files are in one.")
    models = load_models(folder, "cpu")
    _, chosen = choose_weights(weight_files(folder), CLASSES) or ("", [])
    alphas_cumprod, schedulers = offered_samplers(models)
    if not schedulers:
        raise UserError(
            f"{folder} has a {type(models.scheduler).__name__}, whose noise schedule neither of the engine's samplers "
            f"({', '.join(SAMPLERS)}) can take: it can't be exported."
        )
    states = models.encode_text(["a mug", ""])
    latents = torch.zeros(2, *models.latent_shape())
    jobs = {
        "text_encoder": (_TextEncoder(models), {"input_ids": models.tokenize(["a mug", ""])}, "text_encoder"),
        "unet": (
            _UNet(models),
            {"sample": latents, "timestep": torch.tensor(500), "encoder_hidden_states": states},
            "unet",
        ),
        "decoder": (_Decoder(models), {"latents": latents}, "vae"),
    }
    written = []
    for name, (network, inputs, part) in tqdm(jobs.items(), desc="export", disable=not progress):
        target = folder / GRAPHS[name]
        files = [folder / file for file in chosen if file.startswith(f"{part}/")]
        export_graph(network.eval(), inputs, files, target)
        written.append(target)
    settings = {
        "latent_shape": list(models.latent_shape()),
        "model_max_length": models.tokenizer.model_max_length,
        "pad_token_id": models.tokenizer.pad_token_id,
        "schedulers": schedulers,
        "alphas_cumprod": [float(a) for a in alphas_cumprod],
    }
    write_json(folder / SETTINGS, settings)
    if not (folder / "tokenizer" / "tokenizer.json").exists():
        models.tokenizer.backend_tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    if (folder / CHECKSUMS).exists():
        write_checksums(folder)
    return [*written, folder / SETTINGS]


def offered_samplers(models: Models) -> tuple[np.ndarray, dict[str, dict]]:
    """The schedule's alphas_cumprod [T], and {sampler: its configuration} for those that compute the same in numpy.

    A configuration is that of ``build_sampler``, so that a picture of the engine is the one that PyTorch would make.
    """
    try:
        alphas_cumprod = build_sampler(models, "ddim", 20).alphas_cumprod.numpy()
    except UserError:
        return np.zeros(0), {}
    found = {}
    for name in SAMPLERS:
        try:
            theirs = build_sampler(models, name, 20)
        except UserError:
            continue
        config = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
        if steps_agree(SAMPLERS[name](config, alphas_cumprod, 20), theirs):
            found[name] = config
    return alphas_cumprod, found


def steps_agree(ours, theirs) -> bool:
    """Whether a sampler in numpy takes the same steps as one of diffusers', for predictions drawn at random."""
    if ours.timesteps.tolist() != theirs.timesteps.tolist():
        return False
    rng = np.random.default_rng(0)
    z = rng.standard_normal((1, 4, 8, 8)).astype(np.float32)
    for i, t in enumerate(theirs.timesteps):
        predicted = rng.standard_normal(z.shape).astype(np.float32)
        with np.errstate(all="ignore"):  # what differs may divide by zero
            mine = ours.step(i, predicted, z)
        try:
            z = theirs.step(torch.from_numpy(predicted), t, torch.from_numpy(z)).prev_sample.numpy()
        except REFUSALS:
            return False
        scale = max(1, np.abs(z).max())
        if not np.allclose(mine / scale, z / scale, atol=1e-5):
            return False
    return True


def export_graph(network: nn.Module, inputs: dict[str, torch.Tensor], files: list[Path], target: Path) -> None:
    """Export one network, for any batch size, to a graph whose weights are those of safetensors ``files`` beside it."""
    import onnx

    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} if value.ndim else {} for name, value in inputs.items()}
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.onnx"
        try:
            torch.onnx.export(
                network, tuple(inputs.values()), whole, input_names=list(inputs), dynamic_shapes=tuple(shapes.values()),
                dynamo=True, verbose=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            said = str(error).strip().splitlines()[0]
            raise UserError(f"{target} can't be made, torch does not export this network ({said}): PyTorch runs it.") from error
        model = onnx.load(whole)
    for file in files:  # a large network's weights may lie in several
        share_weights(model, file)
    unshared = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if unshared > LARGEST:
        raise UserError(
            f"{target} can't be made: {unshared / 1e9:.1f} GB of the weights are stored as neither float16 nor float32, "
            "and a graph holds no more than 2 GB itself."
        )
    for node in model.graph.node:  # where each operation came from: megabytes, and names of this machine's files
        del node.metadata_props[:]
        node.doc_string = ""
    with atomic_write(target) as path:
        onnx.save(model, path)


def share_weights(model, file: Path) -> int:
    """Let the graph's large tensors point into a safetensors file, with a Transpose and a Cast where needed. Returns how many
    were found there; the others stay in the graph."""
    import onnx
    from onnx import helper, numpy_helper

    stored, start = read_safetensors(file)
    by_digest = {}
    for name, (_, values) in stored.items():
        as_floats = values.astype(np.float32)
        by_digest[as_floats.shape, as_floats.tobytes()] = name, False
        if as_floats.ndim == 2:
            transposed = np.ascontiguousarray(as_floats.T)
            by_digest.setdefault((transposed.shape, transposed.tobytes()), (name, True))

    found, nodes = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        if tensor.data_location == onnx.TensorProto.EXTERNAL:  # found in another file
            continue
        values = numpy_helper.to_array(tensor)
        name, turned = by_digest.get((values.shape, values.tobytes()), (None, False))
        if name is None:
            continue
        entry, _ = stored[name]
        half = entry["dtype"] == "F16"
        pointer = onnx.TensorProto(name=f"{name}.stored", dims=entry["shape"], data_location=onnx.TensorProto.EXTERNAL)
        pointer.data_type = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
        begin, end = entry["data_offsets"]
        for key, value in (("location", file.name), ("offset", start + begin), ("length", end - begin)):
            pointer.external_data.add(key=key, value=str(value))
        steps = ([("Transpose", {"perm": [1, 0]})] if turned else []) + [("Cast", {"to": onnx.TensorProto.FLOAT})]
        current = pointer.name
        for k, (operation, attributes) in enumerate(steps):
            result = tensor.name if k + 1 == len(steps) else f"{tensor.name}.{operation}"
            nodes.append(helper.make_node(operation, [current], [result], name=f"{tensor.name}.{operation}", **attributes))
            current = result
        found.append((tensor, pointer))
    pointers = {}
    for tensor, pointer in found:
        model.graph.initializer.remove(tensor)
        pointers[pointer.name] = pointer
    model.graph.initializer.extend(pointers.values())
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return len(found)


def read_safetensors(file: Path) -> tuple[dict, int]:
    """{name: (entry of the header, values)} of a safetensors file, and where its tensors begin in the file."""
    kinds = {"F16": np.float16, "F32": np.float32}
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    stored = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in kinds:
            begin, end = entry["data_offsets"]
            values = np.frombuffer(content[start + begin : start + end], kinds[entry["dtype"]])
            stored[name] = entry, values.reshape(entry["shape"])
    return stored, start
