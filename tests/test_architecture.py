"""The import table of docs/architecture.md, the size of files, and what an import may not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ray_diffusion"

CORE = {"config", "errors"}
ROOMS_BELOW_CLUSTER = {
    *CORE,
    "page",
    *("storage", "diffusion", "models", "data", "training", "evaluation", "pipeline", "tracking"),
}
VERBS = {"train", "sweep", "pack", "encode", "sample", "evaluate", "sync", "__main__", "__init__"}

# room: (rooms that it may import, packages that it may import beside the standard library)
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "page": (set(), set()),
    "storage": ({"errors"}, {"fsspec"}),
    "config": ({"errors"}, {"pydantic", "pydantic_core", "annotated_types", "ruamel"}),
    "diffusion": ({"errors"}, {"torch"}),
    "models": ({*CORE, "diffusion"}, {"torch", "safetensors", "diffusers"}),
    "data": (
        {*CORE, "storage", "page"},
        {
            *("torch", "numpy", "webdataset", "fsspec", "PIL", "sklearn"),
            *("pyarrow", "datasets", "pydantic"),
        },
    ),
    "training": ({*CORE, "storage", "diffusion", "models", "data"}, {"torch", "safetensors"}),
    "evaluation": (
        {*CORE, "storage", "page", "diffusion", "models", "data"},
        {"torch", "numpy", "scipy", "sklearn", "safetensors"},
    ),
    "pipeline": (
        {*CORE, "storage", "diffusion", "models", "training"},
        {"torch", "safetensors"},
    ),
    "tracking": (CORE, {"mlflow", "prometheus_client", "matplotlib", "psutil", "pynvml"}),
    "cluster": (ROOMS_BELOW_CLUSTER, {"ray", "torch", "PIL", "optuna"}),
    **{
        verb: (ROOMS_BELOW_CLUSTER | {"cluster"}, {"pydantic", "torch", "numpy", "PIL"})
        for verb in VERBS
    },
    "sweep": (ROOMS_BELOW_CLUSTER | {"cluster", "evaluate"}, {"torch"}),  # --promote evaluates
}


def room_of(module: Path, package: Path = PACKAGE) -> str:
    return module.relative_to(package).with_suffix("").parts[0]


def imports(module: Path) -> set[str]:
    """The dotted names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(package: Path) -> list[str]:
    """Every import that the table does not allow."""
    found = []
    for module in sorted(package.rglob("*.py")):
        room = room_of(module, package)
        rooms, packages = TABLE[room]
        for name in imports(module):
            top, _, rest = name.partition(".")
            if top == "ray_diffusion":
                target = rest.partition(".")[0]
                allowed = target in rooms | {room, "__version__"}
            else:
                allowed = top in packages or top in sys.stdlib_module_names
            if not allowed:
                found.append(f"{module.relative_to(package)} imports {name}")
    return found


def test_every_import_is_in_the_table():
    assert violations(PACKAGE) == []


def test_every_room_is_in_the_table():
    assert {room_of(module) for module in PACKAGE.rglob("*.py")} == set(TABLE)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("diffusion", "import ray"),
        ("diffusion", "def f():\n    import ray.train"),
        ("data", "from ray_diffusion.diffusion import schedule"),
        ("tracking", "from ray_diffusion import data"),
        ("config", "import torch"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, room: str, line: str):
    package = tmp_path / "ray_diffusion"
    (package / room).mkdir(parents=True)
    (package / room / "planted.py").write_text(line)
    assert len(violations(package)) == 1


def test_no_file_is_long_and_no_function_either():
    for module in PACKAGE.rglob("*.py"):
        source = module.read_text()
        assert source.count("\n") <= 300, module
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{module}: {node.name}"


def test_no_drawer_without_a_name():
    drawers = {"utils", "common", "base", "helpers", "misc"}
    assert not [p for p in PACKAGE.rglob("*") if p.stem in drawers]


@pytest.mark.parametrize(
    "module", ["config", "errors", "train", "sweep", "sample", "evaluate", "pack"]
)
def test_heavy_packages_wait_until_they_are_needed(module: str):
    heavy = ["torch", "ray", "mlflow", "webdataset", "numpy"]
    code = f"import sys, ray_diffusion.{module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_core_never_loads_ray_mlflow_or_webdataset():
    code = (
        "import sys, ray_diffusion.training.loop, ray_diffusion.pipeline; "
        "print([m for m in ('ray', 'mlflow', 'webdataset') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_documented_table_is_the_tested_one():
    document = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = {}
    for line in document.splitlines():
        cells = [cell.strip(" `") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[0] in TABLE:
            rows[cells[0]] = tuple(
                set() if cell == "-" else {word.strip(" `") for word in cell.split(",")}
                for cell in cells[1:]
            )
    for room, (rooms, packages) in TABLE.items():
        if room in VERBS:
            continue
        everything = {"all above"} if room == "cluster" else rooms
        assert rows[room] == (everything, packages), room
