"""One self-contained HTML file: style, script and pictures are in it, and it asks nobody for anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from aegen.installed import version_of
from aegen.reporting.markup import text

# What the page may load, said to the browser too: nothing from anywhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(kind: str, title: str, opening: str, sections: Sequence[str], command: str) -> str:
    """A whole document.

    Args:
        kind: a word above the title.
        opening: HTML below the title.
        sections: made by `markup.section`; the navigation is read from them.
        command: what made the page.
    """
    links = "".join(
        f'<a href="#{found[1]}">{found[2]}</a>'
        for part in sections
        if (found := re.match(r'<section id="([^"]+)"><h2>(.*?)</h2>', part))
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="aegen {text(version_of("aegen"))}">
<title>{text(title)}</title>
<style>
{_resource("page.css")}</style>
</head>
<body>
<header><p class="kind">{text(kind)}</p><h1>{text(title)}</h1></header>
<main>
<nav aria-label="Sections">{links}</nav>
{opening}
{"".join(f"{part}{chr(10)}" for part in sections)}</main>
<footer>Made by aegen {text(version_of("aegen"))}: <code>{text(command)}</code></footer>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return files("aegen.reporting").joinpath(name).read_text(encoding="utf-8")
