"""A model card: what a model is, what it was made of and how, and what it cannot do.

The headings are those of Mitchell et al., Model Cards for Model Reporting, 2019, as far as a run can know the answers; what it
cannot know is left to the author, and says so.
"""

from __future__ import annotations

import shlex

from aegen.errors import counted
from aegen.reporting.figures import Sights
from aegen.reporting.markup import listed, section, text
from aegen.reporting.runs import Run
from aegen.reporting.sections import bottleneck, device, images_of
from aegen.reporting.speed import duration, training_seconds

_LEFT = "Not stated: this is for the author of the model to write."


def about(run: Run, seen: Sights) -> str:
    """What it is."""
    config = run.config
    size = f", {sum(seen.sizes.values()):,} parameters" if seen.sizes else ""
    what = (
        f"An autoencoder for images of {images_of(run)}: architecture {config['arch.name']}{size}, bottleneck {bottleneck(run)}, "
        f"likelihood {config['likelihood.name']}, trained by objective {config['objective.name']}."
    )
    return section("about", "The model", f"<p>{text(what)}</p>", listed(run.notes))


def data(run: Run) -> str:
    """What it was trained on."""
    if run.header is None:
        return section(
            "data", "Data", f"<p>{text(run.config['data.name'])}, of which nothing is known without a checkpoint.</p>"
        )
    note = run.header["data"]
    classes = note["classes"]
    told = (
        f" of {len(classes)} classes ({', '.join(classes[:12])}{', …' if len(classes) > 12 else ''})" if classes else ""
    )
    what = f"{images_of(run)}: {counted(note['count'], 'image')} for training{told}. Digest of their pixels: {note['fingerprint']}."
    return section("data", "Data", f"<p>{text(what)}</p>")


def training(run: Run) -> str:
    """How it was trained, and the line that does it again."""
    config = run.config
    steps = counted(run.header["step"], "step") if run.header else "Steps"
    seconds = training_seconds(run)
    time = f" It took {duration(seconds)}, without validation and pictures." if seconds else ""
    where = f", on {device(run)}" if device(run) else ""
    what = (
        f"{steps} of batch {config['train.batch_size']} with {config['train.optimizer']}, learning rate {config['train.lr']:g}, "
        f"precision {config['train.precision']}, seed {config['train.seed']}{where}.{time}"
    )
    again = f'<pre class="wrap">{_unbroken(command(run))}</pre>'
    return section("training", "Training", f"<p>{text(what)}</p>", again)


def _unbroken(line: str) -> str:
    """HTML in which a line is broken only before an option."""
    first, *options = line.split(" --")
    return text(first) + "".join(f" <span>--{text(option)}</span>" for option in options)


def command(run: Run) -> str:
    """The line that trains it again: the one that was typed, or the run's configuration file where that says more."""
    words = [str(word) for word in run.environment.get("command") or []]
    if words[:1] == ["train"] and "--resume" not in words and not any(w.startswith("--resume=") for w in words):
        return shlex.join(["aegen", *words])
    return f"aegen train --config {shlex.quote(f'{run.name}/config.toml')}"


def limits(run: Run, seen: Sights) -> str:
    """What it cannot do, as far as the run shows."""
    return section("limits", "Limits", listed(known_limits(run, seen)))


def known_limits(run: Run, seen: Sights) -> list[str]:
    """A sentence each."""
    found = []
    if run.header:
        found.append(
            f"It knows {counted(run.header['data']['count'], 'image')} of {images_of(run)} and nothing else; "
            "what it makes of other images was not looked at."
        )
        if not run.header.get("encodes", True):
            found.append("Its encoder was not trained: it draws images, but can neither encode nor reconstruct them.")
        found += _progress(run)
    else:
        found.append(f"It cannot be used: {run.trouble}.")
    if seen.offers and "prior" not in seen.offers:
        found.append("It has no prior; samples come from a density that was fitted to its latents after training.")
    elif seen.usual not in ("", "prior"):
        found.append(
            f"By default its samples come from a {seen.usual} fitted to its latents after training; "
            "straight from the prior they are usually poorer, as both pictures show."
        )
    if seen.active and seen.active[0] < seen.active[1]:
        unused = seen.active[1] - seen.active[0]
        found.append(
            f"{unused} of its {seen.active[1]} latent dimensions hardly move from image to image and carry next to nothing."
        )
    found.append(
        "All numbers are of one run with one seed; their intervals say what other images would change, not other seeds."
    )
    found.append("Whether it repeats training images, and how it treats groups of people in them, was not examined.")
    return found


def _progress(run: Run) -> list[str]:
    losses = [(line["step"], line["loss"]) for line in run.lines if line["split"] == "validation" and "loss" in line]
    if len(losses) < 2:
        return []
    step, _ = min(losses, key=lambda entry: entry[1])
    if step == losses[-1][0]:
        return ["Its validation loss was lowest at the very end, so longer training would probably improve it."]
    return [f"Its validation loss was lowest after {step:,} of {counted(losses[-1][0], 'step')}."]


def left() -> str:
    """What only the author can say."""
    parts = "".join(f"<h3>{title}</h3><p>{_LEFT}</p>" for title in ("Licence", "Intended use and users", "Contact"))
    return section("author", "For the author", parts)
