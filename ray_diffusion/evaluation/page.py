"""An evaluation as one HTML page: no scripts, no other files, for light and dark screens."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ray_diffusion.evaluation.figures import number
from ray_diffusion.evaluation.gallery import Panel, Tile

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
ORIGIN = (
    "weights",
    "dataset_url",
    "dataset_fingerprint",
    "features_fingerprint",
    "codec_fingerprint",
    "score_fingerprint",
)
ORIGIN_TEXT = "Figures compare with those of other models where all fingerprints are the same."


def page(evaluation: Mapping[str, Any], panels: Sequence[Panel]) -> str:
    """Write the page.

    Args:
        evaluation: As ``evaluation.json`` holds it.
        panels: The pictures; the first two stand side by side.

    Returns:
        HTML.
    """
    seeds = ", ".join(map(str, evaluation["seeds"]))
    intro = (
        f"{evaluation['num_images']:,} images drawn with "
        f"{'seed' if len(evaluation['seeds']) == 1 else 'each of the seeds'} {seeds}, measured "
        f"with {evaluation['features']} features. Beside each figure stands that of real images "
        "which the model was not trained on."
    )
    body = [
        f"<h1>{escape(evaluation['name'])}</h1><p>{escape(evaluation['model'])}</p>",
        f"<p>{escape(intro)}</p>",
        _section("Figures", _figures(evaluation["figures"])),
        f'<div class="side">{"".join(map(_panel, panels[:2]))}</div>',
        *map(_panel, panels[2:]),
    ]
    if evaluation["per_class"]:
        body.append(_section("Classes", _classes(evaluation["per_class"])))
    origin = {name: evaluation[name] for name in ORIGIN if evaluation[name] is not None}
    body += [
        f'<div class="side">{_section("Sampler", _list(evaluation["sampler"]))}',
        f"{_section('Origin', _list(origin), ORIGIN_TEXT)}</div>",
    ]
    # Small images are enlarged without blur, large ones made smaller without jaggedness.
    rendering = "pixelated" if evaluation["image_size"] < LARGE else "auto"
    head = HEAD.format(title=escape(evaluation["name"]), style=STYLE, rendering=rendering)
    return head + "".join(body) + FOOT


def _section(title: str, content: str, text: str = "") -> str:
    said = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{said}{content}</section>\n"


def _row(cells: Iterable[str], tag: str = "td") -> str:
    first, *others = cells
    return f"<tr><th>{first}</th>{''.join(f'<{tag}>{cell}</{tag}>' for cell in others)}</tr>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(_row(row) for row in rows)
    return f"<table><thead>{_row(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, figure in figures.items():
        spread = "" if figure["spread"] is None else f"<small>± {number(figure['spread'])}</small>"
        meaning = f"{figure['meaning']}; {figure['better']} is better"
        rows.append(
            (
                f"{escape(name)}<small>{escape(meaning)}</small>",
                f"<b>{number(figure['value'])}</b>{spread}",
                f"<i>{number(figure['floor'])}</i>",
                f"{figure['count']:,}",
            )
        )
    return _table(("", "drawn", "real", "images"), rows)


def _classes(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            escape(name),
            f"<b>{number(found['accuracy'])}</b>",
            f"<i>{number(found['accuracy_floor'])}</i>",
            f"<b>{number(found['precision'])}</b>",
            f"<i>{number(found['precision_floor'])}</i>",
            f"{found['count']:,}",
        )
        for name, found in per_class.items()
    ]
    return _table(("", "accuracy", "real", "precision", "real", "images"), rows)


def _list(facts: Mapping[str, object]) -> str:
    entries = (
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
    )
    return f"<dl>{''.join(entries)}</dl>"


def _panel(panel: Panel) -> str:
    tiles = "".join(map(_tile, panel.tiles))
    grid = f'<div class="grid" style="--columns: {panel.columns}">{tiles}</div>'
    return _section(panel.title, grid, panel.text)


def _tile(tile: Tile) -> str:
    pictures = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(picture).decode()}" '
        f'alt="{escape(tile.name)}" title="{escape(tile.name)}">'
        for picture in tile.pictures
    )
    caption = f"<figcaption>{escape(tile.caption)}</figcaption>" if tile.caption else ""
    return f"<figure>{pictures}{caption}</figure>"
