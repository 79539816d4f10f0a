from pathlib import Path

import pytest
from toy import World, configured

from ray_diffusion.errors import Preempted


def test_dropout_is_the_same_after_a_resume(dataset: Path, tmp_path: Path):
    run = configured(dataset, **{"model.dropout": 0.5})
    undisturbed, stopped = World(tmp_path / "undisturbed"), World(tmp_path / "stopped")
    undisturbed.train(run)
    with pytest.raises(Preempted):
        stopped.train(run, stop_after=4)
    stopped.train(run)
    assert stopped.weights() == undisturbed.weights()
    plain = World(tmp_path / "plain")
    plain.train(configured(dataset))
    assert plain.losses != undisturbed.losses
