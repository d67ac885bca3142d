"""The exercises of notebook 01, pictures as numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..curios.dataset import draw, scene_at
from ..curios.materials import MATERIALS, Surface
from ..curios.render import Scene
from ..errors import UserError
from ..images import to_model
from .exercise import Build, Find, Mistake, Number, describe, time_limit


def _bytes(*shape: int, seed: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def _normalise(images):
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


normalise = Build(
    "1.1",
    right=_normalise,
    cases=[
        {"images": torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)},
        {"images": _bytes(2, 3, 4, 3, seed=1)},
        {"images": _bytes(1, 3, 3, 3, seed=2)},
    ],
    mistakes=[
        Mistake(
            "the numbers go from 0 to 1, where they should go from -1 to 1", lambda images: images.permute(0, 3, 1, 2) / 255
        ),
        Mistake(
            "the numbers go from -0.5 to 0.5: the range from -1 to 1 is 2 wide",
            lambda images: images.permute(0, 3, 1, 2) / 255 - 0.5,
        ),
        Mistake(
            "the pixels were divided by 128, so that white is a little below 1: the brightest pixel is 255",
            lambda images: images.permute(0, 3, 1, 2) / 128 - 1,
        ),
        Mistake(
            "the numbers were only given another shape, which mixes pixels and channels: permute moves the axis of the channels",
            lambda images: images.reshape(len(images), 3, *images.shape[1:3]) / 127.5 - 1,
        ),
        Mistake("height and width changed places on the way", lambda images: images.permute(0, 3, 2, 1) / 127.5 - 1),
        Mistake(
            "the channels are still the last axis, where they should come right after the batch",
            lambda images: images / 127.5 - 1,
        ),
        Mistake(
            "the pixels were multiplied while they were still bytes, which begin again at 0 after 255: make them floats first",
            lambda images: (images * 2).permute(0, 3, 1, 2) / 255 - 1,
        ),
        Mistake("black and white changed places", lambda images: 1 - images.permute(0, 3, 1, 2) / 127.5),
    ],
)


def _mean_picture(images):
    return images.double().mean(0).round().to(torch.uint8)


def _sum_of_bytes(images):
    total = images[0]
    for image in images[1:]:
        total = total + image
    return total


mean_picture = Build(
    "1.2",
    right=_mean_picture,
    given=lambda images: _sum_of_bytes(images) // len(images),
    cases=[
        {"images": torch.tensor([[[[10, 100, 200]]], [[[20, 100, 250]]], [[[20, 101, 255]]]], dtype=torch.uint8)},
        {"images": _bytes(5, 4, 6, 3, seed=3)},
    ],
    mistakes=[
        Mistake(
            "sums above 255 are now right, but the mean is still rounded down, which makes pictures darker: 16.7 should become 17",
            lambda images: images.double().mean(0).to(torch.uint8),
        ),
        Mistake(
            "the mean is now rounded, but the sum is still made of bytes, which begin again at 0 after 255",
            lambda images: (_sum_of_bytes(images).double() / len(images)).round().to(torch.uint8),
        ),
        Mistake(
            "each picture was divided before they were added up, and what was rounded away each time is lost",
            lambda images: torch.stack([image // len(images) for image in images]).sum(0).to(torch.uint8),
        ),
        Mistake(
            "the result is a picture of floats, where bytes (torch.uint8) are asked for", lambda images: images.double().mean(0)
        ),
        Mistake(
            "the pictures were added up and not divided by their number",
            lambda images: images.double().sum(0).clamp(max=255).to(torch.uint8),
        ),
        Mistake("this is the median of the pictures, not their mean", lambda images: images.median(0).values),
    ],
)

megabytes = Number(
    "1.3",
    value=49.152,
    within=0.3,
    because="64 x 64 places x 3 channels x 4 bytes make 49,152 bytes a picture, and a thousand of them 49 megabytes",
    mistakes={
        12.288: "a number took one byte: a float32 takes four",
        16.384: "one channel was counted: a colour picture has three",
        4.096: "the places were counted: each has three numbers of four bytes",
        24.576: "a number took two bytes, as in half precision: a float32 takes four",
        98.304: "a number took eight bytes: a float32 takes four",
        393.216: "bits were counted: a byte has eight of them",
        46.875: "a megabyte was counted as 1,048,576 bytes: here it is 1,000,000",
        0.049152: "one picture was counted: there are a thousand",
        49152: "kilobytes were counted: a megabyte has a thousand of them",
    },
)


def draw_in(material: Callable[[Tensor], Tensor], *objects: str) -> Tensor:
    """Objects of Curios in a material of one's own, which gives points [3, R] colours [3, R]: bytes [N, 64, 64, 3]."""
    name = "your own"
    MATERIALS[name] = lambda hits: Surface(material(hits.p).to(hits.p))
    try:
        return draw([Scene(thing, name, "grey") for thing in objects])[0]
    finally:
        del MATERIALS[name]


