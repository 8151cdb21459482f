"""What `fuzz.py` tries: bad inputs of every kind, each a function of a random generator and nothing else.

A kind of input is a function `(chance, corpus) -> words`: it writes its files into the current folder, which is empty, and gives the command
line that reads them; its first words may be `NAME=value`, for the environment. `corpus` holds good files to begin with (`make_corpus`); they are copied, never changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Words = list[str]
Kind = Callable[[random.Random, Path], Words]
KINDS: dict[str, Kind] = {}

SMALL_NET = ["--arch", "mlp", "--arch.hidden", "[8]", "--latent-dim", "2", "--batch-size", "8"]
ODD_TEXTS = [
    "",
    " ",
    ".",
    "..",
    "/",
    "~",
    "~nobody/x",
    "-",
    "--",
    "*",
    "{0..3}.tar",
    "{.tar",
    "a\nb",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202edetrever",
    "\u2028",
    "\x9b31m",
    "[red]x[/red]",
    "[/]",
    "=cmd()",
    "\\input{x}",
    "<script>x</script>",
    "|`a`|",
    "x" * 300,
    "x" * 70_000,
    "nul\x00",
    "\udcff",
    "é" * 100,
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "http://127.0.0.1:9/x",
    "1e999",
    "NaN",
    "None",
    "true",
    "os:system",
    "./x.py:X",
    "vae+vae",
    "+",
    "vae+",
    "a/b",
]
ODD_NUMBERS: list[Any] = [
    0,
    -1,
    1,
    2,
    3,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**20,
    10**400,
]
ODD_NUMBERS += [0.0, -0.0, 0.5, 1e-30, 1e308, -1e308, 1e-320, math.nan, math.inf, -math.inf]


class Raw(str):
    """Text that stands in JSON as it is, for what Python would not write."""


def kind(function: Kind) -> Kind:
    """Register a kind of input under its name."""
    KINDS[function.__name__.replace("_", "-")] = function
    return function


# ---------------------------------------------------------------------------------------------------- mutations


def damage(chance: random.Random, data: bytes) -> bytes:
    """One to four accidents: bits, bytes, words and blocks that are flipped, lost, doubled, moved or made extreme."""
    raw = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if not raw:
            return bytes(chance.randbytes(chance.randrange(20)))
        # Heads are where lengths and kinds stand.
        at = chance.randrange(min(len(raw), chance.choice([16, 64, 512, len(raw)])))
        size = min(chance.choice([1, 2, 4, 8, 64]), len(raw) - at)
        match chance.randrange(8):
            case 0:
                raw[at] ^= 1 << chance.randrange(8)
            case 1:
                raw[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
            case 2:
                number = chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFE, 0x10000, len(raw)])
                raw[at : at + 4] = struct.pack(chance.choice("<>") + "I", number)
            case 3:
                del raw[at:]
            case 4:
                del raw[at : at + size]
            case 5:
                raw[at:at] = raw[at : at + size] * chance.choice([1, 1, 50])
            case 6:
                to = chance.randrange(len(raw))
                raw[to : to + size] = raw[at : at + size]
            case 7:
                raw[at:at] = chance.randbytes(size)
    return bytes(raw)


def odd_value(chance: random.Random) -> Any:
    """A JSON value that nobody expects."""
    match chance.randrange(8):
        case 0:
            return chance.choice([None, True, False])
        case 1 | 2:
            return chance.choice(ODD_NUMBERS)
        case 3 | 4:
            return chance.choice(ODD_TEXTS)
        case 5:
            return chance.choice([[], {}, [[]], {"": None}, [None] * 5, {"name": "x"}])
        case 6:
            return chance.choice([[1] * 10_000, list(range(100)), {str(i): i for i in range(1000)}])
        case _:
            return chance.choice([Raw("[" * 20_000), Raw("[" * 3000 + "]" * 3000), Raw("9" * 6000), Raw("1e9999")])


def bend(chance: random.Random, tree: Any) -> Any:
    """A copy of a JSON tree in which one to three things are odd: a value, a missing key, one too many, another type."""
    tree = json.loads(json.dumps(tree))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        places = list(_places(tree))
        if not places:
            return odd_value(chance)
        parent, key = chance.choice(places)
        match chance.randrange(6):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[str(chance.choice(ODD_TEXTS))] = odd_value(chance)
            case 2 if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
                parent[key] = chance.choice([parent[key] * 10**6, -parent[key], parent[key] + 1, str(parent[key])])
            case 3:
                other, name = chance.choice(places)
                parent[key] = json.loads(json.dumps(other[name])) if _inside(other, name) else odd_value(chance)
            case _:
                parent[key] = odd_value(chance)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        if not isinstance(value, Raw):
            yield tree, key
            yield from _places(value)


def _inside(parent: Any, key: Any) -> bool:
    return key in parent if isinstance(parent, dict) else isinstance(key, int) and key < len(parent)


def as_json(tree: Any) -> str:
    """JSON, with raw pieces as they are."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, dict):
        return "{" + ",".join(f"{json.dumps(str(k))}:{as_json(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(as_json, tree)) + "]"
    if isinstance(tree, int) and not isinstance(tree, bool) and abs(tree) > 10**100:
        return "1" + "0" * 400
    return json.dumps(tree)


