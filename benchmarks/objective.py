"""Does the sweep's objective rank trials as the images that they draw do?

Trains short runs that differ as the trials of a sweep do, three seeds of each, in two processes of
one thread, without Ray. Draws images from each run by two samplers, and prints how well every
metric that training logs predicts their Frechet distance. Repeat the command after it was killed:
finished runs are skipped, and a half one continues::

    python benchmarks/objective.py [out=DIR]
"""

import hashlib
import sys
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from measuring import Found, Job, gather, quality
from numpy.typing import NDArray

from ray_diffusion import config as configs
from ray_diffusion import pipeline
from ray_diffusion.config import Config
from ray_diffusion.diffusion.schedule import complaints
from ray_diffusion.models.draw import logsnr_table
from ray_diffusion.storage import Directory
from ray_diffusion.training.harness import in_directory
from ray_diffusion.training.loop import loop
from ray_diffusion.training.retention import Keep

Values = dict[str, NDArray[np.float64]]  # by metric, shape (trials, seeds)

SEEDS = (0, 1, 2)
BASE = {
    "model.num_classes": 10,
    "model.image_channels": 1,
    "model.channels": 24,
    "data.global_batch_size": 64,
    "optim.lr": 2e-3,
    "training.total_images": 16_000,
    "training.validate_every_images": 16_000,
    "training.checkpoint_every_images": 4_000,
    "sampler.solver": "ddim",
    "sampler.grid": "trailing",
    "sampler.num_inference_steps": 24,  # the shortest schedule has no more
}
RAW = {"diffusion.beta_schedule": "linear", "diffusion.scale_betas": False}
TRIALS: dict[str, Job] = {
    "cosine": {"diffusion.beta_schedule": "cosine"},
    "linear": {"diffusion.beta_schedule": "linear"},
    "sigmoid": {"diffusion.beta_schedule": "sigmoid"},
    "laplace": {"diffusion.beta_schedule": "laplace"},
    "geometric": {"diffusion.beta_schedule": "geometric"},
    "linear, T 250": RAW | {"diffusion.num_train_timesteps": 250},
    "linear, T 4000": RAW | {"diffusion.num_train_timesteps": 4000},
    "linear, T 24": RAW | {"diffusion.num_train_timesteps": 24, "diffusion.beta_end": 0.6},
    "epsilon": {"diffusion.prediction_type": "epsilon"},
    "min-SNR": {"diffusion.weighting": "min_snr"},
    "stratified": {"diffusion.timestep_sampling": "stratified"},
    "lognormal": {"diffusion.timestep_sampling": "lognormal"},
    "low lr": {"optim.lr": 3e-4},
    "high lr": {"optim.lr": 1e-2},
    "narrow": {"model.channels": 16},
}
SAMPLERS: dict[str, dict[str, object]] = {
    "own": {},  # along the timesteps of the run's own schedule
    "fixed": {"solver": "dpmpp_2m", "grid": "uniform_logsnr"},
}
LOGGED = ("train/loss", "val/loss", "val/vlb_bpd", "val/score_uncond", "val/score")
DISTANCES = ("fd own", "fd fixed")
SHOWN = {
    **dict.fromkeys(("train/loss", "val/loss", "val/vlb_bpd", "val/score"), ".4f"),
    **dict.fromkeys(DISTANCES, ".2f"),
    **dict.fromkeys(("class_accuracy own", "class_accuracy fixed"), ".3f"),
}


def jobs(out: str) -> dict[str, Job]:
    """What configures each run; all trials of one seed come before those of the next."""
    found: dict[str, Job] = {}
    for seed in SEEDS:
        for trial, changes in TRIALS.items():
            job: Job = BASE | changes | {"run.seed": seed}
            digest = hashlib.sha256(repr(sorted(job.items())).encode()).hexdigest()
            place = {"run.storage_url": out, "run.name": f"run-{digest[:12]}"}
            found[f"{trial} / {seed}"] = job | place
    return found


def configuration(job: Job) -> Config:
    return configs.override(configs.load([]), job)


def run(job: Job) -> Found:
    """Train a run to its end and draw from it."""
    config = configuration(job)
    directory = Directory(f"{config.run.storage_url}/{config.run.name}")
    metrics = loop(config, in_directory(directory, Keep(1)), torch.device("cpu"))["metrics"]
    found: Found = {name: metrics[name] for name in LOGGED}
    for sampler, changes in SAMPLERS.items():
        drawer = pipeline.load(directory.url, sampler=changes)
        found |= {f"{name} {sampler}": value for name, value in quality(drawer).items()}
    return found


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation, of values without ties."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def print_trials(found: Values, sound: NDArray[np.bool_]) -> None:
    print("| trial | " + " | ".join(SHOWN) + " |\n|---|" + "---|" * len(SHOWN))
    names = list(TRIALS)
    for trial in found["fd own"].mean(1).argsort():
        cells = [
            f"{found[metric][trial].mean():{form}} ± {found[metric][trial].std(ddof=1):{form}}"
            for metric, form in SHOWN.items()
        ]
        warned = "" if sound[trial] else " (warned of)"
        print(f"| {names[trial]}{warned} | " + " | ".join(cells) + " |")
    real = (found[f"{name} real own"].mean() for name in ("fd", "class_accuracy"))
    print("\nReal images: Frechet distance {:.3f}, class accuracy {:.3f}.".format(*real))


def print_agreement(found: Values, distance: str, sound: NDArray[np.bool_]) -> None:
    """How well each metric predicts a distance: over means, in each seed, and by its winner."""
    columns = (
        "metric",
        f"Spearman with {distance}, of the means",
        "without the trials that train warns of",
        "in each seed",
        "its winner's place in each seed",
        "its winner's distance, of the best's",
        "Spearman of two seeds",
    )
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    truth = found[distance]
    for metric in (*LOGGED, *DISTANCES):
        values = found[metric]
        seeds = list(zip(values.T, truth.T, strict=True))
        means = values.mean(1), truth.mean(1)
        single = sorted(spearman(a, b) for a, b in seeds)
        places = [int((b < b[a.argmin()]).sum()) + 1 for a, b in seeds]
        regret = mean(float(b[a.argmin()] / b.min()) for a, b in seeds)
        repeated = mean(spearman(a, b) for a, b in combinations(values.T, 2))
        print(
            f"| {metric} | {spearman(*means):.2f} | {spearman(*(m[sound] for m in means)):.2f} "
            f"| {single[0]:.2f} .. {single[-1]:.2f} | {', '.join(map(str, places))} "
            f"| {regret:.2f} | {repeated:.2f} |"
        )


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    out = options.get("out", "build/objective")
    todo = jobs(out)
    results = gather(run, todo, Path(out, "results.json"))
    configs_of_trials = [configuration(job) for job in list(todo.values())[: len(TRIALS)]]
    sound = np.array([not complaints(logsnr_table(config)) for config in configs_of_trials])
    shape = (len(SEEDS), len(TRIALS))
    found: Values = {
        metric: np.array([result[metric] for result in results.values()]).reshape(shape).T
        for metric in next(iter(results.values()))
    }
    print_trials(found, sound)
    for distance in DISTANCES:
        print_agreement(found, distance, sound)


if __name__ == "__main__":
    main()
