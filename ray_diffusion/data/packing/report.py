"""What was packed and what was left out, as one HTML page beside the dataset."""

import io
import shlex
from collections.abc import Sequence
from html import escape
from statistics import median

from PIL import Image

from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.packing.choose import Choice
from ray_diffusion.data.packing.images import Finding
from ray_diffusion.data.packing.recipe import SMALL
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.page.document import beside, document, grid, listing, picture, section, table
from ray_diffusion.page.histogram import STYLE, histogram

PICTURES, COLUMNS = 48, 8  # of the contact sheet
THUMBNAIL = 128  # pixels
FEW = 4  # examples of each kind
FEW_CLASSES, MOST_CLASSES = 20, 200  # shown at once, and in a table at all
MOST_WORDS = 120  # characters of what a decoder said
HERE = """
pre { margin: 0 0 .6rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
summary { cursor: pointer; color: var(--soft); }
"""


def report(
    manifest: Manifest,
    source: Source,
    findings: Sequence[Finding],
    choice: Choice,
    sheet: Sequence[tuple[str, bytes]],
    out: str,
) -> str:
    """Write the page.

    Args:
        manifest: What the dataset holds.
        source: What was packed.
        findings: What each of the source's records is.
        choice: What became of them.
        sheet: Some examples to look at: caption (empty for none) and image as stored; the first
            ``PICTURES`` are shown, as thumbnails if they are large.
        out: Where the dataset is.

    Returns:
        HTML that needs no other file.
    """
    commands = "".join(f"<pre>{escape(command)}</pre>" for command in next_commands(manifest, out))
    settings = {n: "automatic" if v is None else v for n, v in manifest.packer.items()}
    body = [
        f"<h1>{escape(source.name)}</h1><p>{escape(out)}</p>",
        f"<p>{_intro(manifest, findings, choice)}</p>",
        beside(
            section("Splits", _splits(manifest)),
            section("Next", commands),
        ),
        section("Left out", _left_out(source.records, findings, choice)),
        section(
            "Examples",
            _contact_sheet(sheet[:PICTURES], manifest.image_size),
            "As training reads them.",
        ),
        _found(findings),
    ]
    if manifest.classes:
        body.append(_classes(manifest))
    if choice.duplicates:
        body.append(_duplicates(source.records, findings, choice))
    body.append(section("Packed with", listing(settings)))
    return document(source.name, body, manifest.image_size, STYLE + HERE)


def next_commands(manifest: Manifest, out: str) -> list[str]:
    """What to type after packing.

    Args:
        manifest: What the dataset holds.
        out: Where it is.

    Returns:
        Commands for a shell: train on it, check it.
    """
    dataset = shlex.quote(f"data.dataset_url={out}")
    return [
        f"python -m ray_diffusion.train run.name=NAME {dataset} "
        f"data.image_size={manifest.image_size}",
        f"python -m ray_diffusion.pack verify {shlex.quote(out)}",
    ]


def _intro(manifest: Manifest, findings: Sequence[Finding], choice: Choice) -> str:
    kept = sum(map(manifest.examples, manifest.splits))
    colour = sum(finding.colour for finding in findings if finding.width)
    grey = sum(not finding.colour for finding in findings if finding.width)
    return (
        f"{kept:,} of {len(findings):,} images, {manifest.image_size}×{manifest.image_size} "
        f"pixels, {'grey' if manifest.channels == 1 else 'colour'}, stored as {choice.encoding}. "
        f"As found, {colour:,} were in colour and {grey:,} grey. "
        f"Fingerprint {manifest.fingerprint}."
    )


def _splits(manifest: Manifest) -> str:
    kept = sum(map(manifest.examples, manifest.splits))
    rows = [
        (
            split,
            f"<b>{manifest.examples(split):,}</b>",
            _share(manifest.examples(split), kept),
            f"{len(shards):,}",
            f"{sum(shard.bytes for shard in shards) / 1e6:,.1f}",
        )
        for split, shards in manifest.splits.items()
    ]
    return table(("", "images", "share", "shards", "MB"), rows)


