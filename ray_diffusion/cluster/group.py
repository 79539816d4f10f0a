"""A group of workers on Ray Train: started, watched, stopped, and started again."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import ray.train.torch

from ray_diffusion.cluster import worker
from ray_diffusion.cluster.board import Board
from ray_diffusion.cluster.hub import Feed, port_of
from ray_diffusion.cluster.metering import LaunchMeter
from ray_diffusion.cluster.notice import Backend, Drains, stop_on_signals
from ray_diffusion.cluster.progress import ProgressLine
from ray_diffusion.config import Config
from ray_diffusion.errors import ClusterError, RayDiffusionError, WorkersFailed, warn
from ray_diffusion.storage import cache_dir

BOARD_PERIOD_S = 0.5
TOLD_S = 10.0  # a board that does not answer by then is lost
NODES_PERIOD_S = 2.0  # a cloud tells of a spot machine's end 30 s before it, or more


class Group:
    """The workers of one launch.

    Args:
        config: The resolved configuration, fitted to the cluster.
        name: Of the run, among all that the metrics hub is told of.
        board: What links it to its workers.
        told: What the board is made with.
    """

    def __init__(self, config: Config, name: str, board: type[Board] = Board, *told: Any) -> None:
        self._config = config
        self.board: Any = on_this_node(board, *told)
        self._meter = LaunchMeter(config.cluster.use_gpu)
        port = port_of(config.tracking.metrics_port)
        self._progress = ProgressLine()
        self._feed = Feed(name, port, self._warn)

    def train(self, fields: dict[str, Any]) -> None:
        """Run the workers to their end.

        Args:
            fields: What each worker is told; see ``worker.Assignment``.

        Raises:
            RayDiffusionError: The reason, if the run did not reach its end.
        """
        with lost_cluster_explained():
            with stop_on_signals(self.board.request_stop.remote):
                for controller in range(self._config.cluster.max_failures + 1):
                    error = self._watched(self._trainer(fields, controller).fit)
                    if not isinstance(error, ray.exceptions.ActorDiedError):
                        break  # Ray restarts workers, but no controller that was killed
            self._feed.finish()
            failure = ray.get(self.board.failure.remote())
            if failure is not None:
                raise failure
            if error is not None:
                raise _explained(error, self._config)

    def told(self) -> dict[str, Any]:
        """What the board says; nothing where the cluster is lost."""
        try:
            facts: dict[str, Any] = ray.get(self.board.read.remote(), timeout=TOLD_S)
        except ray.exceptions.RayError:
            return {}
        return facts

    def _trainer(self, fields: dict[str, Any], controller: int) -> ray.train.torch.TorchTrainer:
        cluster = self._config.cluster
        return ray.train.torch.TorchTrainer(
            worker.train,
            train_loop_config=fields,
            torch_config=Backend(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=cluster.num_workers,  # type: ignore[arg-type] # typed for Train V1
                use_gpu=cluster.use_gpu,
                resources_per_worker={"CPU": cluster.cpus_per_worker or 1}
                | ({"GPU": 1} if cluster.use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(  # type: ignore[call-arg] # typed for Train V1
                # Ray's own notes on the launch, of no use after it: checkpoints are ours (0002).
                name=f"{self._config.run.name}-{os.getpid()}-{time.time_ns()}-{controller}",
                storage_path=str(cache_dir() / "ray"),
                failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )

    def _watched(self, fit: Callable[[], Any]) -> Exception | None:
        """Call ``fit`` in a thread and watch meanwhile; what it raised, if anything.

        In a thread Ray Train leaves the signals alone, so that Ctrl-C can save first.
        """
        errors: list[Exception] = []

        def call() -> None:
            try:
                fit()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=call, name="ray-train", daemon=True)
        thread.start()
        drains, looked_at = Drains(), 0.0
        while thread.is_alive():
            facts = self._look()
            if time.monotonic() - looked_at > NODES_PERIOD_S:
                looked_at = time.monotonic()
                if due := drains.due(facts["nodes"]):
                    self._warn(f"{len(due)} of the run's nodes are being drained: saving")
                    self.board.request_save.remote()
                    self.board.expect.remote("drain")
            thread.join(BOARD_PERIOD_S)
        self._look()  # what they told last
        self._progress.clear()
        return errors[0] if errors else None

    def _warn(self, message: str) -> None:
        self._progress.clear()
        warn(message)

    def _look(self) -> dict[str, Any]:
        """Read the board, and pass on what is there: to the user and to the metrics."""
        facts: dict[str, Any] = ray.get(self.board.read.remote())
        self._progress.show(facts)
        self._feed.report(self._meter.report(facts))
        return facts


def on_this_node(kind: type, *told: Any) -> Any:
    """An actor on the driver's node, which a launch lives by: the others may go at any time.

    Args:
        kind: Its class.
        told: What it is made with.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    actor: Any = ray.remote(num_cpus=0)(kind)
    return actor.options(label_selector=here).remote(*told)


@contextmanager
def lost_cluster_explained() -> Iterator[None]:
    """Tell in one line of a cluster that went away while the driver was asking it something."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"lost the Ray cluster ({type(error).__name__}): its head or the driver's node failed; "
            "the same command continues from the newest checkpoint, on any cluster"
        ) from error


def _explained(error: Exception, config: Config) -> RayDiffusionError:
    """What to tell the user of workers that kept failing."""
    print(error, file=sys.stderr)  # with its traceback: whoever mends it needs all of it
    causes = getattr(error, "worker_failures", None) or {0: error}
    rank, cause = sorted(causes.items())[0]
    cause = getattr(cause, "_base_exc", cause)
    last = (str(cause).strip().splitlines() or [type(cause).__name__])[-1].partition(". ")[0]
    return WorkersFailed(
        f"worker {rank} failed more than cluster.max_failures={config.cluster.max_failures} "
        f"times: {last}"
    )
