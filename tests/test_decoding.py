"""Formats × modes × depths × transparency × orientation, against what is stored and against decoders that do not share Pillow's faults."""

from __future__ import annotations

import io
import itertools
import warnings
from pathlib import Path

import images
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageOps

from aegen.data.decode import Target, Unreadable, noted, probe, read
from aegen.data.values import Note

H, W = 37, 53
SEPARATE = {1: "minisblack", 2: "minisblack", 3: "rgb", 4: "rgb"}


def drawn(kind: str, samples: int, height: int = H, width: int = W) -> np.ndarray:
    """Values (H, W, samples) over all that a type of NumPy can hold, floats between 0 and 1."""
    rng = np.random.default_rng(0)
    shape = (height, width, samples)
    if kind[0] == "f":
        return rng.random(shape).astype(kind)
    most = int(np.iinfo(kind).max)
    return rng.integers(0, most, shape, dtype=kind, endpoint=True)


def scaled(values: np.ndarray, white: float | None = None) -> np.ndarray:
    """0 … white → 0 … 255, in float64."""
    if white is None:
        white = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    return np.clip(np.rint(values.astype(np.float64) / white * 255), 0, 255)


def shown(content: bytes, channels: int | None = None, **target: object) -> np.ndarray:
    """What aegen reads, (H, W, C), as whole numbers that can be subtracted."""
    return read(content, Target(channels=channels, **target)).permute(1, 2, 0).numpy().astype(int)  # type: ignore[arg-type]


def by_vips(content: bytes) -> np.ndarray:
    """(H, W, C) as libvips reads it."""
    image = pyvips.Image.new_from_buffer(content, "")
    return np.asarray(image.numpy()).reshape(image.height, image.width, image.bands)


def by_tifffile(content: bytes, shape: tuple[int, ...], planes: bool) -> np.ndarray:
    """(H, W, C) as tifffile reads it."""
    found = tifffile.imread(io.BytesIO(content))
    return np.moveaxis(found, 0, -1) if planes else found.reshape(shape)


# ------------------------------------------------------------------------------------------------- TIFF

PACKINGS: list[dict[str, object]] = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"tile": (16, 32)},
    {"tile": (16, 32), "compression": "zlib", "predictor": True},
]


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
def test_a_tiff_of_any_samples_is_what_it_stores(kind: str) -> None:
    """In any order of bytes, in planes or not, in strips or tiles, packed in any way: read by tifffile, and by libvips where it can."""
    wrong, seen_by_vips = [], 0
    layouts = itertools.product((1, 2, 3, 4), (False, True), PACKINGS, "<>")
    for samples, planes, packing, order in layouts:
        if (samples == 1 and planes) or (packing.get("predictor") and kind not in ("u1", "i1", "u2", "i2", "u4", "i4")):
            continue  # tifffile writes no others as differences: libvips does floats, below
        values = drawn(kind, samples)
        file = io.BytesIO()
        tifffile.imwrite(
            file,
            np.ascontiguousarray(np.moveaxis(values, -1, 0) if planes else values[..., 0] if samples == 1 else values),
            photometric=SEPARATE[samples],
            planarconfig=None if samples == 1 else "separate" if planes else "contig",
            byteorder=order,
            extrasamples=None if samples % 2 else ["unassalpha"],
            rowsperstrip=None if "tile" in packing else 7,
            **packing,
        )
        content, expected = file.getvalue(), scaled(values)
        if not np.array_equal(by_tifffile(content, values.shape, planes), values):
            wrong.append((samples, planes, packing, order, "tifffile"))
        # Libvips knows no 64 bits and no planes in tiles, and mixes up two planes.
        if kind not in ("u8", "i8", "f2", "f8") and not (planes and ("tile" in packing or samples == 2)):
            seen_by_vips += 1
            if not np.array_equal(by_vips(content), values):
                wrong.append((samples, planes, packing, order, "libvips"))
        if samples % 2 == 0:
            expected[expected[..., -1] == 0, :-1] = 255  # colours that nobody sees
        if not np.array_equal(shown(content, samples), expected):
            wrong.append((samples, planes, packing, order, "aegen"))
        if probe(content) != ((H, W), 1 if samples < 3 else 3):
            wrong.append((samples, planes, packing, order, "probe"))
    assert wrong == []
    assert seen_by_vips or kind in ("u8", "i8", "f2", "f8")


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
def test_a_tiff_of_libvips_is_what_libvips_reads(kind: str, compression: str) -> None:
    """LZW, and floats as differences, which tifffile leaves to others."""
    names = {("u1", 1): "b-w", ("u1", 3): "srgb", ("u2", 1): "grey16", ("u2", 3): "rgb16", ("u4", 1): "b-w"}
    for samples, differences, tile, big in itertools.product((1, 3), (False, True), (False, True), (False, True)):
        values = drawn(kind, samples)
        image = pyvips.Image.new_from_array(values).copy(interpretation=names.get((kind, samples), "multiband"))
        predictor = "none" if not differences else "float" if kind[0] == "f" else "horizontal"
        content = image.tiffsave_buffer(
            compression=compression, predictor=predictor, tile=tile, tile_width=16, tile_height=32, bigtiff=big
        )
        assert np.array_equal(by_vips(content), values)
        assert np.array_equal(shown(content, samples), scaled(values)), (samples, predictor, tile, big)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
