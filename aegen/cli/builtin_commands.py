"""aegen's own commands that are plugins, made by `python tests/tables.py`: `aegen --help` imports and scans nothing."""

BUILTIN: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "reconstruct": (
        "aegen_builtin.commands.reconstruct:reconstruct",
        "Originals above reconstructions: aegen reconstruct photo.png",
        ("encode", "decode", "autoencode", "restore", "denoise"),
    ),
    "sample": (
        "aegen_builtin.commands.sample:sample",
        "Draw new images: aegen sample -n 64",
        ("generate", "draw", "gen"),
    ),
    "fit-sampler": (
        "aegen_builtin.commands.fit_sampler:fit_sampler",
        "Fit how latents are drawn: aegen fit-sampler runs/faces --sampler flow",
        ("prior", "flow", "sampler", "fit-prior", "density"),
    ),
    "interpolate": (
        "aegen_builtin.commands.interpolate:interpolate",
        "The way between images: aegen interpolate a.png b.png",
        ("morph", "blend", "mix"),
    ),
    "compare": (
        "aegen_builtin.commands.compare:compare",
        "Runs side by side, one page: aegen compare runs/a runs/b",
        ("diff", "leaderboard", "versus", "vs"),
    ),
    "report": (
        "aegen_builtin.commands.report:report",
        "A run as a page, its model card: aegen report runs/faces",
        ("plot", "show", "view", "card", "summary", "summarize", "visualize", "visualise", "dashboard"),
    ),
    "export": (
        "aegen_builtin.commands.export:export",
        "Write the model for others: aegen export --format onnx",
        ("save", "convert", "onnx", "deploy"),
    ),
    "import": (
        "aegen_builtin.commands.import_model:import_model",
        "A model trained elsewhere: aegen import mine.safetensors",
        ("load", "open", "upload"),
    ),
}
"""Name → entry point, the line in `aegen --help`, and what people call it."""