def _fault(material: object) -> str | None:
    if not callable(material):
        return f"my_material should be a function, and it is {describe(material)}"
    points = 2 * torch.rand(3, 2000, generator=torch.Generator().manual_seed(0)) - 1
    with time_limit():
        colours = material(points.clone())
    if colours is None:
        return "my_material gives nothing: end it with a line that begins with return"
    if not isinstance(colours, Tensor) or colours.shape != points.shape:
        shape = list(colours.shape) if isinstance(colours, Tensor) else describe(colours)
        return f"for points [3, 2000] colours [3, 2000] are expected, and my_material gives {shape}"
    if not colours.isfinite().all() or colours.min() < 0 or colours.max() > 1:
        return f"colours go from 0 to 1, and these go from {colours.min():.2f} to {colours.max():.2f}"
    if not torch.equal(colours, material(points.clone())):
        return "the same points got other colours the second time: a material must depend on the place alone"
    if colours.float().std(dim=1).max() < 0.05:
        return "this material has the same colour everywhere: let it depend on the place"
    draw_in(material, "mug")
    return None


my_material = Find(
    "1.4", fault=_fault, because="your material has a colour for every place, and the renderer can draw any object in it"
)


def write_pictures(folder: Path | str) -> Path:
    """Seven renders of Curios as files of other sizes and kinds, in place of a folder of one's own; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, _ = draw([scene_at("validation", index)[0] for index in range(3, 220, 36)], size=192)
    for k, image in enumerate(images.numpy()):
        picture = Image.fromarray(image)
        if k % 2:
            picture = picture.crop((0, 16, 192, 176))  # 192 wide, 160 high
        picture.save(folder / f"picture-{k}.{'jpg' if k % 3 else 'png'}")
    (folder / "notes.txt").write_text("No picture: a folder of one's own holds such files too.", encoding="utf-8")
    return folder


@cache
def _four() -> Tensor:
    """Four renders, bytes [4, 64, 64, 3], each with a bright corner, so that none looks alike when turned or mirrored."""
    images, _ = draw([scene_at("validation", index)[0] for index in (13, 48, 128, 150)])
    images[:, 4:24, 2:36] = torch.tensor([250, 120, 0], dtype=torch.uint8)
    return images


def _write_cases(folder: Path) -> tuple[list[str], Tensor]:
    """Files that are easy to read wrongly, with their names in order, and the pictures that they hold, [4, 3, 64, 64]."""
    images = _four()
    exact, wide, large, turned = (Image.fromarray(image) for image in images.numpy())
    sheet = Image.new("RGB", (112, 64), "magenta")  # what lies beside the square in the middle
    sheet.paste(wide, (24, 0))
    tag = Image.Exif()
    tag[0x0112] = 3  # stored upside down: "turn me by 180 degrees"
    # Written in another order than that of the names, and with a file that is no picture between the others.
    sheet.save(folder / "b-wide.png")
    turned.rotate(180).save(folder / "e-turned.jpg", quality=95, exif=tag)
    exact.save(folder / "a.png")
    large.resize((128, 128), Image.Resampling.NEAREST).save(folder / "d-large.png")
    (folder / "c-notes.txt").write_text("no picture", encoding="utf-8")
    return ["a.png", "b-wide.png", "d-large.png", "e-turned.jpg"], to_model(images)


NEAR = 0.06  # mean difference of pixels from -1 to 1: what resizing and JPEG change is less, another picture far more


def _differ(x: Tensor, y: Tensor) -> float:
    return (x - y).abs().mean().item()


def _fault_of_picture(name: str, x: Tensor, expected: Tensor) -> str | None:
    """What is wrong with one of the pictures that were read."""
    if _differ(x, expected) < NEAR:
        return None
    if _differ(x.flip(1, 2), expected) < NEAR and name.startswith("e"):
        return (
            f"{name} stands on its head: it is stored upside down, with a note (EXIF) that says so, and load_picture turns it"
        )
    if _differ(x.flip(0), expected) < NEAR:
        return "red and blue changed places"
    if _differ(x.transpose(1, 2), expected) < NEAR:
        return "height and width changed places: permute(0, 3, 1, 2) only moves the channels"
    if name.startswith("b"):
        return f"{name} is wider than high, and it was squeezed, or another part than its centre was cut out: to_square cuts the centre out"
    return f"{name} came out as another picture: are the axes moved with permute, and not with reshape?"


def _fault_of_pictures(read: object) -> str | None:
    if not callable(read):
        return f"read_folder should be a function, and it is {describe(read)}"
    with tempfile.TemporaryDirectory() as place:
        names, expected = _write_cases(Path(place))
        try:
            with time_limit():
                x = read(place)
        except UserError as error:
            if "No such file" in str(error):
                return "read_folder looks for a file by its name alone, and its folder is missing: Path(folder).iterdir() gives whole paths"
            return "read_folder stopped at a file that is no picture: load_picture raises a UserError there, which a try around it can catch"
        except (RuntimeError, ValueError) as error:
            if any(words in str(error) for words in ("non-empty TensorList", "at least one array")):
                return "read_folder read none of the pictures: either the loop keeps none of them, or it looks for each by its name alone, without its folder"
            raise
        except AttributeError as error:
            if "'numpy.ndarray'" in str(error):
                return (
                    "to_square gives a NumPy array, and it was used where a tensor is needed: torch.from_numpy makes one of it"
                )
            raise
    if x is None:
        return "read_folder gives nothing: end it with a line that begins with return"
    if isinstance(x, (list, tuple)) and len(x) and all(isinstance(part, Tensor) for part in x):
        return "read_folder gives a list of tensors: torch.stack, or torch.cat, makes one tensor of them"
    if not isinstance(x, Tensor):
        return f"a tensor [N, 3, 64, 64] is expected, and read_folder gives {describe(x)}"
    if list(x.shape) == [len(names), 64, 64, 3]:
        return "the channels are still the last axis: models read [N, 3, 64, 64]"
    if x.shape[:1] != (len(names),):
        return f"the folder held {len(names)} pictures, and read_folder gives a tensor of shape {list(x.shape)}"
    if x.shape != expected.shape:
        return f"for {len(names)} pictures the shape {list(expected.shape)} is expected, and read_folder gives {list(x.shape)}"
    if not x.is_floating_point() or x.max() > 1.01:
        return "the numbers go up to 255, where models read floats from -1 to 1: to_model does that for a batch of bytes"
    if x.min() > -0.01:
        return "the numbers go from 0 to 1, where models read -1 to 1"
    if x.max() < -0.9:
        return "all numbers are near -1: bytes are brought to -1 to 1 once, and this was done twice"
    x = x.detach().cpu().float()
    near = torch.zeros(len(x), len(expected), dtype=torch.bool)  # [4 read, 4 expected]
    for i, one in enumerate(x):
        for j, other in enumerate(expected):
            near[i, j] = _differ(one, other) < NEAR
    if not near.diagonal().all() and near.any(0).all() and near.any(1).all():
        return "the pictures stand in another order than the names of their files: sort them"
    if _differ(x[0], expected[0]) < NEAR and any(_differ(x[i], expected[0]) < NEAR for i in range(1, len(x))):
        return "the first picture stands in several places: does the loop append the picture of its own file?"
    faults = [_fault_of_picture(*one) for one in zip(names, x, expected, strict=True)]
    return next((fault for fault in faults if fault), None)


read_folder = Find(
    "1.5",
    fault=_fault_of_pictures,
    because="your function reads every picture of a folder, upright and square, and leaves out what is no picture",
)