def as_toml(tree: dict[str, Any]) -> str:
    """Tables as TOML, one dotted key a line, with raw pieces as they are."""

    def lines(prefix: str, table: dict[str, Any]) -> Iterator[str]:
        for key, value in table.items():
            name = f"{prefix}.{json.dumps(str(key))}" if prefix else json.dumps(str(key))
            if isinstance(value, dict) and value:
                yield from lines(name, value)
            elif value is not None:
                text = as_json(value)
                text = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}.get(text, text)
                yield f"{name} = {text}"

    return "\n".join(lines("", tree)) + "\n"


def write(name: str, content: str | bytes) -> str:
    """A file in the current folder; its name."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    path.write_bytes(data)
    return name


def copy_run(corpus: Path, name: str = "run") -> Path:
    """The corpus' run in the current folder, without what another worker is about to write there."""
    return Path(shutil.copytree(corpus / "run", name, symlinks=True, ignore=shutil.ignore_patterns("*.tmp")))


# ---------------------------------------------------------------------------------------------------- good files


def make_corpus(folder: Path) -> None:
    """A run of some steps with an evaluation, a configuration, and images in many formats."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(6):
        write_image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        write_image.save(images / f"{number}.png")
    aegen = [sys.executable, "-m", "aegen"]
    quiet: dict[str, Any] = {"cwd": folder, "check": True, "capture_output": True}
    train = [*aegen, "train", *SMALL_NET, "--data", "images", "--size", "8", "--steps", "3", "--run-dir", "run"]
    subprocess.run(train, **quiet)
    subprocess.run([*aegen, "evaluate", "-c", "run", "--metric", "reconstruction", "--limit", "4"], **quiet)
    picture = Image.fromarray(rng.integers(0, 256, (20, 24, 4), dtype=np.uint8))
    grey16 = Image.fromarray(rng.integers(0, 65536, (20, 24), dtype=np.uint16))
    files = folder / "files"
    files.mkdir()
    for name, image, options in [
        ("rgb.png", picture.convert("RGB"), {}),
        ("rgba.png", picture, {}),
        ("palette.png", picture.convert("RGB").quantize(16), {"transparency": 3}),
        ("grey16.png", grey16, {}),
        ("bits.png", picture.convert("1"), {}),
        ("rgb.jpg", picture.convert("RGB"), {}),
        ("cmyk.jpg", picture.convert("CMYK"), {}),
        ("progressive.jpg", picture.convert("RGB"), {"progressive": True}),
        ("film.gif", picture.convert("P"), {"save_all": True, "append_images": [picture.convert("P")]}),
        ("rgb.bmp", picture.convert("RGB"), {}),
        ("rgb.webp", picture.convert("RGB"), {}),
        ("rgb.ppm", picture.convert("RGB"), {}),
        ("rgb.tif", picture.convert("RGB"), {}),
        ("lzw.tif", picture, {"compression": "tiff_lzw"}),
        ("jpeg.tif", picture.convert("RGB"), {"compression": "jpeg"}),
        ("grey16.tif", grey16, {}),
        ("float.tif", Image.fromarray(rng.random((20, 24), dtype=np.float32)), {}),
        ("pages.tif", picture.convert("L"), {"save_all": True, "append_images": [picture.convert("L")]}),
    ]:
        image.save(files / name, **options)
    np.savez(files / "images.npz", images=rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8), labels=np.arange(8))
    np.savez_compressed(files / "packed.npz", images=rng.integers(0, 256, (8, 8, 8), dtype=np.uint8))
    np.save(files / "images.npy", rng.random((8, 8, 8), dtype=np.float32))
    with tarfile.open(files / "images.tar", "w") as tar:
        for path in sorted(images.iterdir()):
            tar.add(path, path.name)
            label = tarfile.TarInfo(f"{path.stem}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1"))
    make_cache(folder)


# ---------------------------------------------------------------------------------------------------- checkpoints


def uses_of(chance: random.Random, place: str) -> Words:
    """A command that reads a model."""
    image = "images/1.png"
    return chance.choice(
        [
            ["sample", "-c", place, "-n", "2", "-o", "out.png"],
            ["sample", "-c", place, "-n", "2", "--sampler", "prior", "-o", "out.png"],
            ["reconstruct", image, "-c", place, "-o", "out.png"],
            ["interpolate", image, image, "-c", place, "-o", "out.png"],
            ["export", "-c", place, "-o", "out.safetensors"],
            ["evaluate", "-c", place, "--metric", "reconstruction", "--limit", "4", "--json"],
            ["report", place, "--no-evaluate", "-o", "out.html"],
            ["train", "--dry-run", *SMALL_NET, "--data", "images", "--size", "8", "--init-from", place],
            ["train", "--resume", place, "--steps", "4"],
        ]
    )


def _with_images(corpus: Path) -> None:
    shutil.copytree(corpus / "images", "images")


def _opened(path: Path) -> tuple[dict[str, Any], bytes]:
    """The table of a safetensors file, and the bytes of its tensors."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _closed(table: str, body: bytes) -> bytes:
    head = table.encode("utf-8", "surrogateescape")
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + body


def _to_alter(corpus: Path) -> tuple[Path, dict[str, Any], bytes]:
    """A copy of the corpus' run beside its images, and what its checkpoint is made of."""
    _with_images(corpus)
    run = copy_run(corpus)
    return run, *_opened(run / "checkpoints" / "last.safetensors")