def test_where_zero_is_white_the_largest_is_black(kind: str) -> None:
    values = drawn(kind, 1)
    file = io.BytesIO()
    tifffile.imwrite(file, values[..., 0], photometric="miniswhite")
    content = file.getvalue()
    if kind[0] != "f":
        assert np.array_equal(by_vips(content), np.iinfo(kind).max - values)
    assert np.abs(shown(content) - (255 - scaled(values))).max() == 0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [*range(1, 17), 24])
def test_samples_of_any_number_of_bits_are_scaled_by_it(bits: int, order: str) -> None:
    """12 bits are no 16 bits, which would be 16 times as dark."""
    most = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, most + 1, (H, W, 3))
    values[0, 0] = most
    step = -1 if order == "<" and bits in (16, 24) else 1  # whole bytes follow the order of the file, others never do
    for samples, meaning, sign in itertools.product((1, 3), (0, 1, 2), (1, 2)):
        if (samples == 3) != (meaning == 2):
            continue
        some = values[..., :samples]
        rows = images.packed_bits(some.reshape(H, -1), bits)
        if step == -1:
            rows = np.frombuffer(rows, np.uint8).reshape(-1, bits // 8)[:, ::-1].tobytes()
        content = images.tiff(images.page(W, H, [bits] * samples, meaning, t339=sign), [rows], order)
        signed = np.where(some >> (bits - 1), some - 2**bits, some) if sign == 2 else some
        expected = scaled(signed, max(1, most >> (sign - 1)))
        if bits == 1 and sign == 2:
            continue  # a sign and nothing else
        assert np.array_equal(shown(content, samples), 255 - expected if meaning == 0 else expected), (meaning, sign)
        if bits in (1, 2, 4, 8, 16) and samples == 1 and sign == 1:
            ours = by_vips(content)
            assert np.array_equal(scaled(ours), 255 - expected if meaning == 0 else expected)
        if bits in (12, 16) and samples == 1 and meaning == 1 and sign == 1 and order == "<":
            with Image.open(io.BytesIO(content)) as image:
                assert np.array_equal(np.asarray(image), some[..., 0])


def test_tiles_of_odd_bits_begin_at_whole_bytes_each() -> None:
    values = np.random.default_rng(0).integers(0, 2**12, (32, 40))
    padded = np.pad(values, ((0, 0), (0, 8)))
    tiles = [images.packed_bits(padded[:, left : left + 16], 12) for left in (0, 16, 32)]
    tags = images.page(40, 32, 12)
    del tags[278]
    content = images.tiff({**tags, 322: (4, 16), 323: (4, 32)}, tiles, tiled=True)
    assert np.array_equal(shown(content)[..., 0], scaled(values, 4095))


@pytest.mark.parametrize("exponent", [0, 1, 62, 63, 64])
def test_floats_of_24_bits(exponent: int) -> None:
    """A sign, 7 bits of exponent about 63, 16 of fraction (Adobe's technical note 3, 2005)."""
    fractions = np.array([[0, 1, 2**15, 2**16 - 1]])
    stored = exponent << 16 | fractions
    values = np.ldexp(1 + fractions / 2**16, exponent - 63) if exponent else np.ldexp(fractions / 2**16, -62)
    rows = stored.astype(">u4").tobytes()
    three = b"".join(rows[n + 1 : n + 4] for n in range(0, len(rows), 4))
    content = images.tiff(images.page(4, 1, 24, t339=3), [three], ">")
    assert np.array_equal(shown(content)[..., 0], scaled(values, 1.0))


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("extra", [0, 1, 2, None])
@pytest.mark.parametrize("colours", [1, 3])
def test_what_an_extra_sample_of_a_tiff_is(kind: str, extra: int | None, colours: int) -> None:
    """0 nothing that is known, 1 alpha by which colours are multiplied, 2 alpha; unnamed it is alpha."""
    rng = np.random.default_rng(0)
    most = 1.0 if kind[0] == "f" else float(np.iinfo(kind).max)
    alpha = rng.integers(1, 256, (H, W, 1)) / 255
    plain = rng.integers(0, 256, (H, W, colours)) / 255
    stored = np.concatenate([plain * alpha if extra == 1 else plain, alpha], 2) * most
    stored = (np.rint(stored) if kind[0] != "f" else stored).astype(kind)
    tags = images.page(W, H, [8 * stored.dtype.itemsize] * (colours + 1), 1 if colours == 1 else 2)
    tags[339] = (3, 3 if kind[0] == "f" else 1)
    if extra is not None:
        tags[338] = (3, extra)
    content = images.tiff(tags, [stored.tobytes()])
    pixels = shown(content, colours + 1)
    clear = 255 if extra == 0 else np.rint(alpha * 255)
    assert np.abs(pixels[..., -1:] - clear).max() == 0
    seen = np.abs(pixels[..., :-1] * alpha - plain * 255 * alpha)  # what is hardly there can hardly be told
    assert seen.max() <= (0.5 if extra != 1 else 2)
    white = plain if extra == 0 else plain * alpha + 1 - alpha
    assert np.abs(shown(content) - white * 255).max() <= (1 if extra != 1 else 2)


def test_inks_of_a_tiff_become_colours() -> None:
    for kind, planes in itertools.product(("u1", "u2"), (False, True)):
        inks = drawn(kind, 4)
        file = io.BytesIO()
        data = np.ascontiguousarray(np.moveaxis(inks, -1, 0) if planes else inks)
        tifffile.imwrite(file, data, photometric="separated", planarconfig="separate" if planes else "contig")
        part = 255 - scaled(inks)
        assert np.abs(shown(file.getvalue()) - part[..., :3] * part[..., 3:] / 255).max() <= 1


@pytest.mark.parametrize(("bits", "alpha"), [(1, False), (4, False), (8, False), (8, True), (16, False), (16, True)])
@pytest.mark.parametrize("planes", [False, True])
def test_a_palette_of_a_tiff_has_its_colours(bits: int, alpha: bool, planes: bool) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (3, 2**bits))
    numbers = rng.integers(0, 2**bits, (H, W))
    opaque = np.where(rng.random((H, W)) < 0.5, 0, 2**bits - 1)
    parts = [numbers, opaque] if alpha else [numbers]
    tags = images.page(W, H, [bits] * len(parts), 3, t284=2 if planes else 1)
    tags |= {320: (3, (table * 257).ravel().tolist())} | ({338: (3, 2)} if alpha else {})
    whole = np.stack(parts, -1).reshape(H, -1)
    data = [images.packed_bits(part, bits) for part in parts] if planes else [images.packed_bits(whole, bits)]
    pixels = shown(images.tiff(tags, data, ">"), 4)
    assert np.array_equal(pixels[..., 3], np.where(opaque, 255, 0) if alpha else np.full((H, W), 255))
    seen = pixels[..., 3] > 0
    assert np.array_equal(pixels[seen][:, :3], table.T[numbers[seen]])


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_upright_and_known_for_it(tmp_path: Path, kind: str, orientation: int) -> None:
    values = drawn(kind, 1)
    file = io.BytesIO()
    tifffile.imwrite(file, values[..., 0], photometric="minisblack", extratags=[(274, 3, 1, orientation, True)])
    content = file.getvalue()
    upright = pyvips.Image.new_from_array(scaled(values)).copy()
    upright.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    pixels = shown(content)
    assert np.array_equal(pixels[..., 0], np.asarray(upright.autorot().numpy()).reshape(pixels.shape[:2]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = Image.fromarray(scaled(values)[..., 0].astype(np.uint8))
    lying.info["exif"] = exif.tobytes()
    assert np.array_equal(pixels[..., 0], np.asarray(ImageOps.exif_transpose(lying)))
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert probe(path) == probe(content) == (pixels.shape[:2], 1)


def test_strips_that_are_many_and_large_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegen.data.tiff.TOGETHER", 1000)
    for planes, packing in itertools.product((False, True), PACKINGS):
        values = drawn("u2", 3)
        file = io.BytesIO()
        data = np.ascontiguousarray(np.moveaxis(values, -1, 0) if planes else values)
        rows = {} if "tile" in packing else {"rowsperstrip": 5}
        config = "separate" if planes else "contig"
        tifffile.imwrite(file, data, photometric="rgb", planarconfig=config, **packing, **rows)
        assert np.array_equal(shown(file.getvalue()), scaled(values))


def test_a_tiff_of_webps(tmp_path: Path) -> None:
    """Strips that are files of WebP each, which Pillow's libtiff is built without."""
    values = drawn("u1", 3)
    strips = []
    for top in range(0, H, 16):
        file = io.BytesIO()
        Image.fromarray(values[top : top + 16]).save(file, "WEBP", lossless=True)
        strips.append(file.getvalue())
    tags = {**images.page(W, H, [8, 8, 8], 2, t259=50001), 278: (4, 16)}
    assert np.array_equal(shown(images.tiff(tags, strips)), values)


@pytest.mark.parametrize("bands", [1, 3])
def test_a_tiff_of_jpegs_is_what_libvips_makes_of_it(bands: int) -> None:
    smooth = np.asarray(Image.linear_gradient("L").resize((64, 48)).rotate(30).convert({1: "L", 3: "RGB"}[bands]))
    for tile in (False, True):
        content = pyvips.Image.new_from_array(smooth).tiffsave_buffer(compression="jpeg", Q=95, tile=tile)
        assert np.abs(shown(content) - by_vips(content)).max() <= 1


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (images.page(4, 4, 64, t339=6), "64 bits of complex numbers"),
        (images.page(4, 4, [5, 6, 5], 2), "5 and 6 bits"),
        (images.page(4, 4, [16, 16, 16], 8), "CIELab"),
        (images.page(4, 4, 16, 32803), "a sensor's mosaic"),
        (images.page(4, 4, 16, t259=34887), "compressed by LERC"),
        (images.page(4, 4, 16, t259=12345), "compressed by method 12345"),
        (images.page(4, 4, 16, t317=34892), "TIFF"),
    ],
)
def test_a_tiff_that_cannot_be_read_is_called_what_it_is(tags: dict[int, tuple[int, object]], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as told:
        read(images.tiff(tags, [bytes(128)]), Target())
    assert "not an image" not in str(told.value)


def test_damaged_tiffs_are_named_and_nothing_is_written_beside(capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff writes lines of its own on stderr where nobody stops it."""
    values = drawn("u2", 3)
    image = pyvips.Image.new_from_array(values).copy(interpretation="rgb16")
    rng = np.random.default_rng(0)
    reasons: set[str] = set()
    for compression in ("lzw", "deflate", "none", "packbits"):
        whole = image.tiffsave_buffer(compression=compression)
        for _ in range(40):
            damaged = bytearray(whole)
            for place in rng.integers(4, len(whole), 20):
                damaged[place] = rng.integers(0, 256)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of Pillow's on odd directories, as where many are read
                    read(bytes(damaged[: rng.integers(len(whole) // 2, len(whole))]), Target((8, 8)))
            except Unreadable as error:
                reasons.add(str(error))
    assert "cut short or damaged" in reasons
    assert not reasons & {"", "not an image"}
    assert capfd.readouterr().err == ""


# ------------------------------------------------------------------------------------------------- white


def test_white_can_be_said_and_what_is_cut_is_noted() -> None:
    """Cameras put 12 bits into 16."""
    values = np.array([[0, 1000, 4095, 4096]], np.uint16)
    rgb = np.repeat(values[..., None], 3, 2)
    files = [images.png(values, 16, 0), images.png(rgb, 16, 2)]
    for array in (values, rgb, values.astype("f4"), values.astype("i4")):
        file = io.BytesIO()
        tifffile.imwrite(file, array, photometric="rgb" if array.ndim == 3 else "minisblack")
        files.append(file.getvalue())
    for content in files:
        pixels, note = noted(content, Target(channels=1, white=4095.0))
        assert pixels.flatten().tolist() == [0, 62, 255, 255]
        assert note == Note.CUT
        assert noted(content, Target(white=65535.0))[1] == Note.NOTHING
    eight = images.png(np.array([[0, 100, 255]]), 8, 0)
    assert read(eight, Target(white=4095.0)).flatten().tolist() == [0, 100, 255], "8 bits are what they are"


# ------------------------------------------------------------------------------------------------- PNG

DEPTHS = [
    (bits, colours)
    for colours, all_bits in {0: (1, 2, 4, 8, 16), 2: (8, 16), 4: (8, 16), 6: (8, 16)}.items()
    for bits in all_bits
]
SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}


@pytest.mark.parametrize(("bits", "colours"), DEPTHS)
@pytest.mark.parametrize("clear", [False, True])
def test_a_png_of_every_depth_and_its_transparent_colour(bits: int, colours: int, clear: bool) -> None:
    if clear and colours not in (0, 2):
        return
    rng = np.random.default_rng(bits)
    samples, most = SAMPLES[colours], 2**bits - 1
    values = rng.integers(0, most + 1, (H, W, samples))
    chosen = values[3, 5].copy()
    values[7:9, 7:30] = chosen
    if bits == 16:
        values[12, 12] = chosen ^ 1  # of the same upper byte, and not transparent
    trns = [(b"tRNS", chosen.astype(">u2").tobytes())] if clear else []
    content = images.png(values, bits, colours, *trns)
    opaque = np.where((values == chosen).all(-1), 0, 255) if clear else np.full((H, W), 255)
    if samples % 2 == 0:
        opaque = np.rint(values[..., -1] / most * 255)
    plain = scaled(values[..., : 1 if samples < 3 else 3], most)
    channels = 2 if samples < 3 else 4
    pixels = shown(content, channels)
    seen = pixels[..., -1] > 0
    assert np.array_equal(pixels[..., -1], opaque)
    assert np.array_equal(pixels[seen], np.dstack([plain, opaque])[seen])
    flat = plain * opaque[..., None] / 255 + 255 - opaque[..., None]
    assert np.abs(shown(content) - flat).max() <= 1
    assert shown(content).shape[2] == probe(content)[1] == (1 if samples < 3 else 3)  # type: ignore[index]
    # libvips keeps 16 bits and knows transparent colours.
    other = by_vips(content)
    assert np.abs(scaled(other)[..., : plain.shape[2]] - plain)[seen].max() == 0
    if clear or samples % 2 == 0:
        assert np.abs(scaled(other)[..., -1] - opaque).max() == 0


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_png_with_a_palette_and_clear_colours(bits: int) -> None:
    rng = np.random.default_rng(bits)
    table = rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    clear = rng.integers(0, 256, 2**bits - 1, dtype=np.uint8)  # the last one is opaque
    numbers = rng.integers(0, 2**bits, (H, W))
    content = images.png(numbers, bits, 3, (b"PLTE", table.tobytes()), (b"tRNS", clear.tobytes()))
    opaque = np.append(clear, 255)[numbers]
    pixels = shown(content, 4)
    expected = np.dstack([np.where(opaque[..., None] > 0, table[numbers], 255), opaque])
    assert np.array_equal(pixels, expected)
    assert np.array_equal(by_vips(content)[opaque > 0], expected[opaque > 0])


@pytest.mark.parametrize("size", [None, (16, 16)])
def test_a_png_that_is_interlaced_and_turned(size: tuple[int, int] | None) -> None:
    image = pyvips.Image.new_from_array(drawn("u2", 3)).copy(interpretation="rgb16")
    plain, laced = (image.pngsave_buffer(interlace=way) for way in (False, True))
    assert np.array_equal(shown(plain, size=size), shown(laced, size=size))
    assert np.array_equal(shown(plain, white=60000.0), shown(laced, white=60000.0))


# ------------------------------------------------------------------------------------------------- BMP, WebP, GIF, JPEG


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize(
    ("kind", "masks", "head"),
    [
        ("u4", (0xFF00, 0xFF0000, 0xFF000000), 40),
        ("u4", (0x3FF00000, 0xFFC00, 0x3FF), 40),
        ("u4", (0xFF, 0xFF00, 0xFF0000, 0xFF000000), 56),
        ("u4", (0x3FF, 0xFFC00, 0x3FF00000, 0xC0000000), 124),
        ("u4", (0xFF00, 0xFF0000, 0xFF000000, 0xFF), 40),
        ("u2", (0xF00, 0xF0, 0xF), 40),
        ("u2", (0xF00, 0xF0, 0xF, 0xF000), 108),
        ("u2", (0xC000, 0x3800, 0x1), 40),
    ],
)
def test_a_bmp_of_any_fields_of_bits(kind: str, masks: tuple[int, ...], head: int, upright: bool) -> None:
    pixels = drawn(kind, 1)[..., 0]
    content = images.bmp(pixels, masks, head=head, upright=upright)
    whole = [(pixels & mask) >> ((mask & -mask).bit_length() - 1) for mask in masks]
    expected = np.dstack(
        [np.rint(v / v.dtype.type(m >> ((m & -m).bit_length() - 1)) * 255) for v, m in zip(whole, masks, strict=True)]
    )
    if len(masks) == 4:
        expected[expected[..., 3] == 0, :3] = 255
    assert np.array_equal(shown(content, len(masks)), expected)
    assert probe(content) == ((H, W), 3)


@pytest.mark.parametrize("ending", ["webp", "png", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_format_and_mode_as_pillow_and_another_read_it(ending: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (H, W, 4), dtype=np.uint8)).resize((W, H))
    image = colours.convert("RGB").convert(mode) if mode not in ("LA", "RGBA") else colours.convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, ending, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    except OSError:
        return  # a format that has no such mode
    content = file.getvalue()
    with Image.open(io.BytesIO(content)) as opened:
        wanted = np.asarray(opened.convert("RGBA")).astype(int)
    pixels = shown(content, 4)
    seen = wanted[..., 3] > 0
    assert np.array_equal(pixels[seen], wanted[seen])
    if ending != "bmp" and not (ending == "tiff" and mode == "P"):  # which libvips does not know, or gives as numbers
        other = by_vips(content).astype(int)
        other = other if other.shape[2] > 2 else np.concatenate([other[..., :1]] * 3 + [other[..., 1:]], 2)
        assert np.array_equal(pixels[..., : other.shape[2]][seen], other[seen])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_of_every_mode_and_orientation(mode: str, orientation: int) -> None:
    smooth = Image.linear_gradient("L").resize((64, 48)).rotate(30).convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95, exif=exif)
    content = file.getvalue()
    with Image.open(file) as opened:
        wanted = ImageOps.exif_transpose(opened).convert("L" if mode == "L" else "RGB")
    pixels = shown(content)
    assert np.array_equal(pixels, np.asarray(wanted).reshape(pixels.shape))
    assert probe(content) == (pixels.shape[:2], pixels.shape[2])
    if mode != "CMYK":  # whose colours libvips takes from a profile
        other = pyvips.Image.new_from_buffer(content, "").autorot().numpy()
        assert np.abs(pixels - np.asarray(other).reshape(pixels.shape)).max() <= 1
