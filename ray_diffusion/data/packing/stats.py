"""What a dataset holds, as plain text."""

from collections.abc import Iterable, Mapping

from ray_diffusion.data.manifest import Latents, Manifest


def summary(manifest: Manifest) -> str:
    """One line for each split, and for each reason that images were left out for."""
    return "\n".join(_splits(manifest) + _left_out(manifest))


def stats(manifest: Manifest) -> str:
    """All that a manifest says but for the shards' names."""
    colour = {1: "grey", 3: "colour"}[manifest.channels]
    facts = {
        "images": f"{manifest.image_size}x{manifest.image_size} pixels, {colour}",
        "mean": _numbers(manifest.channel_mean),
        "std": _numbers(manifest.channel_std),
        "fingerprint": manifest.fingerprint,
    }
    blocks = [
        _aligned(facts.items()),
        _latents(manifest.latents) if manifest.latents else [],
        [*_splits(manifest), *_left_out(manifest)],
        _classes(manifest),
        ["packer", *(f"  {line}" for line in _aligned(_shown(manifest.packer)))],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _splits(manifest: Manifest) -> list[str]:
    rows = []
    for split, shards in manifest.splits.items():
        size = sum(shard.bytes for shard in shards) / 1e6
        plural = "" if len(shards) == 1 else "s"
        images = f"{manifest.examples(split):,} images, {len(shards):,} shard{plural}"
        rows.append((split, f"{images}, {size:,.1f} MB"))
    return _aligned(rows)


def _latents(latents: Latents) -> list[str]:
    facts = {
        "latents": f"{latents.channels}x{latents.size}x{latents.size}, "
        f"{'means' if latents.moments == 1 else 'means and log-variances'}",
        "mirror images": "encoded as well" if latents.mirrored else "none",
        "mean": _numbers(latents.mean),
        "std": _numbers(latents.std),
        "codec": latents.codec,
        "encoded from": f"{latents.images_url}, fingerprint {latents.images}",
    }
    return _aligned(facts.items())


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _left_out(manifest: Manifest) -> list[str]:
    return [f"left out: {count:,} {reason}" for reason, count in manifest.rejected.items()]


def _classes(manifest: Manifest) -> list[str]:
    if not manifest.classes:
        return ["no classes"]
    counts = manifest.class_counts
    rows = [
        (name, ", ".join(f"{counts[split][label]:,} {split}" for split in counts))
        for label, name in enumerate(manifest.classes)
    ]
    return [f"{len(manifest.classes)} classes", *(f"  {line}" for line in _aligned(rows))]


def _shown(values: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    return ((key, "null" if value is None else str(value)) for key, value in values.items())


def _aligned(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max((len(left) for left, _ in rows), default=0)
    return [f"{left:<{width}}  {right}" for left, right in rows]
