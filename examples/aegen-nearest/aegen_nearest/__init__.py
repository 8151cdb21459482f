"""`aegen nearest QUERY FOLDER`: which pictures of a folder a model finds most like one, by the distance of their latents."""

from aegen.command import Annotated, Image, Images, Json, Model, Out, argument, command, option, tell_files, usual


@command("aegen nearest mine.png photos/", "aegen nearest mine.png 'photos/*.jpg' -n 4 --json")
def nearest(
    query: Annotated[Image, argument("QUERY", "The picture to look for.")],
    among: Annotated[Images, argument("FOLDER", "Where to look: images, folders or globs.")],
    model: Model,
    out: Annotated[Out, usual("nearest.png")],
    count: Annotated[int, option("-n", "--count", help="How many are shown.", least=1)] = 8,
    as_json: Json = False,
) -> None:
    """Find the pictures that a trained model finds most like one, and write them behind it, the nearest first."""
    mine, theirs = query.read(), among.read()
    apart = (model.encode(theirs).mean - model.encode(mine).mean).flatten(1).norm(dim=1)
    distances, places = apart.topk(min(count, len(theirs)), largest=False)
    found = [{"file": str(among.paths[i]), "distance": float(d)} for i, d in zip(places, distances, strict=True)]
    tell_files([out.picture(mine, theirs[places])], as_json=as_json, nearest=found)
