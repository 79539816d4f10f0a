"""What packing a source would do, told from its records and a few of its images."""

import math
from collections import Counter
from collections.abc import Sequence

from ray_diffusion.data.packing.choose import SPLITS, split_of
from ray_diffusion.data.packing.images import Finding, extent
from ray_diffusion.data.packing.inspect import InspectTask, inspect_records
from ray_diffusion.data.packing.recipe import Recipe
from ray_diffusion.data.packing.source import Source

SAMPLE = 100  # images that are decoded


def preview(source: Source, recipe: Recipe) -> str:
    """Count what a source lists and look at a sample of it; writes nothing.

    Args:
        source: The images.
        recipe: What would be done with them.

    Returns:
        Lines for the user.
    """
    count = len(source.records)
    sampled = min(count, SAMPLE)
    records = [source.records[i * count // sampled] for i in range(sampled)]
    findings = inspect_records(InspectTask("sample", records, source.load, recipe))
    rows = [
        ("source", f"{source.name}: {count:,} images in {len(source.classes):,} classes"),
        ("first key", source.records[0].key),
        ("sample", f"{sampled} images, {_sizes(findings)}"),
        *_left_out(findings),
        *_shards(source, recipe),
    ]
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def _sizes(findings: Sequence[Finding]) -> str:
    seen = [finding for finding in findings if finding.width]
    if not seen:
        return "none of them readable"
    colour = "colour" if any(finding.colour for finding in seen) else "grey"
    return f"{extent(seen)} pixels, {colour}"


def _left_out(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    counts = Counter(finding.reason for finding in findings if finding.reason is not None)
    return [("left out", f"{number} of the sample: {why}") for why, number in counts.items()]


def _shards(source: Source, recipe: Recipe) -> list[tuple[str, str]]:
    """Images and shards of each split, if no image were left out."""
    counts = Counter(split_of(record, recipe) for record in source.records)
    rows = []
    for split in SPLITS:
        shards = math.ceil(counts[split] / recipe.examples_per_shard)
        if shards:
            rows.append((split, f"{counts[split]:,} images, {shards:,} shard{'s' * (shards > 1)}"))
    return rows
