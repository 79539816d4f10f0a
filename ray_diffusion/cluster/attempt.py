"""One launch of a run in the run's records: its number, what it is made with, what it costs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_diffusion.cluster import summary
from ray_diffusion.cluster.files import RunFiles
from ray_diffusion.cluster.lineage import ORIGIN
from ray_diffusion.config import Config
from ray_diffusion.storage import Directory
from ray_diffusion.tracking.environment import ENVIRONMENT
from ray_diffusion.tracking.identity import RunIdentity

FOLDER = "attempts"


def on_cluster(identity: RunIdentity, resources: Mapping[str, float]) -> RunIdentity:
    """The MLflow run with a tag for the hardware of the cluster.

    Args:
        identity: The MLflow run.
        resources: What the cluster has, as ``ray.cluster_resources`` tells it.
    """
    nodes = sum(name.startswith("node:") and "__" not in name for name in resources)
    kinds = sorted(n.partition(":")[2] for n in resources if n.startswith("accelerator_type:"))
    told = f"nodes: {nodes}, CPUs: {resources.get('CPU', 0):g}"
    if gpus := resources.get("GPU", 0):
        told += f", GPUs: {gpus:g}" + (f" ({', '.join(kinds)})" if kinds else "")
    return replace(identity, tags=dict(identity.tags) | {"hardware.cluster": told})


@dataclass(frozen=True)
class Attempt:
    """A launch that has begun; see ``begin``.

    Attributes:
        number: Which launch of the run it is, from 1; those that were refused do not count.
    """

    number: int
    _identity: RunIdentity

    def origin(self, run_id: str | None) -> str:
        """The text of ``run.json``.

        Args:
            run_id: The MLflow run's id; None until MLflow has told it.
        """
        found = {"run_key": self._identity.run_key, "mlflow_run_id": run_id}
        facts = found | {"attempts": self.number} | dict(self._identity.tags)
        return json.dumps(facts, indent=1)

    def write_lineage(
        self, run: Directory, files: RunFiles, made_with: Mapping[str, bytes]
    ) -> None:
        """Write the files that tell what the run is made with, as ``tracking.environment`` does.

        Of a later launch only what has changed, into a folder of its own: the first one's stay.
        """
        first = run.read(ENVIRONMENT) is None
        for name, content in made_with.items():
            if first:
                files.write(name, content)
            elif run.read(name) != content:
                files.write(f"{FOLDER}/{self.number}/{name}", content)

    def cost(
        self, run: Directory, config: Config, workers: int, seconds: float
    ) -> dict[str, float]:
        """What the run has cost by the end of this launch, over all launches.

        A launch whose driver was killed wrote no summary, so its hours are missing.

        Args:
            run: The run's directory, whose ``summary.json`` is of the launch before.
            config: The configuration, fitted to the cluster.
            workers: How many workers there were.
            seconds: For how long.

        Returns:
            The metrics ``run/attempts``, ``run/cpu_hours`` and ``run/gpu_hours``.
        """
        before, hours = summary.read(run) or {}, workers * seconds / 3600
        cpus, gpus = config.cluster.cpus_per_worker or 1, int(config.cluster.use_gpu)
        return {
            "run/attempts": self.number,
            "run/cpu_hours": before.get("cpu_hours", 0.0) + hours * cpus,
            "run/gpu_hours": before.get("gpu_hours", 0.0) + hours * gpus,
        }


def begin(run: Directory, identity: RunIdentity) -> Attempt:
    """Count a launch in the run's ``run.json``, which holds the run's key from now on.

    Args:
        run: The run's directory, held by this launch.
        identity: The MLflow run.
    """
    content = run.read(ORIGIN)
    before: dict[str, Any] = json.loads(content) if content else {}
    attempt = Attempt(before.get("attempts", 0) + 1, identity)
    run.write(ORIGIN, attempt.origin(None))
    return attempt
