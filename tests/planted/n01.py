import contextlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ldm_tutorial.errors import UserError
from ldm_tutorial.images import to_model
from ldm_tutorial.notebook.picture_files import load_picture, to_square


def in_numpy(images):
    return torch.from_numpy(np.moveaxis(images.numpy().astype(np.float64), 3, 1) / 255 * 2 - 1)


def by_channels(images):
    floats = (images.to(torch.float32) - 127.5) / 127.5
    return torch.stack([floats[..., channel] for channel in range(3)], dim=1)


def zero_to_one(images):
    return images.movedim(-1, 1).float() / 255


def viewed(images):
    count, height, width, channels = images.shape
    return images.float().view(count, channels, height, width) / 127.5 - 1


def sideways(images):
    return images.transpose(1, 3).float() / 127.5 - 1


def as_bytes(images):
    return (2 * images.permute(0, 3, 1, 2)) / 255.0 - 1


def mean_in_numpy(images):
    return torch.from_numpy(np.rint(images.numpy().mean(axis=0)).astype(np.uint8))


def mean_by_loop(images):
    total = torch.zeros(images.shape[1:], dtype=torch.int32)
    for image in images:
        total += image
    return (total / len(images)).round().byte()


def mean_add_half(images):
    return ((images.int().sum(0) + len(images) // 2) // len(images)).to(torch.uint8)


def floor(images):
    return images.float().mean(0).byte()


def wraps(images):
    total = torch.zeros_like(images[0])
    for image in images:
        total += image
    return (total.float() / len(images)).round().byte()


def parts(images):
    return sum(image // len(images) for image in images)


def rings(points):
    far = points.double().square().sum(0).sqrt()
    wave = 0.5 + 0.5 * torch.sin(20 * far)
    return torch.stack([wave, 0.2 + 0 * wave, 1 - wave])


def read(folder, reader=load_picture, square=lambda image: to_square(image, 64), order=sorted):
    images = []
    for path in order(Path(folder).iterdir()):
        with contextlib.suppress(UserError, UnidentifiedImageError):
            images.append(np.array(square(reader(path))))
    return to_model(torch.from_numpy(np.stack(images)))


def read_by_pillow(folder):
    found = []
    for name in sorted(path.name for path in Path(folder).glob("*") if path.suffix in (".png", ".jpg")):
        image = ImageOps.exif_transpose(Image.open(Path(folder) / name)).convert("RGB")
        square = np.asarray(ImageOps.fit(image, (64, 64))).astype(np.float32)
        found.append(torch.from_numpy(square / 127.5 - 1).permute(2, 0, 1))
    return torch.stack(found)


def stops(folder):
    return to_model(torch.stack([torch.tensor(to_square(load_picture(path), 64)) for path in sorted(Path(folder).iterdir())]))


def until_one_fails(folder):
    """The loop stands inside the try, so it ends at the first file that is no picture."""
    images = []
    with contextlib.suppress(UserError):
        for path in sorted(Path(folder).iterdir()):
            images.append(to_square(load_picture(path), 64))
    return to_model(torch.from_numpy(np.stack(images)))


def by_names(folder, caught=UserError, join=torch.stack):
    images = []
    for name in sorted(path.name for path in Path(folder).iterdir()):
        with contextlib.suppress(caught):
            images.append(torch.from_numpy(to_square(load_picture(name), 64)))
    return to_model(join(images))


RIGHT = {
    "read_folder": [read, read_by_pillow],
    "normalise": [in_numpy, by_channels],
    "mean_picture": [mean_in_numpy, mean_by_loop, mean_add_half],
    "my_material": [rings, lambda p: (p + 1) / 2],
    "megabytes": [49.152, 64 * 64 * 3 * 4 * 1000 / 1e6, 49],
}
WRONG = {
    "read_folder": {
        "stopped at a file that is no picture": stops,
        "the channels are still the last axis": lambda folder: read(folder).permute(0, 2, 3, 1),
        "stands on its head": lambda folder: read(
            folder, reader=lambda path: Image.open(path).convert("RGB"), square=lambda image: ImageOps.fit(image, (64, 64))
        ),
        "it was squeezed": lambda folder: read(folder, square=lambda image: image.resize((64, 64))),
        "sort them": lambda folder: read(folder, order=lambda paths: (lambda a, b, *rest: [a, b, *rest[::-1]])(*sorted(paths))),
        "gives a tensor of shape [2, 3": until_one_fails,
        "read none of the pictures": by_names,
        "its folder is missing": lambda folder: by_names(folder, caught=ZeroDivisionError),
        "torch.from_numpy makes one of it": lambda folder: to_model(
            np.stack([to_square(load_picture(path), 64) for path in sorted(Path(folder).iterdir()) if path.suffix != ".txt"])
        ),
        "this was done twice": lambda folder: read(folder) / 127.5 - 1,
        "from 0 to 1, where": lambda folder: read(folder) / 2 + 0.5,
        "go up to 255": lambda folder: (read(folder) + 1) * 127.5,
        "a list of tensors": lambda folder: list(read(folder)),
        "a tensor of shape [3, 3": lambda folder: read(folder)[:3],
        "red and blue": lambda folder: read(folder).flip(1),
        "height and width": lambda folder: read(folder).transpose(2, 3),
        "and not with reshape": lambda folder: read(folder).permute(0, 2, 3, 1).reshape(4, 3, 64, 64),
        "in several places": lambda folder: read(folder)[:1].expand(4, -1, -1, -1),
    },
    "normalise": {
        "from 0 to 1, where": zero_to_one,
        "gives a numpy array": lambda images: in_numpy(images).numpy(),
        "gives a sparse tensor": lambda images: in_numpy(images).to_sparse(),
        "mixes pixels and channels": viewed,
        "height and width changed places": sideways,
        "still bytes, which begin again": as_bytes,
    },
    "mean_picture": {
        "still rounded down": floor,
        "still made of bytes": wraps,
        "rounded away each time": parts,
        "a picture of floats": lambda images: images.float().mean(0),
    },
    "my_material": {
        "the same colour everywhere": lambda p: torch.full_like(p, 0.5),
        "colours go from 0 to 1": lambda p: torch.sin(9 * p),
        "and my_material gives [2000]": lambda p: p[0].abs(),
        "other colours the second time": lambda p: torch.rand(p.shape),
    },
    "megabytes": {"took one byte": 12.3, "one channel was counted": 16.4, "too high": 1000},
}
