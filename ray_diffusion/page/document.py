"""One HTML page: no scripts, no other files, for light and dark screens.

Titles, texts, names and captions are plain text and escaped here; contents and cells are HTML.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5f6b76; --line: #dfe3e8;
  --page: #f6f7f9; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa4af;
  --line: #30363d; --page: #0f1216; --card: #171b21; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 1rem; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.1rem 1.1rem; margin-top: 1rem; min-width: 0; overflow-x: auto; }
.side { display: grid; gap: 0 1rem; grid-template-columns: 1fr 1fr; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .5rem; text-align: right; border-top: 1px solid var(--line);
  vertical-align: top; font-weight: normal; white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-size: .85rem; }
th:first-child { text-align: left; padding-left: 0; white-space: normal;
  overflow-wrap: anywhere; }
th:last-child, td:last-child { padding-right: 0; }
i { font-style: normal; color: var(--soft); }
small { display: block; color: var(--soft); font-size: .82rem; line-height: 1.35; }
.grid { display: grid; gap: 3px; grid-template-columns: repeat(var(--columns), 1fr); }
figure { margin: 0; min-width: 0; }
figcaption { text-align: center; color: var(--soft); font-size: .75rem; }
img { display: block; width: 100%; image-rendering: var(--rendering); border-radius: 2px; }
img + img { margin-top: 3px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media (max-width: 44rem) { body { padding: 1rem .6rem 2rem; } .side { display: block; }
  section { padding: .8rem; } table { font-size: .85rem; } th, td { padding: .35rem .25rem; }
  .grid:has(figcaption) { --columns: 5 !important; } }
"""

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main style="--rendering: {rendering}">
"""
LARGE = 64  # pixels
FOOT = "</main>\n</body>\n</html>\n"
MEDIA_TYPES = {b"\x89P": "png", b"\xff\xd8": "jpeg", b"RI": "webp"}  # by a file's first bytes


def document(title: str, content: Iterable[str], image_size: int, style: str = "") -> str:
    """A whole page.

    Args:
        title: Of the window.
        content: HTML of the page's parts, in order.
        image_size: Side of its pictures, pixels. Small ones are enlarged without blur, large ones
            made smaller without jaggedness.
        style: CSS of what only this page has.

    Returns:
        HTML, to be written as UTF-8.
    """
    rendering = "pixelated" if image_size < LARGE else "auto"
    head = HEAD.format(title=escape(title), style=STYLE + style, rendering=rendering)
    return head + "".join(content) + FOOT


def section(title: str, content: str, text: str = "") -> str:
    """A box with a heading and, if given, a text that says what it shows."""
    said = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{said}{content}</section>\n"


def beside(*sections: str) -> str:
    """Two boxes side by side; on a small screen, one below the other."""
    return f'<div class="side">{"".join(sections)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, each row named by its first cell."""
    body = "".join(_row(row) for row in rows)
    return f"<table><thead>{_row(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _row(cells: Iterable[str], tag: str = "td") -> str:
    first, *others = cells
    return f"<tr><th>{first}</th>{''.join(f'<{tag}>{cell}</{tag}>' for cell in others)}</tr>"


def listing(facts: Mapping[str, object]) -> str:
    """Names and values; the names are plain text and so are the values."""
    entries = (
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
    )
    return f"<dl>{''.join(entries)}</dl>"


def grid(pictures: Iterable[str], columns: int) -> str:
    """Pictures in rows of ``columns``; fewer on a small screen if they have captions."""
    return f'<div class="grid" style="--columns: {columns}">{"".join(pictures)}</div>'


def picture(files: Iterable[bytes], name: str, caption: str = "") -> str:
    """One cell of a grid.

    Args:
        files: PNG, JPEG or WebP; they stand one below the other.
        name: What they show, for those who do not see them.
        caption: Text below them.

    Returns:
        HTML that holds the files themselves.
    """
    shown = "".join(
        f'<img src="data:image/{MEDIA_TYPES[file[:2]]};base64,{base64.b64encode(file).decode()}" '
        f'alt="{escape(name)}" title="{escape(name)}">'
        for file in files
    )
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{shown}{below}</figure>"
