"""An evaluation as one HTML page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ray_diffusion.evaluation.figures import number
from ray_diffusion.evaluation.gallery import Panel
from ray_diffusion.page.document import beside, document, grid, listing, picture, section, table

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
        section("Figures", _figures(evaluation["figures"])),
        beside(*map(_panel, panels[:2])),
        *map(_panel, panels[2:]),
    ]
    if evaluation["per_class"]:
        body.append(section("Classes", _classes(evaluation["per_class"])))
    origin = {name: evaluation[name] for name in ORIGIN if evaluation[name] is not None}
    body.append(
        beside(
            section("Sampler", listing(evaluation["sampler"])),
            section("Origin", listing(origin), ORIGIN_TEXT),
        )
    )
    return document(evaluation["name"], body, evaluation["image_size"])


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
    return table(("", "drawn", "real", "images"), rows)


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
    return table(("", "accuracy", "real", "precision", "real", "images"), rows)


def _panel(panel: Panel) -> str:
    tiles = (picture(tile.pictures, tile.name, tile.caption) for tile in panel.tiles)
    return section(panel.title, grid(tiles, panel.columns), panel.text)
