"""Commands and tables in the documents are what the program understands; links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from ray_diffusion import config, encode, evaluate, pack, sample, sync
from ray_diffusion.config.sweep import Sweep, load_sweep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SWEEPS = (ROOT / "docs" / "sweeps.md").read_text()
REQUESTS = {
    "pack": (pack.PackRequest, ()),
    "encode": (encode.EncodeRequest, ()),
    "sample": (sample.SampleRequest, ("model",)),
    "evaluate": (evaluate.EvaluateRequest, ("model",)),
    "sync": (sync.SyncRequest, ("runs",)),
}


def blocks(text: str, language: str = "") -> list[str]:
    """What stands between fences."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def commands(*pages: Path) -> list[tuple[str, list[str]]]:
    """Verb and arguments of each command in the blocks of pages."""
    lines = [
        line
        for page in pages
        for block in blocks(page.read_text())
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [re.search(r"python -m ray_diffusion\.(\w+) ?(.*)", line) for line in lines]
    return [(match[1], shlex.split(match[2], comments=True)) for match in found if match]


def test_the_readme_has_commands():
    verbs = {verb for verb, _ in commands(ROOT / "README.md")}
    assert verbs == {"train", "sweep", *REQUESTS}


@pytest.mark.parametrize(
    ("verb", "arguments"), commands(ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
)
def test_a_command_in_the_documents_is_understood(
    verb: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
):
    if verb == "sweep":
        monkeypatch.chdir(ROOT)  # where its file is
        config.sweep_command_line(arguments, doc=None, have=None)
        return
    flags = {"--help", "--dry-run", "--profile"}
    arguments = [a for a in arguments if a not in flags and not a.endswith(".yaml")]
    if verb == "train":
        config.load(arguments, {"mlflow": lambda word, typed: config.dump(config.Config())})
    else:
        model, positional = REQUESTS[verb]
        if verb == "pack" and arguments[0] in pack.COMMANDS:
            model, positional = pack.COMMANDS[arguments.pop(0)][0], ("url",)
        config.parse(arguments, model, positional)


def test_the_sweeps_that_come_along_are_in_their_page():
    named = set(re.findall(r"\(\.\./sweeps/(.*?)\)", SWEEPS))
    assert named == {path.name for path in ROOT.glob("sweeps/*")}


def test_the_file_that_the_page_on_sweeps_shows_is_right(tmp_path: Path):
    (file,) = blocks(SWEEPS, "yaml")
    (tmp_path / "shown.yaml").write_text(file)
    assert load_sweep(tmp_path / "shown.yaml").num_trials == 24


def test_the_page_on_sweeps_has_every_key_and_its_default():
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `?(.*?)`? \|", SWEEPS, re.MULTILINE))
    assert (rows.pop("name"), rows.pop("parameters")) == ("the file's", "-")
    defaults = {key: field.default for key, field in config.leaves(Sweep).items() if key != "name"}
    assert rows == {key: "null" if x is None else str(x) for key, x in defaults.items()}


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT) for p in ROOT.glob("docs/**/*.md")))
def test_links_of_a_page_lead_somewhere(page: Path):
    assert_links(ROOT / page)


def test_links_of_the_readme_lead_somewhere():
    assert_links(ROOT / "README.md")


def assert_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_make_targets_named_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE)
        assert named
        assert set(named) <= targets


def test_the_exit_codes_of_the_readme_are_those_of_the_errors():
    from ray_diffusion.errors import RayDiffusionError

    def codes(kind: type[RayDiffusionError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(child) for child in kind.__subclasses__()))

    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert documented == codes(RayDiffusionError) | {0}
