"""Sweep files: what they mean, and every mistake in them at once."""

import sys
from pathlib import Path

import pytest

from ray_diffusion.config.sweep import Plan, load_sweep
from ray_diffusion.errors import ConfigError

GOOD = """\
name: schedules
method: random
run_cap: 5
parameters:
  diffusion.beta_schedule: {values: [linear, cosine]}
  optim.lr: {min: 1e-4, max: 1e-2, distribution: log_uniform}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sweep.yaml"


def loaded(file: Path, text: str, *overrides: str) -> Plan:
    file.write_text(text)
    return load_sweep(file, overrides)


def problems(file: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(file, text, *overrides)
    return [line.replace(str(file), "F") for line in caught.value.problems]


def test_a_sweep_says_its_trials(file: Path):
    plan = loaded(file, GOOD, "training.total_images=32_000", "optim.warmup_images=128")
    assert plan.num_trials == 5
    for number in range(5):
        values = plan.values(number)
        trial = plan.trial(values)
        assert trial.optim.lr == values["optim.lr"]
        assert trial.diffusion.beta_schedule == values["diffusion.beta_schedule"]
        assert trial.training.total_images == 32_000
    assert plan.sweep.metric.name == "val/score"


def test_a_grid_is_all_combinations(file: Path):
    text = "name: grid\nmethod: grid\nparameters:\n  optim.lr: {values: [1e-3, 1e-4]}\n"
    plan = loaded(file, text + "  run.seed: {values: [0, 1, 2]}\n")
    assert plan.num_trials == 6
    assert plan.values(1) == {"optim.lr": 1e-3, "run.seed": 1}


def test_a_base_file_lies_beside_the_sweep(file: Path):
    (file.parent / "base.yaml").write_text("optim: {weight_decay: 0.25}\n")
    plan = loaded(file, f"base: base.yaml\n{GOOD}")
    assert plan.trial(plan.values(0)).optim.weight_decay == 0.25


def test_a_sweep_without_a_name_has_its_file_s(file: Path):
    assert loaded(file, GOOD.replace("name: schedules\n", "")).sweep.name == "sweep"


def test_what_does_not_vary_belongs_to_the_base(file: Path):
    text = f"{GOOD}  training.total_images: {{value: 32_000}}\n  model.channels: {{values: [16]}}\n"
    plan = loaded(file, text)
    assert plan.base.training.total_images == 32_000
    assert plan.base.model.channels == 16
    assert list(plan.space) == ["diffusion.beta_schedule", "optim.lr"]


def test_keys_of_a_section_vary_together_and_the_base_fills_the_gaps(file: Path):
    text = """\
method: grid
parameters:
  diffusion:
    values:
      - {beta_schedule: cosine}
      - {beta_schedule: linear, num_train_timesteps: 250, scale_betas: false}
  optim.lr: {values: [1e-3, 1e-4]}
