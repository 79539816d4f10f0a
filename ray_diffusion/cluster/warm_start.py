"""The weights that a new run begins with: fetched, verified, kept in the run's directory.

``<run>/init`` holds ``weights.safetensors``, the ``config.yaml`` they were trained with, and
``origin.json``, sealed. A worker anywhere, and a launch after this one, need nothing else.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ray_diffusion import config as configs
from ray_diffusion.config import Config
from ray_diffusion.config.wording import show
from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.models.build import build
from ray_diffusion.pipeline import WEIGHTS as FILES
from ray_diffusion.pipeline import fetch
from ray_diffusion.storage import MANIFEST, Directory, damage, digest
from ray_diffusion.tracking.registry import SCHEME, fetch_model
from ray_diffusion.training import checkpoint
from ray_diffusion.training.warm_start import INIT, WEIGHTS, Match, shapes_of, stored_shapes

CONFIG, ORIGIN = "config.yaml", "origin.json"

# Networks of other widths share a bias here and there, those of another kind a convolution at an
# end: by accident, and that is no beginning.
LEAST_SHARE = 0.01


def rehearse(config: Config, run: Directory, tracking_uri: str) -> list[str]:
    """What ``prepare`` would say, from a few kilobytes and without writing anything.

    Args:
        config: The resolved configuration.
        run: The run's directory.
        tracking_uri: The run's MLflow, where ``run.init_from`` may be a registered model; such a
            one is downloaded for a moment.

    Returns:
        What the run begins with, then what is odd about it; empty if it begins with random
        weights, or goes on from a checkpoint.

    Raises:
        UsageError: If there is no such source, or nothing of it fits.
        StorageError: If it is damaged, as far as its header tells.
        TrackingError: If MLflow cannot be reached.
    """
    source = config.run.init_from
    if source is None or checkpoint.newest_facts(run):
        return []
    url = _published(config, run)
    if url is not None:
        return _told(config, url, run / INIT, WEIGHTS)
    if not source.startswith(SCHEME):
        directory = Directory(source)
        newest = checkpoint.newest_facts(directory)
        directory = directory / newest[0] if newest else directory
        return _told(config, directory.url, directory, FILES[config.run.init_weights])
    with _fetched(source, tracking_uri) as (url, files):
        return _told(config, url, Directory(str(files)), FILES[config.run.init_weights])


def prepare(config: Config, run: Directory, tracking_uri: str) -> list[str]:
    """Publish the weights that a run begins with, unless it has them or is beyond its beginning.

    Args:
        config: The resolved configuration.
        run: The run's directory.
        tracking_uri: The run's MLflow.

    Returns:
        As of ``rehearse``.

    Raises:
        UsageError: If there is no such source, or nothing of it fits.
        StorageError: If it is damaged.
        TrackingError: If MLflow cannot be reached.
    """
    source = config.run.init_from
    if source is None or checkpoint.newest_facts(run):
        return []
    if _published(config, run) is None:
        with _fetched(source, tracking_uri) as (url, files):
            _told(config, url, Directory(str(files)), FILES[config.run.init_weights])  # or refuses
            _publish(config, run, url, files)
    return rehearse(config, run, tracking_uri)


def _published(config: Config, run: Directory) -> str | None:
    """Where the run's published weights are from, if it has those that are asked for."""
    init = run / INIT
    content = init.read(ORIGIN)
    if content is None or init.read(MANIFEST) is None:
        return None
    origin = json.loads(content)
    same = all(origin[key] == getattr(config.run, key) for key in ("init_from", "init_weights"))
    return str(origin["url"]) if same else None


@contextmanager
def _fetched(source: str, tracking_uri: str) -> Iterator[tuple[str, Path]]:
    """A whole model on this machine for a while, and the URL that will mean the same tomorrow."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch)
        if not source.startswith(SCHEME):
            yield fetch(Directory(source), path), path
            return
        url, path = fetch_model(source, tracking_uri, path)
        problem = damage(path)
        if problem is not None:
            raise StorageError(f"{url} {problem}")
        yield url, path


def _told(config: Config, url: str, source: Directory, weights: str) -> list[str]:
    """Refuse what is no source for this run; say what the run gets of any other."""
    content, shapes = source.read(CONFIG), stored_shapes(source, weights)
    if content is None or shapes is None:
        raise UsageError(
            f"run.init_from: {url} has no {weights if content else CONFIG}; wanted is a run with a "
            "checkpoint, a checkpoint, or an exported model, which has no raw weights"
        )
    theirs = configs.flatten(configs.from_yaml(content.decode(), f"{url}/{CONFIG}"))
    ours = configs.flatten(config)
    with torch.device("meta"):
        found = Match(shapes, shapes_of(build(config)))
    fits, rest = found.describe()
    if found.share < LEAST_SHARE or theirs["model.kind"] != ours["model.kind"]:
        raise UsageError(
            f"run.init_from: {url}, a {theirs['model.kind']}, does not fit this run's "
            f"{ours['model.kind']}: it has {fits}; {_changes(theirs, ours, 'model.')}"
        )
    lines = [f"{fits} from {url}, {config.run.init_weights}" + (f"; {rest}" if rest else "")]
    changes = _changes(theirs, ours, "data.codec", "diffusion.")
    if changes:
        lines.append(f"the weights of run.init_from were trained for another task: {changes}")
    return lines


def _changes(theirs: dict[str, object], ours: dict[str, object], *starts: str) -> str:
    return ", ".join(
        f"{key}: {show(value)} -> {show(ours[key])}"
        for key, value in theirs.items()
        if key.startswith(starts) and ours[key] != value
    )


def _publish(config: Config, run: Directory, url: str, files: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        init, weights = Path(scratch), files / FILES[config.run.init_weights]
        origin = {
            "init_from": config.run.init_from,
            "init_weights": config.run.init_weights,
            "url": url,
            "sha256": digest(weights)["sha256"],
        }
        weights.rename(init / WEIGHTS)
        (files / CONFIG).rename(init / CONFIG)
        (init / ORIGIN).write_text(json.dumps(origin, indent=1))
        run.publish(init, INIT)
