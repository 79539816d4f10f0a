"""What the tests of the whole packer share."""

import pytest
from toy_packing import PER_TASK, RECIPE, content, stripes

from ray_diffusion.data.packing import pack as packing
from ray_diffusion.data.packing.pack import pack


@pytest.fixture
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PER_TASK", PER_TASK)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """What an undisturbed packer leaves."""
    out = str(tmp_path_factory.mktemp("whole"))
    pack(stripes(), RECIPE, out)
    return content(out)