def _put(run: Path, table: str, body: bytes) -> None:
    """Both checkpoints of a run, made anew."""
    for name in ("last", "best"):
        (run / "checkpoints" / f"{name}.safetensors").write_bytes(_closed(table, body))


def _summed(table: dict[str, Any], about: str) -> dict[str, Any]:
    """The table with another header, whose checksum fits: what an adversary writes, not a disk."""
    metadata = dict(table["__metadata__"])
    sums = json.loads(metadata["checksums"])
    sums["header"] = hashlib.blake2b(about.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return {**table, "__metadata__": {**metadata, "aegen": about, "checksums": json.dumps(sums)}}


@kind
def checkpoint_bytes(chance: random.Random, corpus: Path) -> Words:
    """A checkpoint that a disk has damaged."""
    _with_images(corpus)
    run = copy_run(corpus)
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.write_bytes(damage(chance, path.read_bytes()))
    place = chance.choice(["run", "run/checkpoints/last.safetensors"])
    return uses_of(chance, place)


@kind
def checkpoint_header(chance: random.Random, corpus: Path) -> Words:
    """A checkpoint whose header says odd things, its checksum right."""
    run, table, body = _to_alter(corpus)
    about = bend(chance, json.loads(table["__metadata__"]["aegen"]))
    _put(run, json.dumps(_summed(table, as_json(about))), body)
    return uses_of(chance, "run")


@kind
def checkpoint_requests(chance: random.Random, corpus: Path) -> Words:
    """A checkpoint that asks for what only a person may ask for: a download, code, files elsewhere."""
    run, table, body = _to_alter(corpus)
    write("evil.py", "open('owned', 'w').close()\nclass X: pass\n")
    header = json.loads(table["__metadata__"]["aegen"])
    spec = header["spec"]
    for _ in range(chance.choice([1, 2])):
        match chance.randrange(6):
            case 0:
                spec["data"].update(
                    name=chance.choice(["mnist", "cifar10", "celeba", "fashion-mnist"]),
                    download=True,
                    root=chance.choice(["fetched", "/etc", ".."]),
                )
            case 1:
                part = chance.choice(["arch", "objective", "bottleneck", "likelihood"])
                spec[part]["name"] = chance.choice(["./evil.py:X", "evil.py:X", "evil:X", f"{Path.cwd()}/evil.py:X"])
            case 2:
                spec["data"]["name"] = chance.choice(
                    ["/etc", "/proc/self/environ", "/dev/zero", "../..", "./evil.py:X", "images"]
                )
            case 3:
                spec["log"]["trackers"] = [chance.choice(["tensorboard", "./evil.py:X"])]
            case 4:
                header["samplers"] = {chance.choice(["./evil.py:X", "mixture", "prior", "../x"]): {"components": 3}}
            case 5:
                header["plugins"] = {
                    "objective:./evil.py:X": {"package": "file", "version": ""},
                    "tracker:x": {"package": "../x", "version": "1"},
                }
    _put(run, json.dumps(_summed(table, json.dumps(header))), body)
    return uses_of(chance, "run")


@kind
def checkpoint_table(chance: random.Random, corpus: Path) -> Words:
    """A checkpoint whose table of tensors is odd: names, shapes, types, places, checksums."""
    run, table, body = _to_alter(corpus)
    keys = [k for k in table if k != "__metadata__"]
    match chance.randrange(5):
        case 0:
            table = bend(chance, table)
        case 1:
            key = chance.choice(keys)
            table[key] = bend(chance, table[key])
        case 2:
            key = chance.choice(keys)
            table[str(chance.choice([*ODD_TEXTS, *keys]))] = table.pop(key)
        case 3:
            del table[chance.choice(keys)]
        case 4:
            key = chance.choice(keys)
            table[key]["dtype"] = chance.choice(["F16", "F64", "BF16", "I32", "BOOL", "F8_E4M3", "U8", "I64"])
    _put(run, as_json(table), body)
    return uses_of(chance, "run")


_NETS: list[list[tuple[str, tuple[int, ...]]]] = [
    [("encoder.0", (8, 64)), ("fc_mu", (3, 8)), ("fc_logvar", (3, 8)), ("decoder.0", (8, 3)), ("decoder.2", (64, 8))],
    [("encoder.0", (8, 192)), ("encoder.2", (4, 8)), ("decoder.0", (8, 4)), ("decoder.2", (192, 8))],
    [
        ("encoder.0", (4, 1, 3, 3)),
        ("encoder.2", (8, 4, 3, 3)),
        ("fc_mu", (3, 32)),
        ("fc_logvar", (3, 32)),
        ("decoder_input", (32, 3)),
        ("decoder.0", (8, 4, 4, 4)),
        ("decoder.2", (4, 1, 4, 4)),
    ],
]


def _foreign(chance: random.Random) -> tuple[dict[str, Any], bytes]:
    """A small autoencoder as somebody's own PyTorch saves it: the table of a safetensors file and its tensors."""
    table: dict[str, Any] = {}
    body = b""
    for name, shape in chance.choice(_NETS):
        out = shape[1] if name.startswith("decoder.") and len(shape) == 4 else shape[0]
        for last, sizes in (("weight", shape), ("bias", (out,))):
            raw = np.random.default_rng(len(body)).normal(0, 0.1, sizes).astype("<f4").tobytes()
            table[f"{name}.{last}"] = {
                "dtype": "F32",
                "shape": list(sizes),
                "data_offsets": [len(body), len(body) + len(raw)],
            }
            body += raw
    return table, body


@kind
def importer(chance: random.Random, corpus: Path) -> Words:
    """A model of somebody else, to be imported, that is damaged, oddly named, oddly shaped, or of enormous counts; and odd options."""
    table, body = _foreign(chance)
    keys = list(table)
    match chance.randrange(9):
        case 0:
            write("mine.safetensors", damage(chance, _closed(json.dumps(table), body)))
        case 1:
            table = bend(chance, table)
        case 2:  # other names
            for key in chance.sample(keys, chance.choice([1, 2, len(keys)])):
                last = chance.choice([".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked", ""])
                table[str(chance.choice([*ODD_TEXTS, "a", "net.0", "encoder.9", "decoder.fc_mu"])) + last] = table.pop(
                    key
                )
        case 3:  # the same numbers in other shapes
            for key in chance.sample(keys, chance.choice([1, 3])):
                count = math.prod(table[key]["shape"])
                shapes = [[count], [1, count], [count, 1], [1, 1, count, 1], [count, 1, 1, 1], [1] * 20 + [count]]
                table[key]["shape"] = chance.choice(shapes)
        case 4:  # counts that no file holds
            key = chance.choice(keys)
            table[key]["shape"] = [chance.choice([0, 1, 2**31, 2**40, 2**62, 2**64, -1, 10**30]) for _ in range(2)]
        case 5:  # layers that are missing, or there twice
            for key in chance.sample(keys, chance.choice([1, 2, 4])):
                del table[key]
        case 6:
            key = chance.choice(keys)
            table[key]["dtype"] = chance.choice(["F16", "F64", "BF16", "I32", "BOOL", "F8_E4M3", "U8", "I64", "F4"])
        case 7:  # numbers that are none
            body = struct.pack("<f", chance.choice([math.nan, math.inf, -math.inf, 3e38])) * (len(body) // 4)
        case 8:  # what the words ask for
            write("mine.safetensors", _closed(json.dumps(table), body))
    if not Path("mine.safetensors").exists():
        write("mine.safetensors", _closed(as_json(table), body))
    if chance.random() < 0.1:
        write("mine.safetensors", chance.choice([b"PK\x03\x04" + body, b"\x80\x02" + body, b"", b"{}", body]))
    words = ["import", "mine.safetensors", "-o", "made.safetensors"]
    layer = chance.choice(
        ["Linear(64, 8)", "Linear(64, 10**9)", "Conv2d(1, 4, kernel_size=3)", "Flatten()", "eval('1')", "Linear(", ""]
    )
    odd = [
        ("size", chance.choice(["[8, 8]", "8", "[0, 8]", "[8192, 8192]", "[8]", "x"])),
        ("strides", chance.choice(["[1]", "[2, 2]", "[16, 16, 16]", "[0]", "2"])),
        ("padding", chance.choice(["-1", "0", "64", "65"])),
        ("order", json.dumps(chance.sample(["encoder.0", "encoder.2", "decoder.0", "decoder.2", "", "x"], 4))),
        ("encoder", json.dumps([layer] * chance.choice([0, 1, 3, 3000]))),
        ("decoder", json.dumps([layer, "Unflatten(1, (1, 8, 8))"])),
        ("mean", chance.choice(["[0.5]", "[1e400]", "[nan]", "[0.5, 0.5]"])),
        ("std", chance.choice(["[0.5]", "[0]", "[1e-300]"])),
        ("activation", chance.choice(["tanh", "none", "leaky-relu", "x"])),
        ("output", chance.choice(["none", "tanh", "sigmoid"])),
        ("likelihood", chance.choice(["bernoulli", "gaussian"])),
        ("scale", str(chance.choice(ODD_NUMBERS))),
    ]
    for name, value in chance.sample(odd, chance.choice([0, 0, 1, 2])):
        words += [f"--importer.{name}={value}"]
    return words


@kind
def run_files(chance: random.Random, corpus: Path) -> Words:
    """A run's folder whose text files are odd: configuration, environment, metrics, evaluations."""
    _with_images(corpus)
    run = copy_run(corpus)
    path = chance.choice([p for p in sorted(run.rglob("*")) if p.suffix in (".json", ".jsonl", ".toml")])
    text = path.read_text(encoding="utf-8")
    if chance.random() < 0.3:
        path.write_bytes(damage(chance, text.encode()))
    elif path.suffix == ".toml":
        import tomllib

        path.write_bytes(as_toml(bend(chance, tomllib.loads(text))).encode("utf-8", "surrogateescape"))
    else:
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        at = chance.randrange(len(lines))
        lines[at] = as_json(bend(chance, json.loads(lines[at])))
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    if chance.random() < 0.2:
        for file in (run / "checkpoints").glob("*"):
            file.unlink()
    return chance.choice(
        [
            ["compare", "run", str(corpus / "run"), "--no-evaluate", "-o", "out.html"],
            ["compare", "run", str(corpus / "run"), "--no-evaluate", "--format", "latex"],
            ["compare", "run", str(corpus / "run"), "--no-evaluate", "--format", "csv"],
            ["report", "run", "--no-evaluate", "-o", "out.html"],
            ["train", "--resume", "run", "--steps", "5"],
            ["sample", "-c", "run", "-n", "1", "-o", "out.png"],
        ]
    )


# ---------------------------------------------------------------------------------------------------- data


@kind
def image(chance: random.Random, corpus: Path) -> Words:
    """A damaged image among good ones, or alone."""
    source = chance.choice(
        [p for p in sorted((corpus / "files").iterdir()) if p.suffix[:3] != ".np" and p.suffix != ".tar"]
    )
    Path("images").mkdir()
    name = f"images/bad{source.suffix}"
    write(name, damage(chance, source.read_bytes()))
    if chance.random() < 0.5:
        return ["reconstruct", name, "-c", str(corpus / "run"), "-o", "out.png"]
    for good in ("0.png", "1.png", "2.png"):
        shutil.copy(corpus / "images" / good, "images")
    return ["train", "--data", "images", "--size", "8", "--dry-run", *SMALL_NET]


@kind
def image_header(chance: random.Random, corpus: Path) -> Words:
    """A PNG whose pieces are whole but odd: sizes, depths, colours, transparency, texts; its checksums right."""

    def piece(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    width, height = (chance.choice([0, 1, 8, 9, 257, 40_000, 2**31 - 1, 2**31]) for _ in range(2))
    depth, colour = chance.choice([0, 1, 2, 4, 8, 16, 32]), chance.choice([0, 2, 3, 4, 6, 7])
    pieces = [piece(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, chance.choice([0, 0, 1, 9])))]
    if chance.random() < 0.6:
        pieces.append(piece(b"PLTE", chance.randbytes(3 * chance.choice([0, 1, 16, 256, 300]))))
    if chance.random() < 0.6:
        pieces.append(piece(b"tRNS", chance.randbytes(chance.choice([0, 1, 2, 6, 256]))))
    if chance.random() < 0.3:
        body = zlib.compress(b"a" * chance.choice([10, 3_000_000]))
        pieces.append(piece(chance.choice([b"zTXt", b"iCCP"]), b"k\0\0" + body))
    lines = min(height, 2000) * (1 + min(width, 2000) * 8)
    pieces.append(
        piece(b"IDAT", zlib.compress(chance.choice([b"\0", b"\1"]) * chance.choice([0, 100, min(lines, 10**6)])))
    )
    chance.shuffle(pieces) if chance.random() < 0.1 else None
    write("bad.png", b"\x89PNG\r\n\x1a\n" + b"".join(pieces) + piece(b"IEND", b""))
    return ["reconstruct", "bad.png", "-c", str(corpus / "run"), "-o", "out.png"]


@kind
def tiff_tags(chance: random.Random, corpus: Path) -> Words:
    """A TIFF of odd tags: depths, sample formats, photometrics, compressions, orientations, strips."""
    side = 8
    bits, samples = chance.choice([1, 2, 4, 8, 12, 16, 24, 32, 64, 65535]), chance.choice([0, 1, 2, 3, 4, 5, 100])
    body = chance.randbytes(side * side * max(1, min(bits, 64) // 8) * max(1, min(samples, 5)))
    length = chance.choice([len(body), len(body), len(body), 0, 1, 2**32 - 1])
    tags = [
        (256, 3, chance.choice([side, side, side, 0, 65535])),
        (257, 3, side),
        (258, 3, bits),
        (259, 3, chance.choice([1, 1, 1, 1, 2, 5, 7, 8, 32773, 34925, 50001, 0, 9999])),
        (262, 3, chance.choice([0, 1, 2, 3, 4, 5, 6, 8, 32844, 77])),
        (273, 4, chance.choice([8, 8, 8, 0, 2**31])),
        (274, 3, chance.choice([1, 3, 6, 8, 0, 9])),
        (277, 3, samples),
        (278, 3, chance.choice([side, 1, 0, 2**15])),
        (279, 4, length),
        (284, 3, chance.choice([1, 2, 9])),
        (338, 3, chance.choice([0, 1, 2, 7])),
        (339, 3, chance.choice([1, 2, 3, 4, 5, 9])),
    ]
    tags = [tag for tag in tags if chance.random() > 0.05]
    raw = b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags))
    for tag, code, value in tags:
        raw += struct.pack("<HHI", tag, code, 1) + (
            struct.pack("<HH", value, 0) if code == 3 else struct.pack("<I", value)
        )
    write("bad.tif", raw + struct.pack("<I", chance.choice([0, 0, 0, 8, len(body) + 8])))
    return ["reconstruct", "bad.tif", "-c", str(corpus / "run"), "-o", "out.png"]


@kind
def array(chance: random.Random, corpus: Path) -> Words:
    """A NumPy file: damaged, of odd shapes and types, of odd members."""
    files = corpus / "files"
    match chance.randrange(4):
        case 0:
            source = chance.choice([files / "images.npz", files / "packed.npz", files / "images.npy"])
            name = write(f"bad{source.suffix}", damage(chance, source.read_bytes()))
        case 1:
            shape = tuple(chance.choice([0, 1, 2, 3, 8, 9, 100]) for _ in range(chance.randrange(6)))
            dtype = chance.choice(["u1", "i1", "u2", "i8", "f2", "f4", "f8", "c8", "b1", "U3", "M8[s]", "V4"])
            name = "bad.npy"
            np.save(name, np.zeros(shape, dtype=dtype))
        case 2:
            described = as_json(bend(chance, {"descr": "|u1", "fortran_order": False, "shape": [8, 8, 8]}))
            described = described.replace("false", "False").replace("true", "True").replace("null", "None")
            head = described.replace("[8,8,8]", "(8,8,8)").encode("latin-1", "replace") + b"\n"
            name = write("bad.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(head) % 65536) + head + bytes(512))
        case _:
            name = "bad.npz"
            with zipfile.ZipFile(name, "w") as archive:
                for member in chance.sample(["images", "images.npy", "labels.npy", "x.npy", "../y.npy", "a\nb.npy"], 3):
                    content = io.BytesIO()
                    np.save(content, np.zeros(chance.choice([(8, 8, 8), (8, 8, 8, 3), (8,), ()]), np.uint8))
                    archive.writestr(
                        member, damage(chance, content.getvalue()) if chance.random() < 0.3 else content.getvalue()
                    )
    return ["train", "--data", name, "--size", "8", "--dry-run", *SMALL_NET]


@kind
def shards(chance: random.Random, corpus: Path) -> Words:
    """A tar of odd members, or a damaged one."""
    if chance.random() < 0.4:
        write("bad.tar", damage(chance, (corpus / "files" / "images.tar").read_bytes()))
    else:
        good = (corpus / "images" / "0.png").read_bytes()
        with tarfile.open("bad.tar", "w") as tar:
            for number in range(6):
                name = chance.choice(
                    [f"{number}.png", f"{number}.png", f"d/{number}.png", f"../{number}.png", f"/{number}.jpg"]
                )
                name = chance.choice(ODD_TEXTS)[:90] + ".png" if chance.random() < 0.2 else name
                member = tarfile.TarInfo(name.replace("\x00", ""))
                member.type = chance.choice(
                    [tarfile.REGTYPE] * 6 + [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
                )
                member.linkname = "/etc/passwd"
                member.size = len(good) if member.type == tarfile.REGTYPE else 0
                tar.addfile(member, io.BytesIO(good))
                label = tarfile.TarInfo(f"{number}.{chance.choice(['cls', 'json', 'txt'])}")
                text = as_json(odd_value(chance)).encode("utf-8", "surrogateescape")[:500]
                label.size = len(text)
                tar.addfile(label, io.BytesIO(text))
    if chance.random() < 0.2:
        write("sizes.json", as_json(bend(chance, {"bad.tar": 6})))
    return [
        "train",
        "--data",
        chance.choice(["bad.tar", "bad.tar", "{bad,worse}.tar"]),
        "--size",
        "8",
        "--dry-run",
        *SMALL_NET,
    ]


@kind
def folder(chance: random.Random, corpus: Path) -> Words:
    """A folder of images with odd names, odd kinds of files, links in circles and classes without images."""
    base = Path("images")
    base.mkdir()
    shutil.copy(corpus / "images" / "0.png", base)
    shutil.copy(corpus / "images" / "1.png", base)
    for number in range(chance.randrange(1, 6)):
        text = str(chance.choice(ODD_TEXTS)).replace("/", "_").replace("\x00", "")[:80] or "empty"
        place = base / (text if text not in (".", "..") else f"_{number}")
        match chance.randrange(6):
            case 0:
                place.mkdir(exist_ok=True)
                shutil.copy(corpus / "images" / "2.png", place / f"{text if text.strip('.') else number}.png")
            case 1:
                shutil.copy(corpus / "images" / "3.png", f"{place}.png")
            case 2:
                os.symlink(chance.choice([".", "..", "/dev/zero", "nowhere", "/proc/self/fd"]), f"{place}.{number}.png")
            case 3:
                os.mkfifo(f"{place}.{number}.png")
            case 4:
                Path(f"{place}.{number}.png").write_bytes(b"")
            case 5:
                Path(f"{place}.{number}.png").mkdir()
    return chance.choice(
        [
            ["train", "--data", "images", "--size", "8", "--dry-run", *SMALL_NET],
            ["train", "--data", "images", "--size", "8", "--strict-data", "--dry-run", *SMALL_NET],
            ["reconstruct", "images", "-c", str(corpus / "run"), "-o", "out.png"],
            ["reconstruct", "images", "-c", str(corpus / "run"), "--each", "-o", "out"],
            ["evaluate", "-c", str(corpus / "run"), "--data", "images", "--metric", "reconstruction", "--json"],
        ]
    )


# ---------------------------------------------------------------------------------------------------- configuration


@kind
def configuration(chance: random.Random, corpus: Path) -> Words:
    """A configuration file of odd values, or a damaged one."""
    import tomllib

    text = (corpus / "run" / "config.toml").read_text(encoding="utf-8")
    if chance.random() < 0.3:
        write("c.toml", damage(chance, text.encode()))
    else:
        tables = tomllib.loads(text)
        tables["data"]["name"] = "digits"
        write("c.toml", as_toml(bend(chance, tables)))
    return ["train", "--config", "c.toml", chance.choice(["--print-config", "--dry-run"])]


def _numbers(chance: random.Random, limits: Any) -> Any:
    """A number at a bound, just beyond it, or an odd one."""
    ends = [
        e
        for e in (getattr(limits, "min", None), getattr(limits, "max", None), getattr(limits, "above", None))
        if e is not None
    ]
    if ends and chance.random() < 0.7:
        end = chance.choice(ends)
        return chance.choice([end, end + 1, end - 1, end * 2, -end])
    return chance.choice(ODD_NUMBERS)


@kind
def component_option(chance: random.Random, corpus: Path) -> Words:
    """An option of a component at its bounds, beyond, or odd; what is taken is built and steps once."""
    from aegen import registry
    from aegen.spec import options_of

    which = chance.choice(
        [
            "architecture",
            "objective",
            "objective",
            "bottleneck",
            "bottleneck",
            "likelihood",
            "sampler",
            "metric",
            "dataset",
        ]
    )
    component = chance.choice([c for c in registry.components(which) if c.builtin])
    cls = registry.load(component)
    options = list(options_of(cls, schedulable=which == "objective").values())
    words = ["train", "--dry-run", "--size", "8", "--batch-size", "8", "--data", "digits"]
    values = []
    for option in chance.sample(options, min(len(options), chance.choice([1, 1, 2]))):
        if option.choices and chance.random() < 0.5:
            value: Any = chance.choice(option.choices)
        elif chance.random() < 0.1:
            value = chance.choice(ODD_TEXTS)
        elif "list" in str(option.type):
            value = as_json([_numbers(chance, option.range) for _ in range(chance.choice([0, 1, 2, 5]))])
        elif option.schedulable and chance.random() < 0.3:
            value = f"linear({_numbers(chance, option.range)},{_numbers(chance, option.range)},{chance.choice(ODD_NUMBERS)})"
        else:
            value = _numbers(chance, option.range)
        values.append((option.name.replace("_", "-"), f"{value}".replace("\x00", "")))
    match which:
        case "sampler":
            copy_run(corpus, "own")  # a fitted sampler is kept in the checkpoint
            words = ["sample", "-c", "own", "-n", "2", "-o", "out.png", "--sampler", component.name]
            return words + [w for name, value in values for w in (f"--sampler.{name}", value)]
        case "metric":
            words = [
                "evaluate",
                "-c",
                str(corpus / "run"),
                "--data",
                str(corpus / "images"),
                "-n",
                "4",
                "--metric",
                component.name,
            ]
            return [
                *words,
                *(w for name, value in values for w in (f"--{component.name}.{name}", value)),
                "-o",
                "found.json",
            ]
        case "dataset":
            words = [
                "train",
                "--dry-run",
                *SMALL_NET,
                "--data",
                component.name if component.name not in ("folder", "array", "shards") else "digits",
            ]
            return words + [w for name, value in values for w in (f"--data.{name}", value)]
        case "architecture":
            words += ["--arch", component.name]
        case "bottleneck":
            words += [
                "--arch",
                "mlp",
                "--arch.hidden",
                "[8]",
                "--objective",
                chance.choice(["ae", "vae"]),
                "--bottleneck",
                component.name,
            ]
        case "likelihood":
            words += ["--arch", "mlp", "--arch.hidden", "[8]", "--likelihood", component.name]
        case "objective":
            name = component.name
            wrapper = "inner" in cls.__init__.__code__.co_varnames
            words += ["--arch", "mlp", "--arch.hidden", "[8]", "--objective", f"vae+{name}" if wrapper else name]
            which = f"objective.{name}" if wrapper else "objective"
    prefix = "arch" if which == "architecture" else which
    return words + [w for name, value in values for w in (f"--{prefix}.{name}", value)]


@kind
def setting(chance: random.Random, corpus: Path) -> Words:
    """A setting at its bounds, beyond, or odd."""
    from aegen.settings import SETTINGS
    from aegen.spec import options_of

    section = chance.choice(list(SETTINGS))
    words = ["train", "--dry-run", *SMALL_NET, "--size", "8"]
    for option in chance.sample(list(options_of(SETTINGS[section]).values()), 2):
        if option.name in ("name", "download", "root"):
            continue
        value = chance.choice([*(option.choices or ()), _numbers(chance, option.range), chance.choice(ODD_TEXTS)])
        words += ["--set", f"{section}.{option.name}={value}".replace("\x00", "")]
    return words


@kind
def command_line(chance: random.Random, corpus: Path) -> Words:
    """Lines of words that do not belong together."""
    commands = [
        "train",
        "reconstruct",
        "sample",
        "interpolate",
        "evaluate",
        "compare",
        "report",
        "export",
        "list-plugins",
    ]
    flags = [
        "-c",
        "-o",
        "-n",
        "--data",
        "--json",
        "--seed",
        "--sampler",
        "--metric",
        "--format",
        "--kind",
        "--label",
        "--help",
        "--set",
    ]
    flags += [
        "--arch",
        "--objective",
        "--bottleneck",
        "--likelihood",
        "--size",
        "--component",
        "--resume",
        "--init-from",
        "--config",
    ]
    words = [chance.choice(commands)]
    for _ in range(chance.randrange(4)):
        words.append(chance.choice(flags))
        text = chance.choice(
            [*ODD_TEXTS, *map(str, ODD_NUMBERS), str(corpus / "run"), str(corpus / "images" / "0.png")]
        )
        words.append(text.replace("\x00", "")[:5000])
    # A line that is right would train for minutes, or write into the corpus.
    return words + (["--dry-run"] if words[0] == "train" else [])


# ---------------------------------------------------------------------------------------------------- caches


def make_cache(corpus: Path) -> None:
    """A cache of descriptions, decoded images and features, as commands fill it whose modules are found where they are found here."""
    run = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from aegen.cli import main; main(sys.argv[1:])"
    place = {**os.environ, "AEGEN_CACHE": str(corpus / "cache")}
    for words in [["list-plugins", "vae"], *cached(corpus)]:
        command = [sys.executable, "-c", run, json.dumps(sys.path), *words]
        subprocess.run(command, cwd=corpus, env=place, check=True, capture_output=True)


def cached(corpus: Path) -> list[Words]:
    """Command lines that read decoded images, and features, from the cache."""
    images, run = str(corpus / "images"), str(corpus / "run")
    seen = ["evaluate", "-c", run, "--data", images, "--metric", "fid", "--features", "efficientnet-lite0", "-n", "4"]
    return [
        ["train", "--dry-run", *SMALL_NET, "--data", images, "--size", "512"],
        [*seen, "--features-side", "32", "--json"],
    ]


@kind
def cache(chance: random.Random, corpus: Path) -> Words:
    """A cache that a disk, a crash or another program has damaged; everything in it can be made anew."""
    shutil.copytree(corpus / "cache", "cache")
    which = chance.choice(["components/*.json", "images/*.safetensors", "*.safetensors"])
    path = chance.choice(sorted(Path("cache").glob(which)))
    match chance.randrange(6):
        case 0:
            path.unlink()
            match chance.randrange(4):
                case 0:
                    path.mkdir()
                case 1:
                    path.symlink_to("nothing")
                case 2:
                    os.mkfifo(path)
                case 3:
                    path.write_bytes(b"")
        case 1 if path.suffix == ".safetensors":
            table, body = _opened(path)
            path.write_bytes(_closed(as_json(bend(chance, table)), body))
        case 1 | 2 | 3 if path.suffix == ".json":
            told = json.loads(path.read_text(encoding="utf-8"))
            told["components"] = bend(chance, told["components"])
            path.write_bytes(as_json(told).encode("utf-8", "surrogateescape"))
        case _:
            path.write_bytes(damage(chance, path.read_bytes()))
    described = [["list-plugins", "vae"], ["list-plugins", "--json"], ["train", "--objective", "vae", "--help"]]
    described += [["train", "--print-config"], ["list-plugins", "--combinations"]]
    images, features = cached(corpus)
    if path.suffix == ".json":
        line = chance.choice(described)
    else:
        line = images if path.parent.name == "images" else [*features, "-o", "found.json"]
    return ["AEGEN_CACHE=cache", *line]


# ---------------------------------------------------------------------------------------------------- installed packages


@kind
def package(chance: random.Random, corpus: Path) -> Words:
    """Somebody's broken installation beside aegen: its metadata, its entry points, its modules."""
    base = Path("site")
    dist = base / "p-1.0.dist-info"
    dist.mkdir(parents=True)
    group = chance.choice(
        [
            "aegen.objectives",
            "aegen.samplers",
            "aegen.metrics",
            "aegen.commands",
            "aegen.trackers",
            "aegen.api",
            "console_scripts",
        ]
    )
    points = f"[{group}]\nbad = {chance.choice(['p:X', 'p', 'p:', ':X', 'p:X[extra]', 'no.such:X', 'p:function', 'p:number'])}\n"
    metadata = f"Metadata-Version: 2.1\nName: {chance.choice(['p', 'aegen', '', 'p q', 'é'])}\nVersion: {chance.choice(['1.0', '', 'x', '1' * 500])}\n"
    if chance.random() < 0.8:
        (dist / "METADATA").write_bytes(
            damage(chance, metadata.encode()) if chance.random() < 0.4 else metadata.encode()
        )
    (dist / "entry_points.txt").write_bytes(
        damage(chance, points.encode()) if chance.random() < 0.4 else points.encode()
    )
    body = chance.choice(
        [
            "raise SystemExit(0)",
            "class B(BaseException): pass\nraise B('boom')",
            "raise KeyError('\\n\\x1b[31m')",
            "1/0",
            "def f(",
            "class X: pass",
            "X = 3",
            "from aegen import Objective\nclass X(Objective):\n    def __init__(self, *, w): pass",
            "from aegen import Objective\nclass X(Objective):\n    def __init__(self, *, w: int): pass",
            "from aegen import Objective\nclass X(Objective):\n    def __init__(self, *, w: 'Nothing' = 1): pass",
            "from aegen import Objective\nclass X(Objective):\n    stands_for = 'bad+bad'",
            "from aegen import Objective\nclass X(Objective):\n    needs = 3\n    suggests = []",
            "from aegen import Objective\nclass X(Objective):\n    def loss(self, model, x): return 3",
            "from aegen import Sampler\nclass X(Sampler):\n    pass",
            "from aegen import Metric\nclass X(Metric):\n    pass",
            "import recursion_p",
        ]
    )
    write("site/p.py", body + "\nnumber = 3\ndef function(): raise ValueError('x')\n")
    write("site/recursion_p.py", "import p\nfrom p import nothing\n")
    site = str(base.resolve())
    line = chance.choice(
        [
            ["list-plugins"],
            ["list-plugins", "bad"],
            ["list-plugins", "--json"],
            ["--help"],
            ["train", "--print-config"],
            ["train", "--dry-run", *SMALL_NET, "--objective", "bad"],
            ["train", "--dry-run", *SMALL_NET, "--track", "bad"],
            ["sample", "-c", str(corpus / "run"), "-n", "1", "-o", "out.png", "--sampler", "bad"],
            ["evaluate", "-c", str(corpus / "run"), "--metric", "bad", "--limit", "4", "-o", "found.json"],
            ["bad"],
        ]
    )
    return [f"PYTHONPATH={site}", *line]
