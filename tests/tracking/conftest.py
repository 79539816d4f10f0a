from collections.abc import Iterator

import pytest
from mlflow_server import Server

from ray_diffusion.tracking.identity import RunIdentity


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def identity(server: Server, request: pytest.FixtureRequest) -> RunIdentity:
    return RunIdentity(
        name="digits",
        run_key=f"key-of-{request.node.name}",
        experiment="tests",
        uri=server.uri,
        params={"optim.lr": "0.001", "model.notes": "x" * 7000},
        tags={"git.commit": "abc"},
    )
