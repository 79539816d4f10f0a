"""The one cluster of the suite, and what several tests compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_cluster import TINY, Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
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
