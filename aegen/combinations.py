"""Names of objectives and what goes with what, by descriptions alone: no component is imported that is described already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aegen import registry
from aegen.descriptions import Description, describe, describe_all
from aegen.errors import AegenError, PluginError, UsageError
from aegen.objective_name import ObjectiveName
from aegen.spec import Spec


def described(kind: str, name: str) -> Description:
    """The description of a component by its name.

    Raises:
        UsageError: the name is unknown.
        PluginError: the component cannot be used.
    """
    return describe(registry.find(kind, name))


def expand(name: ObjectiveName) -> ObjectiveName:
    """The name with what stands for a combination written out: `vqgan` → `vq-vae+perceptual+adversarial`.

    Raises:
        UsageError: a name is unknown.
        PluginError: a name stands for itself, or what it stands for is not there.
    """
    return ObjectiveName(tuple(_expanded(name, ())))


def _expanded(name: ObjectiveName, within: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for part in name.parts:
        if part in within:
            way = " for ".join([*within, part])
            component = registry.find("objective", within[0])
            raise PluginError(f"{component.who} stands for itself ({way})", hint=component.remedy)
        try:
            meant = described("objective", part).stands_for
        except UsageError as error:
            if not within:
                raise
            component = registry.find("objective", within[-1])
            raise PluginError(
                f"{component.who} stands for {str(name)!r}, but {error}", hint=component.remedy
            ) from error
        found += _expanded(ObjectiveName.parse(meant), (*within, part)) if meant else [part]
    return found


def short(part: str) -> str:
    """The name under which a wrapper's options stand: that of the class for `./mine.py:Mine`, none of a package's."""
    return part.rpartition(":")[2] if registry.is_file(part) else part.rpartition("/")[2]


def stack(name: ObjectiveName) -> list[tuple[str, Description]]:
    """Its parts with their descriptions, innermost first.

    Raises:
        UsageError: a name is unknown, a wrapper stands first, or something that wraps nothing stands later.
    """
    if "" in name.parts and len(name.parts) > 1:
        raise UsageError(f"objective {str(name)!r} names nothing on a side of a +", hint="as in vae+adversarial")
    parts = [(part, described("objective", part)) for part in name.parts]
    first, *others = parts
    if first[1].wraps:
        raise UsageError(f"objective {first[0]!r} wraps another", hint=f"put one before it: vae+{name}")
    for part, told in others:
        if not told.wraps:
            raise UsageError(
                f"{part!r} in objective {str(name)!r} wraps nothing", hint=f"only wrappers follow {first[0]}+"
            )
    if len({short(part) for part, _ in parts}) < len(parts):
        raise UsageError(f"objective {str(name)!r} names a part twice", hint="leave one of them out")
    for part, told in parts:  # options of a wrapper stand under its name, beside those of what it wraps
        for other in (short(wrapper) for wrapper, _ in others if wrapper != part):
            if any(option.name == other for option in told.options):
                component = registry.find("objective", part)
                message = f"option {other!r} of {component.who} has the name of the wrapper in {str(name)!r}"
                raise PluginError(message, hint=f"leave the wrapper out, or {component.remedy}")
    return parts


def meant(name: ObjectiveName) -> list[tuple[str, Description]]:
    """What a name as it was typed means: its parts, innermost first, then those that stand for several of them."""
    short_for = [(part, told) for part in name.parts if (told := described("objective", part)).stands_for]
    return [*stack(expand(name)), *short_for]


def require_usual(objective: str, kind: str, name: str) -> None:
    """See that there is what an objective has unless the user says otherwise.

    Raises:
        PluginError: there is not.
    """
    try:
        registry.find(kind, name)
    except UsageError as error:
        component = registry.find("objective", objective)
        message = f"{component.who} has {kind} {name!r} unless another is chosen, but {error}"
        raise PluginError(message, hint=f"choose --{kind}, or {component.remedy}") from error


def objective_options(name: ObjectiveName, options: Mapping[str, Any]) -> list[Spec]:
    """One Spec for each part of a stack: options of the innermost stand bare, a wrapper's under its short name."""
    own = {k: v for k, v in options.items() if k not in map(short, name.wrappers)}
    return [Spec(name.base, own), *(Spec(w, dict(options.get(short(w), {}))) for w in name.wrappers)]


def combinations() -> list[dict[str, Any]]:
    """What goes with what: for each objective its defaults and the bottlenecks that offer what it needs.

    A third party's component that cannot be loaded is left out.
    """
    offers = _offers()
    rows = []
    names = registry.names("objective")
    describe_all(c for c in registry.components("objective"))
    for name in names:
        try:
            told, first = described("objective", name), described("objective", expand(ObjectiveName((name,))).base)
        except AegenError:
            continue
        rows.append(
            {
                "objective": name,
                "stands_for": told.stands_for,
                "wraps": first.wraps,
                "map": any(part.map_options is not None for _, part in meant(ObjectiveName((name,))))
                if not first.wraps
                else False,
                "bottleneck": "" if first.wraps else first.bottleneck,
                "likelihood": "" if first.wraps else first.likelihood,
                "goes_with": [neck for neck, has in offers.items() if first.needs <= has],
                "goes_without": [neck for neck, has in offers.items() if not first.needs <= has],
            }
        )
    return rows


def _offers() -> dict[str, frozenset[str]]:
    """What each bottleneck offers, those that cannot be used or that two packages own left out."""
    every = registry.components("bottleneck")
    told = describe_all(every)
    found: dict[str, frozenset[str]] = {}
    for name in registry.names("bottleneck"):
        owners = [told[c] for c in every if c.name == name]
        if len(owners) == 1 and isinstance(owners[0], Description):
            found[name] = owners[0].offers
    return found


def check_fit(objective: ObjectiveName, bottleneck: str) -> None:
    """Refuse what makes no sense before anything is built; what only instances know is checked when they are.

    Raises:
        UsageError: the objective needs what the bottleneck's class has not.
    """
    parts, neck = stack(objective), described("bottleneck", bottleneck)
    if neck.settled:
        needs = frozenset[str]().union(*(told.needs for _, told in parts))
        meet(f"objective {str(objective)!r}", needs, neck.title, neck.offers, parts[0][1].bottleneck)


def meet(who: str, needs: Iterable[str], bottleneck: str, offers: Iterable[str], usual: str = "") -> None:
    """Refuse a combination that makes no sense, and name the bottlenecks that would do, the `usual` one first.

    Args:
        bottleneck: the name of its class.

    Raises:
        UsageError: `needs` is not a subset of `offers`.
    """
    needs = frozenset(needs)
    lacking = needs - set(offers)
    if not lacking:
        return
    able: list[str] = []
    for name, has in _offers().items():
        if needs <= has:
            able.insert(0 if name == usual else len(able), name)
    best, *others = able or [""]
    what = f"--bottleneck {best}" + f" (or {', '.join(others)})" * bool(others)
    if not able:
        what = "a sampler that needs none" if who.startswith("sampler") else "another objective"
    raise UsageError(
        f"{who} needs a {' and a '.join(sorted(lacking))}, which the {bottleneck.lower()} bottleneck has not",
        hint=f"choose {what}",
    )
