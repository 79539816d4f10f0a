"""All that can be checked and counted before a cluster is asked for anything."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ray_diffusion import config as configs
from ray_diffusion.cluster import lineage, summary, warm_start
from ray_diffusion.cluster.environment import forwarded
from ray_diffusion.config import Config
from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.training_set import open_split, open_training_set
from ray_diffusion.diffusion.profile import coverage
from ray_diffusion.diffusion.schedule import complaints
from ray_diffusion.errors import ConfigError, UsageError, warn
from ray_diffusion.models.build import build
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.storage import Directory, absolute, options
from ray_diffusion.tracking.environment import Lineage
from ray_diffusion.tracking.identity import RunIdentity
from ray_diffusion.tracking.registry import SCHEME
from ray_diffusion.training.latents import check_codec
from ray_diffusion.training.reconstruction import perceptual_at


@dataclass(frozen=True)
class Plan:
    """A run that can start.

    Attributes:
        config: Resolved: nothing is left to default, locations are absolute.
        run: The run's directory.
        identity: The MLflow run.
        made_with: Files that tell what the run is made with, by name.
        train_images: Examples of the train split.
        val_images: Examples of the val split.
        order: How the order of the data is laid out, in words.
        parameters: Weights of the network.
        init: What the first weights are, in words; empty if random, or of a checkpoint.
        finished: The summary of the run, if it is already done.
    """

    config: Config
    run: Directory
    identity: RunIdentity
    made_with: Mapping[str, bytes]
    train_images: int
    val_images: int
    order: str
    parameters: int
    init: str
    finished: "summary.Summary | None"

    def describe(self) -> str:
        """The plan in a few lines for a person."""
        c = self.config
        steps = math.ceil(c.training.total_images / c.data.global_batch_size)
        images = steps * c.data.global_batch_size
        datasets = " + ".join((c.data.dataset_url, *c.data.mixture_urls))
        megabytes = self.parameters * 4 * 4 / 1e6  # weights, average and two moments in float32
        rows = {
            "run": f"{c.run.name}, in {self.run.url}",
            "data": f"{datasets}: {self.train_images:,} training and "
            f"{self.val_images:,} validation images, {c.data.image_size} pixels, "
            f"{c.model.num_classes} classes",
            "codec": _codec(c),
            "order": self.order,
            "model": f"{c.model.kind}, {self.parameters:,} parameters; "
            f"a checkpoint is {megabytes:,.0f} MB",
            "init": self.init,
            "diffusion": _diffusion(c),
            "training": f"{steps:,} steps of {c.data.global_batch_size} = {images:,} images "
            f"({images / self.train_images:.0f} epochs), {c.training.precision}",
            "workers": f"{self._workers()} on {'GPUs' if c.cluster.use_gpu else 'CPUs'}",
            "tracking": f"{self.identity.shown_uri}, experiment {c.tracking.experiment}",
        }
        return "\n".join(f"{name:<10} {text}" for name, text in rows.items() if text)

    def _workers(self) -> str:
        cluster = self.config.cluster
        least, most = cluster.least_workers, cluster.most_workers
        return f"{most}" if least == most else f"{least} to {most}"


def _codec(config: Config) -> str:
    data, model = config.data, config.model
    if model.learns_codec:
        side = data.image_size // model.latent_factor
        return f"to be learned: latents of {model.latent_channels} x {side} x {side}"
    if data.codec is None:
        return ""
    return f"{data.codec}: latents of {model.image_channels} x {data.side} x {data.side}"


def _diffusion(config: Config) -> str:
    if config.model.learns_codec:
        return ""
    said = config.diffusion
    return (
        f"{said.family}, {said.beta_schedule} schedule, T = {said.num_train_timesteps}, "
        f"{said.prediction_type}"
    )


def _absolute_storage(url: str) -> str:
    """Make a storage location absolute; a job's own working directory is no place for results."""
    if "://" not in url and not os.path.isabs(os.path.expanduser(url)):
        here = Path.cwd()
        if "runtime_resources" in here.parts:  # Ray deletes a job's unpacked working_dir
            return str(Path.home() / "ray_diffusion" / url)
    return absolute(url)


