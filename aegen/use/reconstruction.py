"""Read pictures that the user names, and write their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aegen import pictures
from aegen.data import decode
from aegen.data.batches import normalize
from aegen.data.listing import list_folder, match
from aegen.data.source import skipped_text
from aegen.engine.parallel import World, world
from aegen.errors import UsageError
from aegen.protocols import LeftOut
from aegen.talk import warn
from aegen.use.loading import Loaded, Output, Say, folder_for_each, load, refuse_present, save_each, silent

_PLACES = "give images (PNG, JPEG, WebP, BMP, GIF, TIFF), folders or globs"

_KINDS = 5  # of size and colour, that are named


@dataclass
class Source:
    """A picture that the user named.

    Attributes:
        name: where `--each` puts its reconstruction, relative to the folder of outputs.
        named: whether the user named this very file, rather than a folder that holds it.
    """

    path: Path
    name: Path
    named: bool


def find_images(places: Sequence[str], say: Say = silent) -> list[Source]:
    """Files, folders (searched through and through, as training does) and globs → pictures, in order.

    Args:
        say: is told of images that are left out.

    Raises:
        UsageError: a place does not exist or holds no picture.
    """
    found: list[Source] = []
    left = LeftOut()
    for text in places:
        if not text.strip():
            raise UsageError(f"{text!r} names no image", hint=_PLACES)
        path = Path(text).expanduser()
        try:
            is_dir, exists = path.is_dir(), path.exists()
            if is_dir:
                files = _inside(path, left)
            elif exists:
                files = [Source(path, Path(path.name), True)]
            else:
                matched, hidden = match(str(path))
                left.add(hidden)
                files = [source for one in matched for source in _matched(one, left)]
        except OSError as error:
            raise UsageError(f"{text} cannot be read ({error.strerror})") from error
        if not files:
            wild = any(c in text for c in "*?[")
            what = "matches no file" if wild else "holds no image" if is_dir else "does not exist"
            raise UsageError(f"{text} {what}" + f"; {left}" * bool(left), hint=_PLACES)
        found += files
    if left:
        warn(say, str(left))
    return found


def _inside(folder: Path, left: LeftOut) -> list[Source]:
    """The pictures of a folder."""
    listed = list_folder(folder)
    left.add(listed.left_out + listed.unreadable)
    return [Source(folder.joinpath(*name), Path(*name), False) for name in listed.images]


def _matched(place: Path, left: LeftOut) -> list[Source]:
    """What a glob found: a file, or the pictures of a folder under its name."""
    if not place.is_dir():
        return [Source(place, Path(place.name), False)]
    return [Source(one.path, Path(place.name, one.name), False) for one in _inside(place, left)]


def read_images(sources: Sequence[Source], loaded: Loaded, say: Say) -> tuple[list[Source], Tensor]:
    """Decode to the model's shape: the readable sources and their pixels, uint8 (N, C, H, W).

    What is converted or skipped is said.

    Raises:
        UsageError: a file that the user named, or every file, cannot be read.
    """
    image = loaded.model.image
    target = decode.Target((image.height, image.width), image.channels, loaded.spec.data.fit, loaded.spec.data.white)
    others: dict[str, list[Path]] = {}
    for source in sources:
        shape = decode.probe(source.path)
        if shape is not None and (shape[0] != target.size or (shape[1] == 1) != (image.channels <= 2)):
            theirs = f"{shape[0][0]}×{shape[0][1]} (height×width) in {'grey' if shape[1] == 1 else 'colour'}"
            others.setdefault(theirs, []).append(source.path)
    for theirs, paths in list(others.items())[:_KINDS]:
        who = f"{paths[0]} is" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more are"
        say(f"{who} {theirs}, converted to the model's {image}")
    if rest := sum(len(paths) for paths in list(others.values())[_KINDS:]):
        say(f"{rest:,} more are of other sizes, converted too")
    tensors, bad = decode.read_many([s.path for s in sources], target, say)
    named = {s.path for s in sources if s.named}
    for path, reason in bad:
        if path in named or len(bad) == len(sources):
            raise UsageError(f"{path} cannot be read ({reason})", hint="give another image")
    if bad:
        texts = [f"{path.name} ({reason})" for path, reason in bad]
        warn(say, f"{skipped_text(texts, f'{len(sources):,} given')}; it goes on without them")
    good = [(s, t) for s, t in zip(sources, tensors, strict=True) if t is not None]
    return [s for s, _ in good], torch.stack([t for _, t in good])


@torch.no_grad()
def encode(loaded: Loaded, pixels: Tensor, *, stochastic: bool, seed: int) -> Tensor:
    """uint8 images (N, C, H, W) → latents (N, *z): posterior means, or draws from the posteriors."""
    loaded.require_encoder("this")
    torch.manual_seed(seed)
    latents = (loaded.model.encode(normalize(part.to(loaded.device))) for part in pixels.split(loaded.batch))
    return torch.cat([latent.z if stochastic else latent.mean for latent in latents])


@torch.no_grad()
def reconstruct(
    places: Sequence[str],
    place: Path | str | None = None,
    *,
    each: bool = False,
    stochastic: bool = False,
    out: Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = "auto",
    say: Say = silent,
) -> list[Path]:
    """Write originals above reconstructions, or with `each` one file an image under its own name into `out`.

    Under `torchrun` each process decodes a part of the images; the first one writes, and it alone returns files.

    Args:
        force: replace what stands where is to be written, if it is no input.

    Raises:
        UsageError: an image cannot be read, or an output would fall on an input, or on another file.
    """
    with world(device) as here:
        loaded, talk = load(place, device=str(here.device)), say if here.first else silent
        return _reconstruct(loaded, here, places, each, stochastic, out, seed, talk, force)


@torch.no_grad()
def _reconstruct(
    loaded: Loaded,
    here: World,
    places: Sequence[str],
    each: bool,
    stochastic: bool,
    out: Path | None,
    seed: int,
    say: Say,
    force: bool = False,
) -> list[Path]:
    if out is not None and not each:
        pictures.check_ending(out)
    given, target = find_images(places, say), None
    # What cannot be written is refused before thousands of images are decoded.
    if not each:
        if here.first:
            spare([out] if out is not None else [], given)
            target = Output(out, "reconstructions.png", force)
    elif out is not None and here.first:
        files = _own_names(given, folder_for_each(out, ""))
        spare(files, given)
        refuse_present(files, force)
    sources, pixels = read_images(given, loaded, say)
    if not each:
        pictures.check_room(2 * len(pixels), pixels.shape[2:], "add --each for one file an image")
    elif out is not None and here.first and len(sources) < len(given):  # others have other numbers now
        files = _own_names(sources, folder_for_each(out, ""))
        spare(files, sources)
        refuse_present(files, force)
    # Noise is drawn batch after batch, so that every process draws all of it, and encodes all.
    latents = encode(loaded, pixels, stochastic=stochastic, seed=seed).split(loaded.batch)
    images = list(loaded.decode_shared(latents, here))
    if not here.first:
        return []
    again = torch.cat(images)
    if target is not None:
        sheet = pictures.pairs(pixels, pictures.to_uint8(again))
        return [target.write(lambda path, replaces: pictures.save(sheet, path, replaces=replaces))]
    files = _own_names(sources, folder_for_each(out, "reconstructions"))
    save_each(again, files, force)
    return files


def _own_names(sources: Sequence[Source], folder: Path) -> list[Path]:
    """One output a source, under its own name; GIF becomes PNG, and of two equal names the second is numbered."""
    taken: set[Path] = set()
    numbers: dict[Path, int] = {}  # by name, the next one to try
    files: list[Path] = []
    for source in sources:
        name = source.name if source.name.suffix.lower() in pictures.STILLS else source.name.with_suffix(".png")
        file, number = folder / name, numbers.get(name, 2)
        while file in taken:
            file = folder / name.with_name(f"{name.stem}-{number}{name.suffix}")
            number += 1
        numbers[name] = number
        taken.add(file)
        files.append(file)
    return files


def spare(files: Sequence[Path], sources: Sequence[Source]) -> None:
    """Refuse to write over what was read.

    Raises:
        UsageError: an output is also an input.
    """
    inputs = {s.path.resolve() for s in sources}
    for file in files:
        if file.resolve() in inputs:
            raise UsageError(f"{file} is also an input and would be overwritten", hint="give another place with -o")