"""
    plan = loaded(file, text)
    assert [list(plan.values(number).values()) for number in range(4)] == [
        ["cosine", 1000, True, 1e-3],
        ["cosine", 1000, True, 1e-4],
        ["linear", 250, False, 1e-3],
        ["linear", 250, False, 1e-4],
    ]
    assert plan.trial(plan.values(3)).diffusion.num_train_timesteps == 250


@pytest.mark.parametrize(
    ("range_", "key", "distribution"),
    [
        ("{min: 1, max: 3}", "model.depth", "int_uniform"),
        ("{min: 0, max: 1}", "optim.weight_decay", "uniform"),
        ("{min: 0.1, max: 0.5}", "model.dropout", "uniform"),
    ],
)
def test_a_range_without_a_distribution_has_that_of_its_key(
    file: Path, range_: str, key: str, distribution: str
):
    plan = loaded(file, f"run_cap: 3\nparameters:\n  {key}: {range_}\n")
    assert plan.space[key].distribution == distribution


def test_a_trial_has_the_resources_of_the_sweep_whatever_its_base_says(file: Path):
    text = f"resources: {{num_workers: 2, cpus_per_worker: 3, gpus_per_worker: 1}}\n{GOOD}"
    trial = loaded(file, text, "cluster.num_workers=7", "cluster.use_gpu=false").base
    assert trial.cluster.num_workers == 2
    assert trial.cluster.cpus_per_worker == 3
    assert trial.cluster.use_gpu


def test_only_a_sweep_of_the_sampler_alone_trains_once(file: Path):
    metric = "metric: {name: sample/fd}\nearly_terminate: {type: none}\nmethod: grid\nparameters:\n"
    steps = "  sampler.num_inference_steps: {values: [5, 10]}\n"
    assert loaded(file, metric + steps).trains_once
    assert not loaded(file, f"{metric}{steps}  run.seed: {{values: [0, 1]}}\n").trains_once


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("run_cap:", "runcap: 5\nrun_cap:", "F:3: runcap: unknown key; did you mean 'run_cap'?"),
        ("name: schedules", "name: a b", "F:1: name: must be 1 to 100 letters"),
        ("run_cap: 5", "run_cap: 0", "F:3: run_cap: must be at least 1, got 0"),
        ("run_cap: 5", "run_cap: 10_001", "F:3: run_cap: must be at most 10000, got 10001"),
        ("run_cap: 5\n", "", "F:2: method: random needs run_cap, the number of trials"),
        ("method: random", "method: grid", "F:2: method: a grid needs values for optim.lr, not"),
        ("optim.lr:", "optim.lrr:", "F:6: parameters.optim.lrr: unknown key; did you mean"),
        ("optim.lr:", "run.name:", "F:6: parameters.run.name: the sweep names its trials"),
        ("optim.lr:", "run.storage_url:", "F:6: parameters.run.storage_url: a sweep's trials"),
        ("optim.lr:", "cluster.num_workers:", "F:6: parameters.cluster.num_workers: trials run"),
        ("optim.lr:", "tracking.metrics_port:", "F:6: parameters.tracking.metrics_port: a sweep's"),
        ("cosine]", "cosin]", "F:5: parameters.diffusion.beta_schedule: 'cosin' is not one of"),
        ("cosine]", "linear]", "F:5: parameters.diffusion.beta_schedule: 'linear' is given twice"),
        ("min: 1e-4", "min: -1", "F:6: parameters.optim.lr: log_uniform needs a min above 0"),
        ("max: 1e-2", "max: yes", "F:6: parameters.optim.lr: max: 'yes' is not a number"),
        ("max: 1e-2", "max: .inf", "F:6: parameters.optim.lr: max: inf is not a finite number"),
        ("min: 1e-4", "min: .nan", "F:6: parameters.optim.lr: min: nan is not a finite number"),
        ("max:", "maxi:", "F:6: parameters.optim.lr: maxi: unknown key; did you mean 'max'?"),
        ("optim.lr:", "model.depth:", "F:6: parameters.model.depth: 0.0001 is not a whole number"),
        ("{values: [linear", "{value: 1, values: [linear", "F:5: parameters.diffusion.beta_sch"),
        ("{values: [linear, cosine]}", "3", "F:5: parameters.diffusion.beta_schedule: must be {va"),
        ("log_uniform", "lognormal", "F:6: parameters.optim.lr: distribution: 'lognormal' is not"),
        ("[linear, cosine]", "[]", "F:5: parameters.diffusion.beta_schedule: values"),
        (
            "optim.lr: {",
            "optim: {lr: {min: 1}, ",
            "F:6: parameters.optim: lr: unknown key; optim.lr",
        ),
        (
            "  diffusion.beta_schedule: {values: [linear, cosine]}",
            "  optim: {values: [1, 2]}",
            "F:5: parameters.optim: a section: its values are mappings",
        ),
        (
            "  diffusion.beta_schedule: {values: [linear, cosine]}",
            "  optim: {values: [{lr: 1}, {lr: 2}]}",
            "F:6: parameters.optim.lr: given twice, alone and in its section",
        ),
        (
            "diffusion.beta_schedule: {values: [linear, cosine]}",
            "model:\n    values:\n      - {depth: 1}\n      - {dept: 2}",
            "F:8: parameters.model.dept: unknown key; did you mean 'model.depth'?",
        ),
        (
            "diffusion.beta_schedule: {values: [linear, cosine]}",
            "model:\n    values:\n      - {depth: 1}\n      - {depth: 0}",
            "F:8: parameters.model.depth: must be at least 1, got 0",
        ),
        (
            "diffusion.beta_schedule: {values: [linear, cosine]}",
            "model: {values: [{depth: 6}, {}]}",
            "F:5: parameters.model: 6 is given twice",
        ),
        ("run_cap: 5", "run_cap: 5\nmetric: {name: val/scor}", "F:4: metric.name: 'val/scor' is"),
        (
            "run_cap: 5",
            "run_cap: 5\nmetric: {goal: maximize}",
            "F:4: metric.goal: each of the metrics is better the smaller it is",
        ),
        (
            "run_cap: 5",
            "run_cap: 5\nearly_terminate: {type: hyperband}",
            "F:4: early_terminate.type: its asynchronous form is here, asha",
        ),
        (
            "run_cap: 5",
            "run_cap: 5\nmetric: {name: sample/fd}",
            "F:4: metric.name: asha never ends a trial: sample/fd is measured when it is over",
        ),
        (
            "run_cap: 5",
            "run_cap: 5\nearly_terminate: {type: median, grace: 0.9}",
            "F:4: early_terminate.type: median never ends a trial: no validation comes between",
        ),
        (
            "  optim.lr",
            "  training.total_images: {values: [64_000, 128_000]}\n  optim.lr",
            "early_terminate.type: asha never ends a trial: trials that differ in training.total_",
        ),
        (
            "diffusion.beta_schedule: {values: [linear, cosine]}",
            "sampler.num_inference_steps: {values: [5, 9]}",
            "metric.name: val/score draws no images, so it cannot choose sampler.num_inference_st",
        ),
        (
            "run_cap: 5",
            "run_cap: 5\nresources: {num_workers: 2, gpus_per_worker: 0.5}",
            "F:4: resources.gpus_per_worker: only trials of one worker share a GPU, got 0.5",
        ),
        (
            "run_cap: 5",
            "run_cap: 5\nresources: {gpus_per_worker: 2}",
            "F:4: resources.gpus_per_worker: must be at most 1, got 2",
        ),
        ("run_cap: 5", "run_cap: 5\nconfirm: {num_images: 10}", "F:4: confirm.num_images: must be"),
        ("run_cap: 5", "run_cap: 5\nbase: digit", "F:4: base: 'digit': neither a preset"),
        ("run_cap: 5", "run_cap: 5\nbase: 3", "F:4: base: 3 is not text"),
        ("run_cap: 5", "run_cap: 5\nbase: x.yaml", "x.yaml: cannot be read: No such file"),
        (
            GOOD[GOOD.index("parameters") :],
            "parameters:\n  optim.lr: {value: 1}\n",
            "F:4: parameters: needs one key whose values differ",
        ),
        (GOOD[GOOD.index("parameters") :], "", "F: parameters: needs one key or more"),
        (GOOD[GOOD.index("parameters") :], "parameters:", "F:4: parameters: needs one key or more"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(file: Path, old: str, new: str, line: str):
    assert old in GOOD
    [found] = problems(file, GOOD.replace(old, new, 1))
    assert found.replace(f"{file.parent}/", "").startswith(line)


def test_a_file_that_is_not_there_is_named(file: Path):
    with pytest.raises(ConfigError, match=r"sweep\.yaml: cannot be read: No such file"):
        load_sweep(file)


@pytest.mark.parametrize("metric", ["train/loss", "val/loss"])
def test_a_loss_does_not_compare_trials_that_define_it_differently(file: Path, metric: str):
    text = GOOD.replace("run_cap: 5", f"run_cap: 5\nmetric: {{name: {metric}}}")
    [line] = problems(file, text)
    assert f"{metric} does not compare trials that differ in diffusion.beta_schedule" in line
    assert "val/score does" in line
    same = text.replace(
        "diffusion.beta_schedule: {values: [linear, cosine]}", "run.seed: {values: [1, 2]}"
    )
    assert loaded(file, same).sweep.metric.name == metric


@pytest.mark.parametrize("metric", ["train/loss", "val/score"])
def test_only_the_error_of_what_it_gives_back_compares_autoencoders_of_other_losses(
    file: Path, metric: str
):
    text = f"metric: {{name: {metric}}}\n" + GOOD.replace(
        "diffusion.beta_schedule: {values: [linear, cosine]}", "model.kind: {value: autoencoder}"
    )
    assert loaded(file, text).sweep.metric.name == metric
    weight = f"{text}  autoencoder.kl_weight: {{values: [0, 1e-6]}}\n"
    if metric == "val/score":
        assert list(loaded(file, weight).space) == ["optim.lr", "autoencoder.kl_weight"]
    else:
        [line] = problems(file, weight)
        assert "train/loss does not compare trials that differ in autoencoder.kl_weight" in line


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("sample/fd", "draw nothing"),
        ("sample/kid", "draw nothing"),
        ("val/vlb_bpd", "know no noise levels"),
        ("val/loss", "know no noise levels"),
    ],
)
def test_autoencoders_do_not_compare_by_what_they_do_not_have(file: Path, metric: str, why: str):
    head = f"metric: {{name: {metric}}}\nearly_terminate: {{type: none}}\nrun_cap: 3\n"
    text = f"{head}parameters:\n  optim.lr: {{min: 1e-4, max: 1e-2}}\n"
    assert loaded(file, text).draws
    assert problems(file, text, "model.kind=autoencoder") == [
        f"F:1: metric.name: {metric} does not compare autoencoders, which {why}; val/score, the "
        "error of what they give back, does"
    ]


@pytest.mark.parametrize("metric", ["val/score", "sample/fd"])
@pytest.mark.parametrize("base", ["unet", "autoencoder"])
def test_autoencoders_compare_with_no_other_kind(file: Path, metric: str, base: str):
    head = f"metric: {{name: {metric}}}\nearly_terminate: {{type: none}}\nrun_cap: 3\n"
    text = f"base: base.yaml\n{head}parameters:\n  model.kind: {{values: [KINDS]}}\n"
    (file.parent / "base.yaml").write_text(f"model: {{kind: {base}}}\n")
    assert loaded(file, text.replace("KINDS", "dit, unet")).draws
    for kinds in ("unet, dit, autoencoder", "autoencoder, unet"):
        assert problems(file, text.replace("KINDS", kinds)) == [
            f"F:2: metric.name: {metric} does not compare model.kind=autoencoder with unet: one "
            "gives images back, the other draws new ones; sweep each by itself"
        ]


def test_autoencoders_are_known_for_drawing_nothing(file: Path):
    text = "run_cap: 3\nparameters:\n  optim.lr: {min: 1e-4, max: 1e-2}\n"
    assert loaded(file, text).draws
    assert not loaded(file, text, "model.kind=autoencoder").draws


@pytest.mark.parametrize("typed", ["optim.lr=0.1", "--optim.lr=0.1", "--optim.lr 0.1"])
def test_a_key_that_varies_is_not_given_on_the_command_line(file: Path, typed: str):
    [line] = problems(file, GOOD, *typed.split())
    assert line.startswith("F:6: parameters.optim.lr: cannot vary: it was given on the command")


def test_a_key_that_the_sweep_gives_says_so_whatever_else_is_wrong_with_it(file: Path):
    [line] = problems(file, GOOD.replace("optim.lr", "run.name"), "run.name=x")
    assert line.startswith("F:6: parameters.run.name: the sweep names its trials itself")


def test_a_grid_too_large_for_its_cap_is_refused(file: Path):
    text = "name: grid\nmethod: grid\nrun_cap: 1\nparameters:\n  optim.lr: {values: [1e-3, 1e-4]}\n"
    assert problems(file, text) == ["F:3: run_cap: the grid has 2 trials, more than 1"]


def test_a_grid_of_more_trials_than_there_are_names_is_refused_before_it_is_made(file: Path):
    values = "{values: [" + ", ".join(map(str, range(1, 101))) + "]}"
    keys = ("run.seed", "model.depth", "ema.warmup_steps", "optim.warmup_images")
    lists = "".join(f"  {key}: {values}\n" for key in keys)
    [line] = problems(file, f"method: grid\nparameters:\n{lists}")
    assert line == "F:1: method: the grid has 100,000,000 trials, more than 10,000"


def test_a_trial_that_breaks_a_rule_between_keys_is_named(file: Path):
    text = "name: grid\nmethod: grid\nparameters:\n"
    text += "  diffusion.beta_start: {values: [0.0001, 0.5]}\n"
    [line] = problems(file, text)
    assert line.startswith("F: trial 1 (diffusion.beta_start=0.5): diffusion.beta_start: must be")


def test_of_many_trials_that_break_a_rule_the_first_few_are_named(file: Path):
    text = "run_cap: 50\nparameters:\n  model.channels: {min: 9, max: 15}\n"
    found = problems(file, text)
    assert len(found) == 6
    assert found[-1] == "F: 45 more trials break a rule between keys"


def test_a_rule_between_the_base_and_a_constant_or_the_resources_is_told(file: Path):
    [line] = problems(file, f"{GOOD}  model.channels: {{value: 12}}\n")
    assert line == "F: model.channels: must be a multiple of 8, got 12"
    [line] = problems(file, f"resources: {{num_workers: 200}}\n{GOOD}")
    assert line.startswith("F: data.global_batch_size: must be at least cluster.num_workers, 200")


def test_bayes_without_optuna_says_how_to_get_it(file: Path, monkeypatch: pytest.MonkeyPatch):
    text = GOOD.replace("random", "bayes")
    assert loaded(file, text).sweep.method == "bayes"
    monkeypatch.setitem(sys.modules, "optuna", None)
    [line] = problems(file, text)
    assert line == "F:2: method: bayes needs optuna: pip install 'ray-diffusion[bayes]'"


def test_a_trial_larger_than_the_cluster_is_refused_as_soon_as_that_is_known(file: Path):
    text = f"resources: {{num_workers: 2, cpus_per_worker: 2, gpus_per_worker: 1}}\n{GOOD}"
    given = loaded(file, text).sweep.resources
    assert given.too_large({"CPU": 4, "GPU": 2}) == []
    with pytest.raises(ConfigError) as caught:
        load_sweep(file, have={"CPU": 2.0, "GPU": 0})
    assert [line.replace(str(file), "F") for line in caught.value.problems] == [
        "F:1: resources.num_workers: a trial needs 4 CPUs, the cluster has 2",
        "F:1: resources.num_workers: a trial needs 2 GPUs, the cluster has 0",
    ]
    for known in ({"CPU": 4, "GPU": 2}, {"CPU": 4}):  # GPUs are counted when Ray is there
        assert load_sweep(file, have=known).sweep.resources == given


def test_all_mistakes_are_listed_at_once(file: Path):
    file.write_text("""\