def _resolve(config: Config, manifest: Manifest) -> Config:
    """Fill in what follows from the dataset, and refuse what contradicts it."""
    model, latents = config.model, manifest.latents
    classes = len(manifest.classes)
    channels = manifest.channels if latents is None else latents.channels
    problems = []
    if model.num_classes not in (None, 0, classes):
        problems.append(
            f"model.num_classes: {model.num_classes}, but the dataset has {classes}; "
            "0 trains without classes"
        )
    if model.image_channels not in (None, channels):
        problems.append(
            f"model.image_channels: {model.image_channels}, but the dataset has {channels}"
        )
    if problems:
        raise ConfigError(problems)
    source, perceptual = config.run.init_from, config.autoencoder.perceptual_url
    registered = source is None or source.startswith(SCHEME)
    return configs.override(
        config,
        {
            "run.storage_url": _absolute_storage(config.run.storage_url),
            "run.init_from": source if registered else _absolute_storage(str(source)),
            "data.codec": latents and latents.codec,
            "data.latent_size": latents and latents.size,
            "autoencoder.perceptual_url": perceptual and absolute(perceptual),
            "model.num_classes": classes if model.num_classes is None else model.num_classes,
            "model.image_channels": channels,
        },
    )


def _refuse_changes(config: Config, run: Directory) -> None:
    content = run.read(lineage.CONFIG)
    if content is None:
        return
    old = configs.flatten(configs.from_yaml(content.decode(), f"{run.url}/{lineage.CONFIG}"))
    changed = configs.differences(old, config)
    if changed:
        names = [*config.run.allow, *(line.partition(":")[0] for line in changed)]
        raise UsageError(
            f"run '{config.run.name}' exists with another configuration; "
            "choose another run.name, or go back to:\n"
            + "\n".join(changed)
            + f"\nor go on all the same with run.allow=[{','.join(names)}]"
        )


def oddities(config: Config) -> list[str]:
    """What is odd about a schedule; odd schedules are worth an experiment, so it is only said."""
    if config.model.learns_codec:
        return []
    table = logsnr_table(config)
    found, covered = complaints(table), coverage(table)
    if covered < 1:
        found.append(
            f"no timestep is near {1 - covered:.0%} of the noise levels that val/score looks at"
        )
    return [f"diffusion.beta_schedule={config.diffusion.beta_schedule}: {one}" for one in found]


def prepare(config: Config, made_with: Lineage | None = None) -> Plan:
    """Check everything that can be checked without a cluster.

    Args:
        config: A configuration as the user gave it.
        made_with: What the run is made with, where the user has started another process.

    Returns:
        The plan. Nothing has been written, but for a built-in dataset packed into the cache.

    Raises:
        ConfigError: If the configuration contradicts the dataset or itself.
        UsageError: If the run exists with another configuration.
        DataError: If the dataset cannot be read.
        StorageError: If the run's directory cannot be written.
    """
    data, made_with = config.data, made_with or Lineage()
    options.use(config.run.storage_options)
    forwarded(config.cluster.forward_env)  # complains of what is missing here
    for complaint in oddities(config):
        warn(complaint)
    urls = [
        url if url.startswith("builtin:") else absolute(url)
        for url in (data.dataset_url, *data.mixture_urls)
    ]
    config = configs.override(
        config, {"data.dataset_url": urls[0], "data.mixture_urls": tuple(urls[1:])}
    )
    train, val = open_training_set(config.data), open_split(config.data, "val")
    config = _resolve(config, train.manifest)
    if config.data.codec is not None:
        check_codec(train.datasets[0].url, config.data.codec)
    if config.model.learns_codec and (url := config.autoencoder.perceptual_url):
        perceptual_at(url)  # before a cluster is asked for anything
    run = lineage.run_directory(config)
    run.check_writable()
    _refuse_changes(config, run)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(config).parameters())
    identity = lineage.identity(config, train.fingerprint, made_with.tags)
    init, *odd = warm_start.rehearse(config, run, identity.uri) or [""]
    for line in odd:
        warn(line)
    return Plan(
        config,
        run,
        identity,
        made_with.files,
        len(train),
        len(val),
        train.explain(),
        parameters,
        init,
        summary.finished(run, config),
    )
