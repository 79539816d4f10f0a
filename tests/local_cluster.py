"""One Ray cluster for all tests that need one, and the commands that users type at it."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE_S = 120  # after which a condition that a test waits for is held never to come

TINY = [
    "model.channels=8",
    "model.channel_mults=[1]",
    "model.attention_levels=[]",
    "model.blocks_per_level=1",
    "data.global_batch_size=64",
    "training.total_images=12_800",
    "training.log_every_images=640",
    "training.checkpoint_every_images=1_280",
    "training.validate_every_images=12_800",
    "sampler.num_inference_steps=5",
    "cluster.cpus_per_worker=1",
]


def wait_for(condition: Callable[[], object], what: str) -> object:
    """Poll until a condition holds; its value."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.02)  # between looks at a condition, not for time to pass
    return value


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(frozen=True)
class Cluster:
    """A running head node, the environment of commands that use it, and where Ray's files are."""

    dashboard: str
    env: dict[str, str]
    pid: int
    temp: str

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Start a verb as a user would."""
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,  # type: ignore[call-overload]
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=2 * PATIENCE_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def train_workers(self) -> list[int]:
        """Process ids of the training workers that this cluster runs now."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                title = (process / "cmdline").read_bytes()
                environment = (process / "environ").read_bytes()
            except OSError:
                continue  # not a process, or gone meanwhile
            if b"RayTrainWorker" in title and self.env["MARK"].encode() in environment:
                found.append(int(process.name))
        return found


@contextmanager
def running_cluster(home: Path) -> Iterator[Cluster]:
    """A head node with two CPUs and token authentication, as `ray start --head` makes one."""
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = free_ports(len(names) + 1)
    env = os.environ | {
        "MARK": secrets.token_hex(8),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HOME": str(home),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    ray = str(Path(sys.executable).with_name("ray"))
    temp = subprocess.check_output(["mktemp", "-d", "/tmp/rdXXXXXX"], text=True).strip()
    log = (home / "head.log").open("w")
    head = subprocess.Popen(
        [ray, "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=150000000"]
        + [f"--{name}={port}" for name, port in zip(names, ports, strict=False)]
        + [f"--metrics-export-port={ports[-1]}", f"--temp-dir={temp}", "--disable-usage-stats"],
        env=env | {"RAY_AUTH_MODE": "token"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    dashboard = f"http://127.0.0.1:{ports[1]}"

    def ready() -> bool:
        assert head.poll() is None, (home / "head.log").read_text()
        jobs = subprocess.run(
            [ray, "job", "list", "--address", dashboard],
            env=env | {"RAY_AUTH_MODE": "token"},
            capture_output=True,
        )
        return jobs.returncode == 0

    try:
        wait_for(ready, "the cluster")
        yield Cluster(dashboard, env | {"RAY_ADDRESS": f"127.0.0.1:{ports[0]}"}, head.pid, temp)
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)
        log.close()
        subprocess.run(["rm", "-rf", temp], check=True)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The one cluster of the suite."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of two workers that nothing happened to."""
    storage = tmp_path_factory.mktemp("undisturbed")
    done = cluster.run(
        "ray_diffusion.train", *TINY, "cluster.num_workers=2", f"run.storage_url={storage}"
    )
    assert done.returncode == 0, done.stderr
    return storage / "digits"
