"""One self-contained HTML file: style, script and pictures are in it, and it asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from aegen.package_metadata import version_of
from aegen.reporting.markup import text


def _policy(style: str, script: str) -> str:
    """What the page may load and run, said to the browser too: nothing from anywhere, and of what is in it this style and script alone."""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


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
    body = "".join(f"{part}\n" for part in sections)
    # Of each width one rule, since a style in an element would need a policy that lets any in.
    wide = sorted(set(map(int, re.findall(r'<img class="px"[^>]* data-wide="(\d{1,6})"', body))))
    style = "\n" + _resource("page.css") + "".join(f'.px:where([data-wide="{w}"]) {{ width: {w}px; }}\n' for w in wide)
    script = "\n" + _resource("page.js")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">
<meta name="generator" content="aegen {text(version_of("aegen"))}">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<header><p class="kind">{text(kind)}</p><h1>{text(title)}</h1></header>
<main>
<nav aria-label="Sections">{links}</nav>
{opening}
{body}</main>
<footer>Made by aegen {text(version_of("aegen"))}: <code>{text(command)}</code></footer>
<script>{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return files("aegen.reporting").joinpath(name).read_text(encoding="utf-8")
