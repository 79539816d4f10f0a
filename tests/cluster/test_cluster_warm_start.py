"""What a launch does about `run.init_from` before any worker starts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_config import RESOLVED, TINY

from ray_diffusion import config as configs
from ray_diffusion.cluster.warm_start import prepare, rehearse
from ray_diffusion.config import Config
from ray_diffusion.errors import StorageError, TrackingError, UsageError
from ray_diffusion.storage import Directory, damage, seal
from ray_diffusion.tracking.client import connect
from ray_diffusion.training import warm_start
from ray_diffusion.training.checkpoint import names
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.warm_start import INIT, WEIGHTS

NOWHERE = "http://nowhere.invalid"  # an MLflow that nothing here asks
CLASSES = "class_embedding.weight"


@pytest.fixture
def source(run: Path, tmp_path: Path) -> Path:
    """A copy of a run of one step, for a test to damage."""
    return shutil.copytree(run, tmp_path / "source")


@pytest.fixture
def new(tmp_path: Path) -> Directory:
    """The directory of a run that does not exist yet."""
    return Directory(str(tmp_path / "runs/new"))


def checkpoint_of(source: Path) -> Path:
    (name,) = names(Directory(str(source)))
    return source / name


def exported(source: Path, into: Path) -> Path:
    into.mkdir()
    for name in ("config.yaml", "ema.safetensors"):
        shutil.copy(checkpoint_of(source) / name, into)
    seal(into)
    return into


def configured(source: Path | str, **keys: object) -> Config:
    return configs.override(
        configs.load([]), TINY | RESOLVED | {"run.init_from": str(source)} | keys
    )


def origin(run: Directory) -> dict[str, str]:
    content = (run / INIT).read("origin.json")
    assert content is not None
    return json.loads(content)


def refused(config: Config, run: Directory, error: type[Exception], words: str) -> None:
    """Both refuse in one line, and nothing is written."""
    for ask in (rehearse, prepare):
        with pytest.raises(error, match=words) as caught:
            ask(config, run, NOWHERE)
        assert "\n" not in str(caught.value)
    assert run.names() == []


@pytest.mark.parametrize("kind", ["run", "checkpoint", "model"])
def test_a_run_a_checkpoint_and_a_model_give_the_same_weights(
    source: Path, new: Directory, tmp_path: Path, kind: str
):
    place = {
        "run": source,
        "checkpoint": checkpoint_of(source),
        "model": exported(source, tmp_path / "model"),
    }[kind]
    config = configured(place)
    rehearsed = rehearse(config, new, NOWHERE)
    assert new.names() == []
    assert prepare(config, new, NOWHERE) == rehearsed

    url = place if kind == "model" else checkpoint_of(source)
    (line,) = rehearsed
    assert line.endswith(f" tensors (100.0% of the weights) from {url}, ema")
    init = Path(new.url, INIT)
    assert damage(init) is None
    file = checkpoint_of(source) / "ema.safetensors"
    assert (init / WEIGHTS).read_bytes() == file.read_bytes()
    assert (init / "config.yaml").read_bytes() == (file.parent / "config.yaml").read_bytes()
    manifest = json.loads((init / "manifest.json").read_text())
    assert origin(new) == {
        "init_from": str(place),
        "init_weights": "ema",
        "url": str(url),
        "sha256": manifest["files"][WEIGHTS]["sha256"],
    }


def test_the_weights_as_trained_are_taken_if_asked_for(source: Path, new: Directory):
    (line,) = prepare(configured(source, **{"run.init_weights": "raw"}), new, NOWHERE)
    assert line.endswith(", raw")
    file = checkpoint_of(source) / "model.safetensors"
    assert Path(new.url, INIT, WEIGHTS).read_bytes() == file.read_bytes()


def test_source_and_run_may_be_in_any_storage(source: Path, tmp_path: Path):
    remote = Directory(f"memory://warm-start/{tmp_path.name}")
    for file in checkpoint_of(source).iterdir():
        remote.put(file, f"source/{checkpoint_of(source).name}/{file.name}")
    config, run = configured(f"{remote.url}/source"), remote / "new"
    lines = rehearse(config, run, NOWHERE)
    assert prepare(config, run, NOWHERE) == lines
    state = initial_state(config, torch.device("cpu"))
    warm_start.start(state.network, run)
    expected = load_file(checkpoint_of(source) / "ema.safetensors")
    assert all(value.equal(expected[name]) for name, value in state.network.state_dict().items())
    remote.remove("")


def test_another_number_of_classes_is_told_and_fits_but_for_them(source: Path, new: Directory):
    config = configured(source, **{"model.num_classes": 4})
    lines = prepare(config, new, NOWHERE)
    assert lines == rehearse(config, new, NOWHERE)
    (line,) = lines
    assert line.endswith(f", ema; last row alone (no class): {CLASSES} (11, 32) -> (5, 32)")
    state = initial_state(config, torch.device("cpu"))
    found = warm_start.start(state.network, new)
    assert len(found.whole) == len(found.target) - 1
    expected = load_file(checkpoint_of(source) / "ema.safetensors")
    assert state.network.state_dict()[CLASSES][-1].equal(expected[CLASSES][-1])


def test_a_launch_after_the_first_needs_no_source(source: Path, new: Directory):
    config = configured(source)
    lines = prepare(config, new, NOWHERE)
    written = Path(new.url, INIT, "manifest.json").stat().st_mtime_ns
    shutil.rmtree(source)
    assert prepare(config, new, NOWHERE) == lines
    assert Path(new.url, INIT, "manifest.json").stat().st_mtime_ns == written


def test_what_a_killed_launch_left_is_fetched_again(source: Path, new: Directory):
    config = configured(source)
    prepare(config, new, NOWHERE)
    Path(new.url, INIT, "manifest.json").unlink()
    Path(new.url, INIT, WEIGHTS).write_bytes(b"half")
    prepare(config, new, NOWHERE)
    assert damage(Path(new.url, INIT)) is None


@pytest.mark.parametrize("key", ["run.init_from", "run.init_weights"])
def test_other_first_weights_replace_those_of_a_run_that_never_began(
    source: Path, new: Directory, tmp_path: Path, key: str
):
    prepare(configured(source), new, NOWHERE)
    other = {
        "run.init_from": str(exported(source, tmp_path / "model")),
        "run.init_weights": "raw",
    }
    config = configured(source, **{key: other[key]})
    lines = prepare(config, new, NOWHERE)
    assert origin(new)[key.removeprefix("run.")] == other[key]
    assert lines == rehearse(config, new, NOWHERE)


def test_a_run_with_a_checkpoint_goes_on_without_its_first_weights(source: Path, tmp_path: Path):
    config = configured(tmp_path / "gone")
    assert prepare(config, Directory(str(source)), NOWHERE) == []
    assert rehearse(config, Directory(str(source)), NOWHERE) == []
    assert not (source / INIT).exists()


def test_a_run_that_asks_for_none_begins_at_random(new: Directory):
    config = configs.load([])
    assert prepare(config, new, NOWHERE) == rehearse(config, new, NOWHERE) == []
    assert new.names() == []


def test_another_task_is_told_key_by_key(source: Path, new: Directory):
    keys = {"diffusion.prediction_type": "epsilon", "diffusion.beta_schedule": "linear"}
    config = configured(source, **keys, **{"optim.lr": 0.5})
    _, told = prepare(config, new, NOWHERE)
    assert told == rehearse(config, new, NOWHERE)[1]
    assert told.endswith(
        "for another task: diffusion.beta_schedule: 'cosine' -> 'linear', "
        "diffusion.prediction_type: 'v_prediction' -> 'epsilon'"
    )


@pytest.mark.parametrize("theirs", [None, "autoencoder-0123456789ab"])
def test_weights_of_other_latents_are_of_another_task(
    source: Path, new: Directory, tmp_path: Path, theirs: str | None
):
    model = exported(source, tmp_path / "model")
    trained = configs.from_yaml((model / "config.yaml").read_text(), "config.yaml")
    trained = configs.override(trained, {"data.codec": theirs})
    (model / "config.yaml").write_text(configs.dump(trained))
    seal(model)
    assert len(rehearse(configured(model, **{"data.codec": theirs}), new, NOWHERE)) == 1

    keys = {"data.codec": "block-dct-0123456789ab", "diffusion.prediction_type": "epsilon"}
    _, told = prepare(configured(model, **keys), new, NOWHERE)
    was = "null" if theirs is None else repr(theirs)
    assert told.endswith(
        f"for another task: data.codec: {was} -> 'block-dct-0123456789ab', "
        "diffusion.prediction_type: 'v_prediction' -> 'epsilon'"
    )


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model.kind": "tiny"}, "model.kind: 'unet' -> 'tiny'"),
        ({"model.channels": 16}, "model.channels: 8 -> 16"),
    ],
)
def test_a_source_of_which_nothing_fits_is_refused_with_both_networks_named(
    source: Path, new: Directory, keys: dict[str, object], words: str
):
    config = configured(source, **keys)
    kind = config.model.kind
    refused(config, new, UsageError, f"a unet, does not fit this run's {kind}: .*{words}")


def test_what_is_no_model_is_refused(new: Directory, tmp_path: Path):
    refused(configured(tmp_path / "absent"), new, UsageError, f"{tmp_path}/absent ")
    refused(configured(tmp_path), new, UsageError, "a run with a checkpoint")
    refused(configured("nothing://x"), new, StorageError, "cannot use nothing://x")


def test_weights_that_no_configuration_explains_are_no_model(
    source: Path, new: Directory, tmp_path: Path
):
    model = exported(source, tmp_path / "model")
    (model / "config.yaml").unlink()
    refused(configured(model), new, UsageError, f"{model} (has no config.yaml|is no model)")


def test_an_exported_model_has_no_raw_weights(source: Path, new: Directory, tmp_path: Path):
    config = configured(exported(source, tmp_path / "model"), **{"run.init_weights": "raw"})
    refused(config, new, UsageError, f"{tmp_path}/model has no model.safetensors; wanted is ")


def test_a_damaged_source_is_not_begun_with(source: Path, new: Directory):
    file = checkpoint_of(source) / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"has a damaged ema\.safetensors"):
        prepare(configured(file.parent), new, NOWHERE)
    assert new.names() == []


def test_a_damaged_newest_checkpoint_is_passed_over_as_in_sampling(
    source: Path, new: Directory, capsys: pytest.CaptureFixture[str]
):
    older = checkpoint_of(source)
    newest = shutil.copytree(older, source / "checkpoint-999999999999")
    (newest / "ema.safetensors").write_bytes(b"damaged")
    (line,) = prepare(configured(source), new, NOWHERE)
    assert f" from {older}, ema" in line
    assert "it is passed over" in capsys.readouterr().err


# MLflow's models of its own tables, read where the store is in this process.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_registered_model_is_taken_by_alias_and_remembered_by_version(
    source: Path, new: Directory, tmp_path: Path
):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    run = client.create_run(client.create_experiment("tests", f"{tmp_path}/artifacts")).info
    client.log_artifacts(run.run_id, str(exported(source, tmp_path / "model")), "model")
    client.create_registered_model("digits")
    version = client.create_model_version("digits", f"{run.artifact_uri}/model", run.run_id).version
    client.set_registered_model_alias("digits", "champion", version)

    config = configured("models:/digits@champion")
    lines = rehearse(config, new, uri)
    assert new.names() == []
    assert prepare(config, new, uri) == lines
    assert " (100.0% of the weights) from models:/digits/1, ema" in lines[0]
    assert origin(new)["url"] == "models:/digits/1"
    client.delete_registered_model_alias("digits", "champion")
    assert prepare(config, new, uri) == lines

    weights = Path(run.artifact_uri, "model", "ema.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match=r"models:/digits/1 has a damaged ema\.safetensors"):
        prepare(configured("models:/digits/1"), new, uri)


def test_a_registered_model_waits_for_no_server_that_is_down(new: Directory):
    refused(configured("models:/digits@champion"), new, TrackingError, "MLflow at http://nowhere")