def _left_out(records: Sequence[Record], findings: Sequence[Finding], choice: Choice) -> str:
    if not choice.rejected:
        return "<p>Nothing.</p>"
    examples: dict[str, list[str]] = {reason: [] for reason in choice.rejected}
    for record, finding in zip(records, findings, strict=True):
        if finding.reason and len(examples[finding.reason]) < FEW:
            said = finding.detail[:MOST_WORDS]
            examples[finding.reason].append(f"{record.key}: {said}" if said else record.key)
    rows = [
        (
            escape(reason) + "".join(f"<small>{escape(text)}</small>" for text in examples[reason]),
            f"<b>{count:,}</b>",
            _share(count, len(records)),
        )
        for reason, count in sorted(choice.rejected.items(), key=lambda item: -item[1])
    ]
    return table(("", "images", "share"), rows)


def _share(part: int, whole: int) -> str:
    return f"<i>{part / whole:.1%}</i>"


def _contact_sheet(sheet: Sequence[tuple[str, bytes]], image_size: int) -> str:
    shown = _thumbnail if image_size > SMALL else bytes
    pictures = (picture([shown(file)], caption or "example", caption) for caption, file in sheet)
    return grid(pictures, COLUMNS)


def _thumbnail(file: bytes) -> bytes:
    image, small = Image.open(io.BytesIO(file)), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(small, "jpeg", quality=80)
    return small.getvalue()


def _found(findings: Sequence[Finding]) -> str:
    """The sizes and shapes of the source's images, before anything was changed."""
    decoded = [finding for finding in findings if finding.width]
    shorter = [min(finding.width, finding.height) for finding in decoded]
    ratios = [finding.width / finding.height for finding in decoded]
    return beside(
        _distribution("Shorter side as found", shorter, "pixels", ",.0f"),
        _distribution("Aspect ratio as found", ratios, "width : height", ".2f"),
    )


def _distribution(title: str, values: Sequence[float], label: str, spec: str) -> str:
    least, middle, most = (format(f(values), spec) for f in (min, median, max))
    if least == most:
        return section(title, "", f"The same for all: {least}.")
    drawing = histogram(values, label, "images")
    return section(title, drawing, f"{least} to {most}, median {middle}.")


def _classes(manifest: Manifest) -> str:
    """Images of each class; of very many classes a table of the smallest."""
    counts, names = manifest.class_counts, manifest.classes
    train = counts["train"]
    order = sorted(range(len(names)), key=train.__getitem__)
    least, most = order[0], order[-1]
    text = (
        f"{len(names):,} classes, of {train[least]:,} ({names[least]}) to {train[most]:,} "
        f"({names[most]}) training images."
    )
    listed = range(len(names)) if len(names) <= MOST_CLASSES else order[:MOST_CLASSES]
    rows = [(escape(names[i]), *(f"{counts[split][i]:,}" for split in counts)) for i in listed]
    content = table(("", *counts), rows)
    if len(names) > FEW_CLASSES:
        which = "All classes" if len(rows) == len(names) else f"The {len(rows)} smallest classes"
        content = (
            f"{histogram(train, 'training images', 'classes')}"
            f"<details><summary>{which}</summary>{content}</details>"
        )
    return section("Classes", content, text)


def _duplicates(records: Sequence[Record], findings: Sequence[Finding], choice: Choice) -> str:
    kept = {index: split for split, indices in choice.splits.items() for index in indices}
    rows = [
        (
            f"{escape(records[copy].key)}<small>like {escape(records[twin].key)}, "
            f"which is in {kept[twin]}</small>",
            "equal pixels" if findings[copy].sha256 == findings[twin].sha256 else "look alike",
        )
        for copy, twin in choice.duplicates[:FEW]
    ]
    text = f"Copies of images that stay: {len(choice.duplicates):,}; the first {len(rows)}:"
    return section("Duplicates", table(("", ""), rows), text)
