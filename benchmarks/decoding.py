"""How many of a folder's images are read, and as Pillow reads them; and the memory that many at once take.

    pip download --no-binary pillow --no-deps pillow && tar xf pillow-*.tar.gz
    python benchmarks/decoding.py pillow-*/Tests/images

Every file is decoded at its own size and compared with Pillow's own conversion to RGBA on white. Where both read it and differ by more than two
levels it is named, as is every file that is not read, with the reason. Any exception but `Unreadable` ends the script.

    python benchmarks/decoding.py --damaged 24000 --seed 1

Small JPEGs of all kinds, each with one to three accidents, by simplejpeg and by Pillow: none may end the process, be read where Pillow refuses, or be read
otherwise; a batch is decoded in a process of its own, so that one that is ended is known.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import re
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from aegen.data import decode, jpeg, tiff_page
from aegen.data.decode import SUFFIXES, Target, Unreadable, read

_MAGIC = re.compile(rb"\x89PNG|\xff\xd8|BM|GIF8|II[*+]\0|MM\0[*+]|RIFF....WEBP", re.DOTALL)


def images(folder: Path) -> list[Path]:
    """Files that are images of the formats that are read, by their name or by how they begin."""
    every = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [p for p in every if p.suffix.lower() in SUFFIXES or _MAGIC.match(p.read_bytes()[:16])]


def by_pillow(content: bytes) -> np.ndarray | None:
    """(H, W, 3) on white, or None where Pillow does not read it, or scales it in another way."""
    try:
        with Image.open(io.BytesIO(content), formats=decode._FORMATS) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return None
            rgba = image.convert("RGBA")
            paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return np.asarray(Image.alpha_composite(paper, rgba).convert("RGB")).astype(int)
    except Exception:  # of what is damaged, anything
        return None


def compare(folder: Path) -> None:
    """Count, and name what is not read or is read otherwise."""
    counts = {
        "read": 0,
        "as Pillow reads them": 0,
        "deeper than Pillow's, or not read by it": 0,
        "otherwise": 0,
        "not read": 0,
    }
    begun = time.perf_counter()
    for path in images(folder):
        content, name = path.read_bytes(), path.relative_to(folder)
        try:
            ours = read(content, Target(channels=3)).permute(1, 2, 0).numpy().astype(int)
        except Unreadable as error:
            counts["not read"] += 1
            print(f"  not read: {name}: {error}")
            continue
        counts["read"] += 1
        theirs = by_pillow(content)
        if theirs is None or (content.startswith(tiff_page.MAGIC) and not tiff_page.page(io.BytesIO(content)).usual):
            counts["deeper than Pillow's, or not read by it"] += 1
        elif theirs.shape == ours.shape and np.abs(theirs - ours).max(initial=0) <= 2:
            counts["as Pillow reads them"] += 1
        else:
            counts["otherwise"] += 1
            print(f"  otherwise: {name}: {theirs.shape}, {ours.shape}")
    print(f"{folder.name}: {counts}, {time.perf_counter() - begun:.0f} s")


def small_bomb() -> bytes:
    """11 KB of PNG that are 89 million pixels of one bit, one of whose greys is transparent."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    width, height = 9400, 9500
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", b"\0\0"), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def memory(count: int) -> None:
    """The most that a process grows by while it decodes `count` of those at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(small_bomb())
        command = [sys.executable, __file__, "--bombs", str(count), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{count} × {path.stat().st_size:,} bytes at once: {done.stdout.strip()}")


def jpegs(chance: np.random.Generator) -> list[bytes]:
    """Whole ones: grey and coloured, of all subsamplings, sizes, qualities, baseline and progressive, with restarts."""
    found = []
    for number in range(48):
        shape = tuple(int(n) for n in chance.integers(9, 70, 2)) + (() if number % 4 == 3 else (3,))
        coarse = Image.fromarray(chance.integers(0, 256, shape, np.uint8)).resize((shape[1] * 2, shape[0] * 2))
        options = {
            "quality": int(chance.integers(20, 99)),
            "progressive": number % 3 == 2,
            "restart_marker_rows": number % 2,
        }
        file = io.BytesIO()
        coarse.save(file, "JPEG", **options, **({"subsampling": number % 3} if len(shape) == 3 else {}))
        found.append(file.getvalue())
    return found


def hurt(content: bytes, chance: np.random.Generator) -> bytes:
    """One to three accidents: a bit, a byte, a cut, a block that is lost, doubled or zeroed."""
    raw = bytearray(content)
    for _ in range(int(chance.integers(1, 4))):
        at, size = int(chance.integers(2, max(3, len(raw) - 1))), int(chance.integers(1, 65))
        match int(chance.integers(6)):
            case 0:
                raw[at : at + 1] = bytes([raw[at] ^ 1 << int(chance.integers(8))]) if at < len(raw) else b""
            case 1:
                raw[at : at + 1] = bytes([int(chance.integers(256))])
            case 2 if chance.random() < 0.3:
                del raw[at:]
            case 3:
                del raw[at : at + size]
            case 4:
                raw[at:at] = raw[at : at + size]
            case _:
                raw[at : at + size] = bytes(min(size, len(raw) - at))
    return bytes(raw)


def _both(content: bytes) -> str:
    """What comes of one: by `decode.read`, which goes by simplejpeg where that will, and by the same without it."""
    found: list[Any] = []
    fast, own = jpeg.read(content, Target(), decode.max_pixels()), jpeg.read
    jpeg.read = lambda *_: None  # type: ignore[assignment]
    try:
        found.append(read(content, Target()))
    except Unreadable:
        found.append(None)
    finally:
        jpeg.read = own
    if fast is None:
        return "left to Pillow"
    if found[0] is None:
        return "READ, AND PILLOW REFUSES"
    return "the same" if torch.equal(fast, found[0]) else "OTHERWISE"


def damaged(count: int, seed: int) -> None:
    """Count what comes of damaged JPEGs."""
    chance = np.random.default_rng(seed)
    whole, counts, begun = jpegs(chance), Counter[str](), time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for start in range(0, count, 500):
            some = [hurt(whole[n % len(whole)], chance) for n in range(start, min(count, start + 500))]
            counts.update(
                pool.map(_both, some, chunksize=100)
            )  # a process that is ended breaks the pool, and this script
    print(f"{count:,} damaged JPEGs, seed {seed}: {dict(counts)}, {time.perf_counter() - begun:.0f} s")


def most_held() -> int:
    """MB that this process held at most (Linux; `ru_maxrss` begins with what the parent held)."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) // 1024


def bombs(count: int, path: Path) -> None:
    """What `memory` runs in a process of its own."""
    decode.workers = lambda: 16  # type: ignore[assignment]
    before, begun = most_held(), time.perf_counter()
    _, bad = decode.read_many([path] * count, Target((32, 32)))
    assert not bad, bad
    print(f"{most_held() - before} MB more, {time.perf_counter() - begun:.0f} s")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--damaged", type=int, default=0, help="JPEGs to damage, instead of a folder")
    parser.add_argument("--seed", type=int, default=1, help="of what is damaged")
    parser.add_argument("--bombs", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.damaged:
        damaged(given.damaged, given.seed)
        return
    if given.folder is None:
        parser.error("give a folder, or --damaged")
    if given.bombs:
        bombs(given.bombs, given.folder)
        return
    compare(given.folder)
    for count in (1, 8):
        memory(count)


if __name__ == "__main__":
    main()
