"""One Ray cluster for all tests that need one, and the commands that users type at it."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

PATIENCE_S = 240  # after which a condition that a test waits for is held never to come

RAY = str(Path(sys.executable).with_name("ray"))

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
    "tracking.metrics_port=0",
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


def _living(title: bytes = b"") -> Iterator[int]:
    """Ids of all processes that have this in their titles; those of the dead are empty."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile
            found = (process / "cmdline").read_bytes()
            if found and title in found:
                yield int(process.name)


def _environment(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def _kill(find: Callable[[], list[int]]) -> None:
    """Kill processes until none is found."""
    while found := find():
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Node:
    """A machine of a cluster: all processes of one session, in the sense of setsid(2)."""

    session: int

    def processes(self, title: bytes = b"") -> list[int]:
        """Ids of the node's processes that have this in their titles."""
        found = []
        for pid in _living(title):
            with suppress(ProcessLookupError):
                found += [pid] * (os.getsid(pid) == self.session)
        return found

    @property
    def raylet(self) -> int:
        """Id of the process that the node lives by."""
        [pid] = self.processes(b"raylet/raylet")
        return pid

    @property
    def name(self) -> str:
        """What Ray calls the node."""
        arguments = Path(f"/proc/{self.raylet}/cmdline").read_text().split("\0")
        return next(a.partition("=")[2] for a in arguments if a.startswith("--node_id="))

    def train_workers(self) -> list[int]:
        """Process ids of the training workers that run here now."""
        return self.processes(b"RayTrainWorker")

    def kill(self) -> None:
        """Take the power away."""
        _kill(self.processes)


@dataclass(frozen=True)
class Cluster:
    """A running head node, the environment of commands that use it, and where Ray's files are."""

    dashboard: str
    env: dict[str, str]
    head: Node
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

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Ray's."""
        env = self.env | {"RAY_AUTH_MODE": "token"}
        return subprocess.run([RAY, *arguments], env=env, capture_output=True, text=True)

    def processes(self, title: bytes = b"") -> list[int]:
        """Ids of the cluster's processes, and its drivers', that have this in their titles."""
        mark = self.env["MARK"].encode()
        return [pid for pid in _living(title) if mark in _environment(pid)]

    def train_workers(self) -> list[int]:
        """Process ids of the training workers that this cluster runs now."""
        return self.processes(b"RayTrainWorker")


@contextmanager
def _started(log: Path, env: dict[str, str], *arguments: str) -> Iterator[Node]:
    """A node, once it is up, that ends with the block."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [RAY, "start", "--block", *arguments],
            env=env | {"RAY_AUTH_MODE": "token"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    node = Node(process.pid)

    def up() -> bool:
        assert process.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    try:
        wait_for(up, f"a node, see {log}")
        yield node
    finally:
        node.kill()
        process.wait()


@contextmanager
def running_cluster(
    home: Path, cpus: int = 2, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Cluster]:
    """A head node with token authentication, as `ray start --head` makes one.

    Args:
        home: For its files.
        cpus: How many it offers.
        environment: What only the cluster's own processes have.
    """
    home.mkdir(exist_ok=True)
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
    # Not below pytest's directory: the paths of Ray's sockets must be short.
    temp = subprocess.check_output(["mktemp", "-d", "/tmp/rdXXXXXX"], text=True).strip()
    arguments = ["--head", f"--num-cpus={cpus}", "--object-store-memory=150000000"]
    arguments += [f"--{name}={port}" for name, port in zip(names, ports, strict=False)]
    arguments += [f"--metrics-export-port={ports[-1]}", f"--temp-dir={temp}"]
    try:
        with _started(
            home / "head.log", {**env, **environment}, "--disable-usage-stats", *arguments
        ) as head:
            env |= {"RAY_ADDRESS": f"127.0.0.1:{ports[0]}"}
            cluster = Cluster(f"http://127.0.0.1:{ports[1]}", env, head, temp)
            jobs = ("job", "list", "--address", cluster.dashboard)
            wait_for(lambda: cluster.ray(*jobs).returncode == 0, "the dashboard")
            yield cluster
    finally:
        _kill(lambda: [pid for pid in _living() if env["MARK"].encode() in _environment(pid)])
        subprocess.run(["rm", "-rf", temp], check=True)


@contextmanager
def joined_node(cluster: Cluster, cpus: int) -> Iterator[Node]:
    """A worker node beside the head, as `ray start --address` makes one on another machine."""
    names = ("dashboard-agent-listen-port", "metrics-export-port")
    arguments = [f"--address={cluster.env['RAY_ADDRESS']}", f"--num-cpus={cpus}"]
    arguments += ["--object-store-memory=80000000"]
    arguments += [f"--{name}={port}" for name, port in zip(names, free_ports(2), strict=True)]
    arguments += ["--min-worker-port=0", "--max-worker-port=0"]  # any: the head has the usual ones
    with (
        tempfile.TemporaryDirectory() as home,
        _started(Path(home, "node.log"), cluster.env, *arguments) as node,
    ):
        yield node


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
