"""The command kit: what a command is written with, one of aegen's own as well as a third party's.

    # my_package.py
    from aegen.command import Annotated, Image, Model, Out, argument, command, tell_files, usual

    @command("aegen twice photo.png -o twice.png")
    def twice(image: Annotated[Image, argument("IMAGE", "What to reconstruct.")], model: Model, out: Annotated[Out, usual("twice.png")]) -> None:
        \"\"\"Write an image as the model sees it, and as it sees that.\"\"\"
        once = model.reconstruct(image.read())
        tell_files([out.picture(once, model.reconstruct(once))], as_json=False)

    # pyproject.toml
    [project.entry-points."aegen.commands"]
    twice = "my_package:twice"

A parameter's type says what a line can give for it, and what the function gets:

| type | on the line | the function gets |
|---|---|---|
| `Model` | `-c/--checkpoint`, `--device`, `--component` | the loaded model (`aegen.Model`) |
| `Checkpoint` | `-c/--checkpoint`, `--component` | the path, or None for the latest run |
| `Image`, `Images` | a path; files, folders and globs | `Pictures`, which read as every command does |
| `Run`, `Runs` | a run folder, or several | the path, of the latest run if none is given; the paths |
| `Annotated[Out, usual("new.png")]` | `-o/--out`, `--force` | `Destination`, which replaces nothing unasked |
| `Annotated[str, chosen("sampler", "--sampler", …)]` | `--sampler`, and the options of the sampler that it names | the name |
| `Options` | nothing | what the line says of those options, by name |
| `Annotated[Settings, settings("Training")]` | the flags of `aegen train` under that heading, and `--set` | layers of settings, `[(flag, {"train.epochs": 5})]` |
| `Size` | `--size`, of images where a model takes any | the text; `Pictures.read(size=…)` and the functions of `aegen` know it |
| `File`, `Force`, `Device`, `Seed`, `Json` | as in every command | the value |

Other parameters are Typer's: `n: int = 3`, or `Annotated[int, option("-n", "--count", help="How many.", least=1)] = 3`. `--component` is added where
a checkpoint is read. Nothing is imported for `--help` but the module of the command: import torch inside of the function. Results go to stdout
(`tell_files`, `tell`, `table`, `tell_json`), talk to stderr (`say`, and `Display()` as a listener of a training). Errors are `aegen.UsageError` and its kin.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import typer

import aegen.cli.options as lines
from aegen import registry
from aegen.cli.help_format import page
from aegen.cli.options import Device, Force, Json, Seed, checked
from aegen.cli.render import number, say, table, tell, tell_files, tell_json
from aegen.contract.commands import MARK
from aegen.errors import AegenError, PluginError
from aegen.spec import Range

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from torch import Tensor

    from aegen.cli.progress import Display
    from aegen.inference import Model as Handle
    from aegen.inference.sizes import Size as _Size

__all__ = [
    "Annotated",
    "Checkpoint",
    "Destination",
    "Device",
    "Display",
    "File",
    "Force",
    "Image",
    "Images",
    "Json",
    "Model",
    "Options",
    "Out",
    "Path",
    "Pictures",
    "Run",
    "Runs",
    "Seed",
    "Settings",
    "Size",
    "argument",
    "chosen",
    "command",
    "number",
    "option",
    "out_option",
    "places",
    "say",
    "settings",
    "table",
    "tell",
    "tell_files",
    "tell_json",
    "usual",
]


def __getattr__(name: str) -> Any:
    """What is seldom needed, and would slow every `--help`."""
    if name == "Display":
        from aegen.cli.progress import Display

        return Display
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


F = TypeVar("F", bound=Callable[..., Any])
_Parameters = list[inspect.Parameter]


@dataclass(frozen=True)
class _Role:
    """What a parameter is, where Typer alone does not know it."""

    name: str
    info: Any = None
    kind: str = ""
    prefix: str = ""
    usual: str = ""
    flag: str = ""
    without: tuple[str, ...] = ()
    unnamed: bool = False


# ---------------------------------------------------------------------------------------------------- options


def option(
    *flags: str,
    help: str,
    metavar: str = "",
    kind: type = int,
    least: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    complete: Callable[[], Sequence[str]] | None = None,
    **more: Any,
) -> Any:
    """An option: its names, what it is for, and what it takes.

    Args:
        metavar: what stands for the value in help, `text` or `path`; numbers with bounds and choices have one.
        kind: `int` or `float`, of a number that has a bound.
        least, most: bounds, both included.
        choices: the words that are offered; the function refuses others.
        complete: names that a shell may offer.
        more: for `typer.Option`.
    """
    if least is not None or most is not None:
        more |= checked(flags[0], kind, Range(least, most))
    elif metavar or choices:
        more["metavar"] = metavar or "|".join(choices)
    names = complete or ((lambda: list(choices)) if choices else None)
    return typer.Option(*flags, help=help, autocompletion=names, **more)


def argument(metavar: str, help: str, **more: Any) -> Any:
    """What is given without a flag: its word in the usage line, and what it is."""
    return typer.Argument(metavar=metavar, help=help, **({"show_default": False} | more))


def places(help: str) -> Any:
    """Paths as they are written, one or more, for what reads them itself."""
    return typer.Argument(help=help, show_default=False)


def usual(place: str) -> _Role:
    """Of an `Out`: where it writes where the line does not say; `nearest.png`, then `nearest-2.png`."""
    return _Role("out", usual=place)


def out_option(text: str) -> Any:
    """`-o` as a mere path, for what chooses its names itself; `text` says them."""
    return lines.out(text)


def chosen(kind: str, *flags: str, help: str, prefix: str = "", unnamed: bool = False) -> _Role:
    """An option that names a component of `kind`, whose own options are the command's too: `--sampler.components`.

    What the line says of them is given as `Options`.

    Args:
        prefix: of its options, by default the kind.
        unnamed: whether those of the default are there too where the line names none; it is then described for every line.
    """
    info = option(*flags, help=help, metavar="text", complete=lambda: registry.names(kind))
    flag = next(flag for flag in flags if flag.startswith("--"))
    return _Role("chosen", info, kind, prefix or kind, flag=flag, unnamed=unnamed)


def settings(heading: str, *, without: Sequence[str] = ()) -> _Role:
    """Of a `Settings`: the flags of `aegen train` under one of its headings, but for some, with their spelling and meaning."""
    text = "Any setting, such as train.ema=0.999; may be repeated."
    return _Role("settings", option("--set", metavar="KEY=VALUE", help=text), kind=heading, without=tuple(without))


if TYPE_CHECKING:
    Model = Annotated[Handle, _Role("model")]
else:
    Model = Annotated[Any, _Role("model", get_args(lines.Checkpoint)[1])]
Checkpoint = Annotated[Path | None, _Role("checkpoint"), get_args(lines.Checkpoint)[1]]
File = Annotated[Path, _Role("file"), typer.Argument(metavar="FILE", help="A file.", show_default=False)]
Run = Annotated[
    Path, _Role("run"), typer.Argument(metavar="[RUN]", help="Run folder.  [default: the latest run under ./runs]")
]
Runs = Annotated[list[Path], _Role("runs"), typer.Argument(metavar="RUN", help="Run folders, two or more.")]
Options = Annotated[dict[str, Any], _Role("options")]
Settings = list[tuple[str, dict[str, Any]]]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="pixels|HEIGHTxWIDTH|own",
        help="Another size than the model was trained at: pixels a side, height x width, or each image's own.  [default: the model's]",
        show_default=False,
    ),
]


# ---------------------------------------------------------------------------------------------------- what a function gets


class Pictures:
    """Image files that a line names: files, folders (searched through and through) and globs.

    Args:
        model: to whose shape they are brought.

    Raises:
        UsageError: a place does not exist or holds no image.
    """

    def __init__(self, places: Sequence[str], model: Handle | None = None) -> None:
        from aegen.inference.reading import find_images

        self._sources, self._model = find_images(places, say), model

    @property
    def paths(self) -> list[Path]:
        """Where they are, in order; once they are read, only of those that could be."""
        return [source.path for source in self._sources]

    def spare(self, files: Sequence[Path]) -> None:
        """Refuse to write over any of them.

        Raises:
            UsageError: one of `files` is one of them.
        """
        from aegen.inference.reconstruction import spare

        spare(files, self._sources)

    def read(self, model: Handle | None = None, size: _Size | None = None) -> Tensor:
        """The images (N, C, H, W) in [-1, 1], in the shape of `model`; what is converted or skipped is said.

        Args:
            size: another than the model's, as `--size` has it, where it takes any; `own` of images that are all of one size.

        Raises:
            UsageError: a file that was named, or every file, cannot be read; the model takes no such size.
        """
        from aegen.data.batches import normalize
        from aegen.inference import sizes
        from aegen.inference.reading import read_images

        known = self._known(model)
        wanted = sizes.require(known.model, known.path, size)
        self._sources, pixels = read_images(self._sources, known, say, size=wanted)
        return normalize(pixels)

    def batches(
        self, model: Handle | None = None, batch: int | None = None, size: _Size | None = None
    ) -> Iterator[tuple[list[Path], Tensor]]:
        """The images of `read` some at a time, with their paths, for more than fit into memory.

        Args:
            batch: images at a time; by default as many as the model computes at once, and fewer where sizes change.
            size: as `read`.
        """
        from aegen.inference import sizes
        from aegen.inference.reading import read_in_batches

        known = self._known(model)
        wanted = sizes.require(known.model, known.path, size)
        for sources, x in read_in_batches(self._sources, known, say, batch or known.batch, wanted):
            yield [source.path for source in sources], x

    def _known(self, model: Handle | None) -> Handle:
        known = model or self._model
        if known is None:
            raise TypeError("images are read in a model's shape: give read() the model, or the command a Model")
        return known


class Destination:
    """Where a command writes: the place that the line names, or the first free name that begins with the usual one.

    Args:
        named: the place, None where the line says none.
        usual: the default name, with its ending.
        force: whether what stands at `named` may be replaced.

    Raises:
        UsageError: something stands at `named`, or its ending says no picture where `usual` is one.
    """

    def __init__(self, named: Path | None, usual: str | Path, force: bool = False) -> None:
        from aegen.inference.loading import Output
        from aegen.pictures import STILLS, check_ending

        if named is not None and Path(usual).suffix in STILLS:
            check_ending(named)
        self.named, self.force = named, force
        self._place = Output(named, usual, force)

    @property
    def path(self) -> Path:
        """Where it would go now."""
        return self._place.path

    def write(self, make: Callable[[Path, bool], None]) -> Path:
        """The file, made by `make(path, replaces)`, which writes it whole or not at all.

        Raises:
            UsageError: it cannot be written.
            RunError: the disk is full or fails.
        """
        return self._place.write(make)

    def picture(self, *rows: Tensor, columns: int | None = None) -> Path:
        """A picture of images (N, C, H, W) in [-1, 1] or uint8, all in one grid.

        Args:
            columns: images beside each other; by default such that it is about as wide as high.
        """
        import torch

        from aegen import pictures

        images = [pictures.to_uint8(row) if row.is_floating_point() else row for row in rows]
        return self._save(pictures.grid(torch.cat(images), columns))

    def _save(self, sheet: Picture) -> Path:
        from aegen import pictures

        return self.write(lambda path, replaces: pictures.save(sheet, path, replaces=replaces))

    def text(self, text: str) -> Path:
        """A file of text, UTF-8."""
        from aegen.atomic import write_text

        return self.write(lambda path, replaces: write_text(path, text, replaces=replaces))


Image = Annotated[Pictures, _Role("image", places("An image."))]
Images = Annotated[Pictures, _Role("images", places("Images, folders or globs."))]
Out = Annotated[Destination, _Role("out")]


# ---------------------------------------------------------------------------------------------------- the decorator


def command(*examples: str, short: str = "", meant: Sequence[str] = (), notes: Sequence[str] = ()) -> Callable[[F], F]:
    """Make a function a command; it stays the function that it is, for tests.

    Args:
        examples: whole lines, which stand at the end of its help.
        short: its line in `aegen --help`, by default the first of its docstring.
        meant: what people may type who have not seen its name.
        notes: what else stands below its options.
    """

    def mark(function: F) -> F:
        setattr(function, MARK, Command(function, tuple(examples), short, tuple(meant), tuple(notes)))
        return function

    return mark


@dataclass(frozen=True)
class Command:
    """A function, and what its line looks like."""

    function: Callable[..., Any]
    examples: tuple[str, ...] = ()
    short: str = ""
    meant: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def plain(self, args: list[str]) -> tuple[Callable[..., Any], str]:
        """The function as Typer reads it, with the options of components that `args` name, and what stands below its help.

        Raises:
            PluginError: a parameter cannot be what it says.
            UsageError: a component that the line names is unknown.
        """
        parts = [_part(parameter, self.function) for parameter in _signature(self.function)]
        call = functools.partial(_call, self.function, parts)
        plain = [p for part in parts for p in part.plain]
        if any(part.role in ("model", "checkpoint", "run", "runs") for part in parts):
            at = next((i for i, p in enumerate(plain) if p.annotation == Json), len(plain))  # which stands last
            names = [part.parameter.name for part in parts]
            if "device" not in names and any(part.role == "model" for part in parts):
                plain.insert(at, _keyword("kit_device", Device, "auto"))
                at += 1
            plain.insert(at, _keyword("kit_component", lines.Components, None))

        def run(kit_given: lines.Given | None = None, **values: Any) -> Any:  # a name that no option has
            return call(values, kit_given or {})

        run.__doc__, run.__name__ = self.function.__doc__, self.function.__name__
        made: Callable[..., Any] = run
        run.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in plain}
        flags = [flag for part in parts for flag in part.flags(args)]
        if any(part.role in ("chosen", "settings") for part in parts):
            made = lines.extend(run, flags, "kit_given")
        return made, page(self.examples, *self.notes)


@dataclass
class _Part:
    """One parameter of a command's function.

    Attributes:
        plain: what Typer reads for it.
    """

    parameter: inspect.Parameter
    role: str = ""
    mark: _Role = field(default_factory=lambda: _Role(""))
    plain: _Parameters = field(default_factory=list)

    def flags(self, args: Sequence[str]) -> list[lines.Flag]:
        """The settings that it stands for, or the options of the component that it names on this line or by its default."""
        if self.role == "settings":
            return lines.setting_flags(self.mark.kind, self.mark.without)
        if self.role != "chosen":
            return []
        named, default = lines.peek(args, self.mark.flag)[self.mark.flag], self.parameter.default
        words = args if named or not self.mark.unnamed else [*args, self.mark.flag, default]
        try:
            return lines.flags_of(words, self.mark.flag, self.mark.kind, self.mark.prefix)
        except AegenError:
            if named:
                raise
            return []  # the line may name another; if it does not, using the default says what is wrong


def _signature(function: Callable[..., Any]) -> _Parameters:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_INFOS = (type(typer.Option()), type(typer.Argument()))


def _part(parameter: inspect.Parameter, function: Callable[..., Any]) -> _Part:
    """A parameter by its type: what it is, and what Typer reads for it."""
    annotation, name = parameter.annotation, parameter.name
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    roles = [one for one in marks if isinstance(one, _Role)]
    infos = [one for one in marks if isinstance(one, _INFOS)]
    if not roles:
        return _Part(parameter, plain=[parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)])
    role = roles[-1]
    info = infos[-1] if infos else role.info
    base, default = get_args(annotation)[0], parameter.default
    if role.name == "out":
        if not role.usual:
            raise PluginError(
                f"command {function.__name__!r} does not say where {name!r} is written where the line names no place",
                hint='write Annotated[Out, usual("name.png")]',
            )
        plain = [
            _keyword(name, Annotated[Path | None, lines.out(role.usual)], None),
            _keyword("kit_force", Force, False),
        ]
    elif role.name == "options":
        plain = []
    elif role.name == "settings":
        plain = [_keyword(name, Annotated[list[str] | None, info], None)]
    elif role.name in ("image", "images"):
        word: Any = str if role.name == "image" else list[str]
        plain = [_keyword(name, Annotated[word, info], default)]
    elif role.name in ("model", "checkpoint", "run"):
        plain = [_keyword(name, Annotated[Path | None, info], None)]
    else:
        plain = [_keyword(name, Annotated[base, info], default)]
    return _Part(parameter, role.name, replace(role, info=info), plain)


def _call(function: Callable[..., Any], parts: Sequence[_Part], values: dict[str, Any], given: lines.Given) -> Any:
    """Call the function with what its types promise; what can be refused at once is refused before a model is read."""
    roles = {part.role for part in parts}
    if roles & {"model", "out"} and os.environ.get("RANK", "0") != "0":
        return None  # what several processes would compute and write alike is the first one's to do
    components, device = values.pop("kit_component", None), values.pop("kit_device", None)
    force = values.pop("kit_force", False)
    if components:
        from aegen.inference import trust_components

        trust_components(components)
    named = {part.parameter.name: part for part in parts}
    for name, part in named.items():
        if part.role == "out":
            values[name] = Destination(values[name], part.mark.usual, force)
        elif part.role == "run" and values[name] is None:
            from aegen.rundir import latest_run

            values[name] = latest_run()
        elif part.role == "options":  # of components; a setting has its section before it
            values[name] = {key: value for key, (_, value) in given.items() if "." not in key}
        elif part.role == "settings":
            from aegen.config import parse_sets

            said = [parse_sets(values[name])] if values[name] else []
            values[name] = said + [(flag, {key: value}) for key, (flag, value) in given.items() if "." in key]
    for name, part in named.items():
        if part.role in ("image", "images"):
            places = values[name]
            values[name] = Pictures([places] if isinstance(places, str) else places)
            for other, out in named.items():
                if out.role == "out" and values[other].named is not None:
                    values[name].spare([values[other].named])
    for name, part in named.items():
        if part.role == "model":
            from aegen.inference import load

            model = values[name] = load(values[name], device=device or values.get("device", "auto"))
            for other, images in named.items():
                if images.role in ("image", "images"):
                    values[other]._model = model
    return function(**values)
