"""What several evaluations say together: a later one adds to what was measured, and replaces only what it measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aegen.evaluation import Evaluation

_OF_FEATURES = "features_"  # what only evaluations that looked at features have
_OF_THE_DATA = ("name", "fingerprint", "held_out")


@dataclass
class Merged:
    """Evaluations of the same weights on the same images by the same rules, as one.

    Attributes:
        whole: what they say together, the newest first to be believed.
        apart: why others by the same protocol on data of the same name are none of them, in words.
    """

    whole: Evaluation
    apart: list[str]


def merged(evaluations: Sequence[Evaluation]) -> Merged | None:
    """The newest, and all that can stand beside it.

    Args:
        evaluations: by one protocol, on data of one name, of one model; oldest first.
    """
    if not evaluations:
        return None
    newest, *older = map(labelled, reversed(evaluations))
    whole = replace(newest, protocol=dict(newest.protocol), numbers=list(newest.numbers), skipped=dict(newest.skipped))
    whole.notes = list(newest.notes)
    reasons: dict[str, int] = {}
    for one in older:
        why = _differs(whole, one)
        if why:
            reasons[why] = reasons.get(why, 0) + 1
        else:
            _add(whole, one)
    apart = [
        f"{count} earlier by this protocol {'is' if count == 1 else 'are'} of {why}" for why, count in reasons.items()
    ]
    return Merged(whole, apart)


def looked_at(one: Evaluation) -> set[str]:
    """Metrics of which there is a number by their usual options, or a reason why there is none."""
    return {number.metric for number in one.numbers} | one.skipped.keys()


def _add(whole: Evaluation, one: Evaluation) -> None:
    """What `one`, which is older, measured and `whole` did not."""
    known = {number.metric for number in whole.numbers}
    added = [number for number in one.numbers if number.metric not in known]
    whole.numbers = sorted([*whole.numbers, *added], key=lambda number: number.metric)  # as if measured at once
    for metric, reason in one.skipped.items():
        whole.skipped.setdefault(metric, reason)
    for number in whole.numbers:  # a metric that was skipped later, where its network was not there
        whole.skipped.pop(number.metric, None)
    if added:
        whole.notes += [note for note in one.notes if note not in whole.notes]
    whole.protocol |= {key: value for key, value in one.protocol.items() if key not in whole.protocol}


def _differs(whole: Evaluation, one: Evaluation) -> str:
    """What is not the same, in words; nothing where all is."""
    if any(whole.data.get(key) != one.data.get(key) for key in _OF_THE_DATA):
        return "other images of the same name"
    for key in {**whole.protocol, **one.protocol}:
        both = key in whole.protocol and key in one.protocol
        if whole.protocol.get(key) != one.protocol.get(key) and (both or not key.startswith(_OF_FEATURES)):
            return f"another {key.replace('_', ' ')}"
    return ""


def labelled(one: Evaluation) -> Evaluation:
    """Numbers of metrics with other options than the usual ones under names of their own, as they are numbers of their own."""
    if not one.options:
        return one
    numbers = [
        replace(n, metric=f"{n.metric}{_label(one.options[n.metric])}", name=f"{n.name}{_label(one.options[n.metric])}")
        if n.metric in one.options
        else n
        for n in one.numbers
    ]
    skipped = {f"{name}{_label(one.options.get(name, {}))}": reason for name, reason in one.skipped.items()}
    return replace(one, numbers=numbers, skipped=skipped, options={})


def _label(options: Mapping[str, Any]) -> str:
    return " with " + ", ".join(f"{key}={value}" for key, value in options.items()) if options else ""
