"""Alerts, dashboard and table name metrics that exist, with labels that they have."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ray_diffusion.tracking import monitoring
from ray_diffusion.tracking.alerts import ALERTS, rules
from ray_diffusion.tracking.dashboard import COLUMNS, dashboard
from ray_diffusion.tracking.families import FAMILIES, PREFIX, ROWS

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "k8s/components/monitoring"
FUNCTIONS = {
    *("clamp_min", "delta", "histogram_quantile", "increase"),
    *("max", "min_over_time", "rate", "sum"),
}
WORDS = {"and", "by", *FUNCTIONS}


def problems(expr: str) -> list[str]:
    """What is wrong with an expression of PromQL, as far as names can tell."""
    found, used = [], set()
    for name in re.findall(rf"\b{PREFIX}(\w+)", expr):
        family = FAMILIES.get(name.removesuffix("_bucket")) or FAMILIES.get(name)
        if family is None or (family.kind == "histogram") != name.endswith("_bucket"):
            found.append(f"there is no {name}")
        else:
            used.add(family)
    known = {label for family in used for label in family.labels} | {
        "le" for family in used if family.kind == "histogram"
    }
    grouped = [re.split(r",\s*", group) for group in re.findall(r"\bby \(([^)]*)\)", expr)]
    chosen = re.findall(r"(\w+)=~?\"", expr)
    labels = {label for group in grouped for label in group} | set(chosen)
    found += [f"nothing has the label {label}" for label in sorted(labels - known)]
    bare = re.sub(rf"\b{PREFIX}\w+|\{{[^}}]*\}}|\[[^]]*\]|\bby \([^)]*\)", " ", expr)
    words = set(re.findall(r"[A-Za-z_]\w*", bare))
    found += [f"{word} means nothing" for word in sorted(words - WORDS)]
    if expr.count("(") != expr.count(")"):
        found.append("parentheses do not match")
    for function, argument in re.findall(rf"(\w+)\({PREFIX}(\w+?)(?:_bucket)?[\[{{]", expr):
        kind = FAMILIES[argument].kind if argument in FAMILIES else ""
        if function in {"rate", "increase"} and kind not in {"counter", "histogram"}:
            found.append(f"{function} of {argument}, which may fall")
        if function == "delta" and kind != "gauge":
            found.append(f"delta of {argument}, which only rises")
    return found


def panels() -> list[dict]:
    return [panel for panel in json.loads(dashboard())["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_names_what_exists(alert):
    assert problems(alert.expr) == []


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_names_what_exists(panel):
    assert panel["targets"]
    for target in panel["targets"]:
        assert problems(target["expr"]) == []
        assert '{run=~"$run"}' in target["expr"]


@pytest.mark.parametrize(
    "expr",
    [
        "ray_diffusion_flux > 1",
        "ray_diffusion_step_seconds > 1",
        "ray_diffusion_loss_bucket > 1",
        "sum by (rank) (ray_diffusion_loss)",
        'ray_diffusion_loss{rank="0"}',
        "average(ray_diffusion_loss)",
        "max(ray_diffusion_loss",
        "rate(ray_diffusion_loss[1m])",
        "delta(ray_diffusion_images_total[1m])",
    ],
)
def test_what_is_wrong_with_an_expression_is_found(expr: str):
    assert len(problems(expr)) == 1


def test_every_family_is_on_the_dashboard_in_its_row():
    found: dict[str, set[str]] = {}
    for panel in json.loads(dashboard())["panels"]:
        if panel["type"] == "row":
            row = found.setdefault(panel["title"], set())
        else:
            exprs = " ".join(target["expr"] for target in panel["targets"])
            row |= set(re.findall(rf"{PREFIX}(\w+?)(?:_bucket)?\b", exprs))
    assert found == {row: {family.name for family in families} for row, families in ROWS.items()}


def test_runs_and_sweeps_can_be_chosen():
    variables = json.loads(dashboard())["templating"]["list"]
    [query] = [each["query"]["query"] for each in variables if each["name"] == "run"]
    [names] = re.findall(r'^label_values\(\{__name__=~"([^"]*)"\}, run\)$', query)
    of_rows = [{family.name for family in ROWS[row]} for row in ("machines", "sweep")]
    named = {name.removeprefix(PREFIX) for name in names.split("|")}
    assert named <= FAMILIES.keys()
    assert all(named & of_row for of_row in of_rows)


def test_no_two_panels_overlap_and_none_leaves_the_page():
    cells = set()
    for panel in json.loads(dashboard())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & own
        cells |= own
    ids = [panel["id"] for panel in json.loads(dashboard())["panels"]]
    assert len(ids) == len(set(ids))


def test_the_rules_are_yaml_that_says_what_the_alerts_say():
    manifest = YAML(typ="safe").load(rules())
    assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
    assert manifest["kind"] == "PrometheusRule"
    [group] = manifest["spec"]["groups"]
    assert group["rules"] == [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.hold,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "action": alert.action,
            },
        }
        for alert in ALERTS
    ]


def test_the_keys_that_an_alert_advises_exist():
    from ray_diffusion.config import Config, leaves

    named = {key for alert in ALERTS for key in re.findall(r"\b[a-z]+\.[a-z_]+\b", alert.action)}
    assert named
    assert named <= leaves(Config).keys()


@pytest.mark.parametrize("name", monitoring.FILES)
def test_the_written_files_are_of_these_definitions(name: str, tmp_path: Path):
    monitoring.main([str(tmp_path)])
    assert (WRITTEN / name).read_text() == (tmp_path / name).read_text(), "run `make monitoring`"


def test_the_documented_table_is_of_these_definitions():
    assert monitoring.table() in (ROOT / "docs/operations.md").read_text()


# By alert: series over an hour, a point every 30 s in promtool's notation, of a run that is well
# and of one that is not. promtool looks at minute 50.
EXAMPLES = {
    # Steps of 10 to 20 s, the last of them five minutes ago; and one after the other.
    "RayDiffusionNoStep": {
        'ray_diffusion_step_age_seconds{run="bad", rank="0"}': "0x90 0+30x30",
        'ray_diffusion_step_age_seconds{run="well", rank="0"}': "15x120",
        'ray_diffusion_step_seconds_bucket{run="bad", le="10.0"}': "0x120",
        'ray_diffusion_step_seconds_bucket{run="bad", le="20.0"}': "0+2x90 182x30",
        'ray_diffusion_step_seconds_bucket{run="bad", le="+Inf"}': "0+2x90 182x30",
        'ray_diffusion_step_seconds_bucket{run="well", le="10.0"}': "0x120",
        'ray_diffusion_step_seconds_bucket{run="well", le="20.0"}': "0+2x120",
        'ray_diffusion_step_seconds_bucket{run="well", le="+Inf"}': "0+2x120",
        # Four minutes without a step are nothing where steps take one to two.
        'ray_diffusion_step_age_seconds{run="slow", rank="0"}': "240x120",
        'ray_diffusion_step_seconds_bucket{run="slow", le="50.0"}': "0x120",
        'ray_diffusion_step_seconds_bucket{run="slow", le="100.0"}': "100x120",
        'ray_diffusion_step_seconds_bucket{run="slow", le="+Inf"}': "100x120",
    },
    "RayDiffusionCheckpointOld": {
        'ray_diffusion_checkpoint_age_seconds{run="bad"}': "0+30x120",
        'ray_diffusion_checkpoint_interval_seconds{run="bad"}': "600x120",
        'ray_diffusion_checkpoint_age_seconds{run="well"}': "1500x120",
        'ray_diffusion_checkpoint_interval_seconds{run="well"}': "600x120",
    },
    "RayDiffusionRestarts": {
        'ray_diffusion_restarts_total{run="bad", reason="failure"}': "0x20 2x20 4x80",
        'ray_diffusion_restarts_total{run="bad", reason="stall"}': "0x30 1x90",
        'ray_diffusion_restarts_total{run="well", reason="failure"}': "0x20 2x100",
    },
    "RayDiffusionNonfinite": {
        'ray_diffusion_nonfinite_steps_total{run="bad"}': "0x40 1x80",
        'ray_diffusion_nonfinite_steps_total{run="well"}': "0x120",
    },
    "RayDiffusionDataWait": {
        'ray_diffusion_data_wait_seconds_total{run="bad"}': "0+12x120",  # 40 %
        'ray_diffusion_data_wait_seconds_total{run="well"}': "0+6x120",
    },
    "RayDiffusionTrackingBacklog": {
        'ray_diffusion_tracking_backlog_points{run="bad"}': "0x20 0+8x100",
        # Points wait for a moment each time; outages that are over, or young.
        'ray_diffusion_tracking_backlog_points{run="well"}': "0 8 0 8 0x20 0+8x30 240-8x65",
        'ray_diffusion_tracking_backlog_points{run="short"}': "0x72 0+8x50",
    },
    # Two trials hung, and were taken away; they wait for room. Of another sweep they get on, and
    # of a third all are over.
    "RayDiffusionSweepStands": {
        'ray_diffusion_sweep_progress_age_seconds{run="bad"}': "0x80 0+30x40",
        'ray_diffusion_sweep_trials{run="bad", state="waiting"}': "0x98 2x20",
        'ray_diffusion_sweep_trials{run="bad", state="running"}': "2x98 0x20",
        'ray_diffusion_sweep_progress_age_seconds{run="well"}': "0 60 200 290 0x120",
        'ray_diffusion_sweep_trials{run="well", state="running"}': "2x120",
        'ray_diffusion_sweep_progress_age_seconds{run="over"}': "0+30x120",
        'ray_diffusion_sweep_trials{run="over", state="running"}': "0x120",
        'ray_diffusion_sweep_trials{run="over", state="finished"}': "4x120",
    },
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus' promtool")
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_prometheus_tells_of_the_run_that_is_not_well_alone(alert, tmp_path: Path):
    groups = YAML(typ="safe").load(rules())["spec"]
    (tmp_path / "rules.json").write_text(json.dumps(groups))
    series = [{"series": name, "values": v} for name, v in EXAMPLES[alert.name].items()]
    expr = f'count by (run) (ALERTS{{alertname="{alert.name}", alertstate="firing"}})'
    fires = [{"labels": '{run="bad"}', "value": 1}]
    tests = {
        "rule_files": ["rules.json"],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": series,
                "promql_expr_test": [{"expr": expr, "eval_time": "50m", "exp_samples": fires}],
            }
        ],
    }
    (tmp_path / "tests.json").write_text(json.dumps(tests))
    command = ["promtool", "test", "rules", str(tmp_path / "tests.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_an_example_and_examples_are_of_real_series():
    assert EXAMPLES.keys() == {alert.name for alert in ALERTS}
    for series in EXAMPLES.values():
        for name in series:
            family = FAMILIES[name.partition("{")[0].removeprefix(PREFIX).removesuffix("_bucket")]
            labels = set(re.findall(r"(\w+)=", name)) - {"le"}
            assert labels == set(family.labels)
