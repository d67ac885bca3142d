"""Files that are whole or not there at all, and the checksums that prove it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKSUMS = "checksums.json"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to: what stands there becomes ``path`` when all went well, and goes when not."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    with whole(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def seal(folder: Path) -> None:
    """Write ``checksums.json``: the SHA-256 of every file of a folder, {relative path: hex digest}."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {p.relative_to(folder).as_posix(): sha256(p) for p in files})


def checksums(folder: Path, start: str = "") -> dict[str, str]:
    """What ``checksums.json`` says of the files whose names begin with ``start``: {name: hex digest}.

    Raises:
        OSError: when there is no checksums.json.
        ValueError: when it can't be read, or names no such file.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        wanted = {name: str(digest) for name, digest in sums.items() if name.startswith(start)}
    except AttributeError:
        raise ValueError("not a table of names and digests") from None
    if not wanted:
        raise ValueError(f"nothing in it begins with {start!r}")
    return wanted


def damage(folder: Path, start: str = "") -> dict[str, str]:
    """What is wrong with a folder's files, as far as their names begin with ``start``: {name: "missing", "cut short" or
    "altered"}. Raises what :func:`checksums` does."""
    found = {}
    for name, digest in checksums(folder, start).items():
        try:
            content = (folder / name).read_bytes()
        except OSError:
            found[name] = "missing"
            continue
        if hashlib.sha256(content).hexdigest() != digest:
            found[name] = "cut short" if _is_cut_short(content, name) else "altered"
    return found


def _is_cut_short(content: bytes, name: str) -> bool:
    """A safetensors file says how long it is: 8 bytes with the header's length, the header, the tensors."""
    if not name.endswith(".safetensors"):
        return not content
    header_end = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:header_end])
        return len(content) < header_end + max(t["data_offsets"][1] for k, t in header.items() if k != "__metadata__")
    except (ValueError, KeyError, TypeError):
        return len(content) < header_end
