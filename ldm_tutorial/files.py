"""Files that are whole or not there at all, the checksums that prove it, and what a disk says when it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

CHECKSUMS = "checksums.json"
WEIGHTS = Path(__file__).parent / "weights" / "curios-64"  # the shipped model

# What libraries that raise no OSError say of a disk: safetensors and tokenizers are written in Rust, torch in C++.
REFUSALS = "no space left on device|read-only file system|permission denied|disk quota exceeded|file too large"


def cache_folder() -> Path:
    """``$LDM_TUTORIAL_CACHE``, else ``~/.cache/ldm_tutorial``; a folder among the temporary files for a user without a home."""
    named = os.environ.get("LDM_TUTORIAL_CACHE")
    if named:
        return Path(named).expanduser()
    try:
        return Path.home() / ".cache" / "ldm_tutorial"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ldm_tutorial-{os.getuid()}"


def disk_reason(error: BaseException) -> str | None:
    """Why a disk refused to write or read, or None where an error is about something else."""
    if isinstance(error, UserError):  # said already
        return None
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = re.search(REFUSALS, str(error), re.IGNORECASE)
    return found[0] if found else None


@contextmanager
def disk_errors(place: str | Path, cure: str) -> Iterator[None]:
    """Around writing to ``place``: where the disk refuses, one sentence that names the place, and ``cure``, how to move it.

    Raises:
        UserError: for a disk that is full, read-only, or refuses for another reason.
    """
    try:
        yield
    except Exception as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        raise UserError(f"Can't write to {str(place)!r} ({reason}): free some space there, or {cure}.") from None


def check_place(path: str | Path) -> None:
    """Whether a file or folder can be made at ``path``, with the folders above it. Nothing is made.

    Raises:
        UserError: for a name that no file can have, a file where a folder is needed, or no right to write.
    """
    place = Path(path).absolute()
    missing = True
    while missing:
        try:
            os.stat(place)
            missing = False
        except FileNotFoundError:
            place = place.parent
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"Can't use {str(path)[:80]!r} ({reason}): choose another place.") from None
    if not os.access(place, os.W_OK):
        raise UserError(f"Can't write {str(path)!r}: choose a folder that you may write to.")


def check_utf8(path: str | Path) -> None:
    """Whether the name of a model's folder, from the top on, is UTF-8 text.

    Raises:
        UserError: when it is not: safetensors, tokenizers and ONNX Runtime can't open such a place.
    """
    name = str(Path(path).absolute())
    if any("\udc80" <= letter <= "\udcff" for letter in name):
        raise UserError(f"{name!r} is not UTF-8 text, and models can't be read from there: rename it, or name a link to it.")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A scratch name beside ``path`` to write to. It becomes ``path`` when all went well and is removed when not."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` to fill. It becomes ``path``, and what was there goes, when all went well; it is removed
    when not."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if path.exists():
            os.replace(path, old)
        os.replace(scratch, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as JSON, whole or not at all."""
    with atomic_write(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json``: the SHA-256 of every file of a folder, {relative path: hex digest}."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {p.relative_to(folder).as_posix(): sha256(p) for p in files})


def read_checksums(folder: Path, start: str = "") -> dict[str, str]:
    """What ``checksums.json`` says of the files whose names begin with ``start``: {name: hex digest}.

    Raises:
        OSError: when there is no checksums.json.
        ValueError: when it can't be read, or names no such file.
    """
    sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    if not isinstance(sums, dict):
        raise ValueError("not a table of names and digests")
    wanted = {name: str(digest) for name, digest in sums.items() if name.startswith(start)}
    if not wanted:
        raise ValueError(f"nothing in it begins with {start!r}")
    return wanted


def verify_checksums(folder: Path, start: str = "") -> dict[str, str]:
    """What is wrong with a folder's files, as far as their names begin with ``start``: {name: "missing", "cut short" or
    "altered"}, empty when all is well. Raises what :func:`read_checksums` does."""
    found = {}
    for name, digest in read_checksums(folder, start).items():
        path = folder / name
        if not path.is_file():
            found[name] = "missing"
        elif sha256(path) != digest:
            found[name] = "cut short" if _is_cut_short(path) else "altered"
    return found


def _is_cut_short(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return path.stat().st_size == 0
    return weights_fault(path) == "cut short"


def weights_fault(path: Path) -> str | None:
    """What can be seen to be wrong with a safetensors file, if anything. It says how long it is: 8 bytes with the length of
    its header, the header, the tensors."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            return "a pointer of git-lfs in place of the file"
        header_end = 8 + int.from_bytes(start[:8], "little")
        if header_end > size:
            return "cut short" if start[8:9] in (b"", b"{") else "no safetensors file"
        file.seek(8)
        try:
            header = json.loads(file.read(header_end - 8))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            end = header_end + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "no safetensors file"
    if size == end:
        return None
    return "cut short" if size < end else f"{size - end:,} bytes too long"
