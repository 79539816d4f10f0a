"""How a launch ended: ``summary.json`` in the run's directory, and the last lines on the screen."""

import json
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_diffusion.config import Config
from ray_diffusion.storage import Directory

FILE = "summary.json"
NEXT = {
    "preempted": {"continue": "the same command again"},
    "failed": {"continue": "the same command again, from the last checkpoint"},
    "diverged": {"again": "a lower optim.lr under another run.name"},
}


def images_of_codec(config: Config) -> str | None:
    """What an autoencoder is trained on, as words of a shell that encode takes for its source.

    Args:
        config: Of the run.

    Returns:
        ``URL``, or ``builtin:NAME image_size=SIDE``; None of other models.
    """
    if not config.model.learns_codec:
        return None
    data, size = config.data, f"image_size={config.data.image_size}"
    builtin = data.dataset_url.startswith("builtin:")
    return shlex.join([data.dataset_url, *([size] if builtin else [])])


def uses(model: str, codec_of: str | None) -> dict[str, str]:
    """The commands that make something of a trained model, each under what it does.

    Args:
        model: What the verbs take for it, as words of a shell.
        codec_of: Of an autoencoder, what ``images_of_codec`` says; None of other models.
    """
    python = "python -m ray_diffusion"
    if codec_of is not None:
        return {"encode": f"{python}.encode source={codec_of} codec={model} out=datasets/latents"}
    return {
        "look": f"{python}.sample {model} num_images=64",
        "measure": f"{python}.evaluate {model}",
    }


@dataclass
class Summary:
    """How a launch ended.

    Attributes:
        status: ``finished``, ``preempted``, ``diverged`` or ``failed``.
        run: The run's directory.
        images_seen: Images trained on so far, over all launches.
        steps: Optimizer steps so far.
        metrics: The last value of each metric.
        best: The metrics of the best validation.
        checkpoint: The newest checkpoint, or None.
        mlflow_run_id: The MLflow run, or None if MLflow was never reached.
        tracking_uri: Where MLflow is, without a password.
        seconds: How long the launch took, from the start of its workers.
        restarts: How often the workers were started again within the launch.
        cpu_hours: Hours times CPUs of the workers, over all launches.
        gpu_hours: Hours times GPUs of the workers, over all launches.
        shipped: Whether MLflow has all that was recorded.
        codec_of: Of an autoencoder, what ``images_of_codec`` says; None of other models.
    """

    status: str
    run: str
    images_seen: int = 0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    mlflow_run_id: str | None = None
    tracking_uri: str = ""
    seconds: float = 0.0
    restarts: int = 0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    shipped: bool = True
    codec_of: str | None = None

    def write(self, run: Directory) -> None:
        """Write ``summary.json``."""
        run.write(FILE, json.dumps(asdict(self), indent=1))

    def block(self) -> str:
        """The summary in a few lines for a person."""
        rows = {
            "status": f"{self.status} after {self.images_seen:,} images, {self.steps:,} steps"
            + (f", {self.seconds:.0f} s" if self.seconds else "")
            + (f", {self.restarts} restarts" if self.restarts else ""),
            "spent": ", ".join(
                f"{hours:.2f} {kind}-hours"
                for kind, hours in (("CPU", self.cpu_hours), ("GPU", self.gpu_hours))
                if hours
            ),
            "last": _metrics(self.metrics),
            "best": _metrics(self.best),
            "run": self.run,
            "checkpoint": self.checkpoint or "none",
            "MLflow": f"run {self.mlflow_run_id} in {self.tracking_uri}"
            + ("" if self.shipped else "; the rest of its records: the same command again")
            if self.mlflow_run_id
            else "not reached; the same command again ships its records",
        }
        served = self.tracking_uri.startswith("http")
        browse = (
            self.tracking_uri if served else f"mlflow ui --backend-store-uri {self.tracking_uri}"
        )
        if self.status == "finished":
            rows |= uses(shlex.quote(self.run), self.codec_of) | {"browse": browse}
        else:
            rows |= NEXT[self.status]
        return "\n".join(f"{name:<10} {text}" for name, text in rows.items() if text)


def _metrics(metrics: dict[str, float]) -> str:
    shown = {n: v for n, v in metrics.items() if n.startswith(("val/", "sample/", "train/loss"))}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


def read(run: Directory) -> dict[str, Any] | None:
    """What ``summary.json`` of a run says, or None if there is none."""
    content = run.read(FILE)
    return None if content is None else json.loads(content)


def finished(run: Directory, config: Config) -> Summary | None:
    """The summary of a run that has spent its budget; None if there is something left to do."""
    facts = read(run)
    if facts is None or facts["status"] != "finished":
        return None
    return Summary(**facts) if facts["images_seen"] >= config.training.total_images else None
