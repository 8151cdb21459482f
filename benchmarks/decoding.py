"""How many of a folder's images are read, and as Pillow reads them; and the memory that many at once take.

    pip download --no-binary pillow --no-deps pillow && tar xf pillow-*.tar.gz
    python benchmarks/decoding.py pillow-*/Tests/images

Every file is decoded at its own size and compared with Pillow's own conversion to RGBA on white. Where both read it and differ by more than two
levels it is named, as is every file that is not read, with the reason. Any exception but `Unreadable` ends the script.
"""

from __future__ import annotations

import argparse
import io
import re
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from aegen.data import decode, tiff_page
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bombs", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.bombs:
        bombs(given.bombs, given.folder)
        return
    compare(given.folder)
    for count in (1, 8):
        memory(count)


if __name__ == "__main__":
    main()