name: everything
method: grid
run_cap: 3
runcap: 4
confirm: {seeds: 0}
metric: {name: train/loss}
resources: {num_workers: 4}
parameters:
  optim.lrr: {values: [1]}
  optim.lr: {min: 1, max: 0}
  ema.decay: {values: []}
  model.depth: {values: [1, 0]}
  diffusion.beta_schedule: {values: [cosine, linear, sigmoid]}
  run.seed: {values: [0, 1]}
""")
    with pytest.raises(ConfigError) as caught:
        load_sweep(file, ["optim.grad_clip=-1"], have={"CPU": 2, "GPU": 0})
    found = [line.replace(str(file), "F") for line in caught.value.problems]
    assert sorted(found) == sorted([
        "F:4: runcap: unknown key; did you mean 'run_cap'?",
        "F:5: confirm.seeds: must be at least 1, got 0",
        "F:6: metric.name: train/loss does not compare trials that differ in "
        "diffusion.beta_schedule, which changes what it measures, whatever is learned; "
        "val/score does",
        "F:3: run_cap: the grid has 12 trials, more than 3",
        "F:7: resources.num_workers: a trial needs 4 CPUs, the cluster has 2",
        "F:9: parameters.optim.lrr: unknown key; did you mean 'optim.lr'?",
        "F:10: parameters.optim.lr: min must be below max, got 1 and 0",
        "F:11: parameters.ema.decay: values: needs 1 or more items, got []",
        "F:12: parameters.model.depth: must be at least 1, got 0",
        "optim.grad_clip: must be above 0, got -1",
    ])  # fmt: skip


SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_come_along_are_right_and_say_what_to_expect(path: Path):
    assert load_sweep(path, have={"CPU": 2, "GPU": 0}).sweep.name == path.stem
    header, _, _ = path.read_text().partition("\n\n")
    assert f"# Command:  python -m ray_diffusion.sweep sweeps/{path.name}\n" in header
    assert "\n# Cost:     " in header
    assert "\n# Expect:   " in header


def test_there_are_sweeps_for_the_usual_questions():
    names = {path.stem for path in SWEEPS.glob("*.yaml")}
    assert names == {"beta-schedules", "timesteps", "learning-rate", "solver-steps", "smoke"}
    assert load_sweep(SWEEPS / "solver-steps.yaml").trains_once
