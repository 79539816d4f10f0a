"""Every command in the README is one that the program understands; every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from ray_diffusion import config, evaluate, pack, sample, sync

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
REQUESTS = {
    "pack": (pack.PackRequest, ()),
    "sample": (sample.SampleRequest, ("model",)),
    "evaluate": (evaluate.EvaluateRequest, ("model",)),
    "sync": (sync.SyncRequest, ("runs",)),
}


def commands() -> list[tuple[str, list[str]]]:
    """Verb and arguments of each command in the README's blocks."""
    found = []
    for block in re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                if word.startswith("ray_diffusion."):
                    found.append((word.removeprefix("ray_diffusion."), words[i + 1 :]))
    return found


def test_the_readme_has_commands():
    assert {verb for verb, _ in commands()} == {"train", *REQUESTS}


@pytest.mark.parametrize(("verb", "arguments"), commands())
def test_a_command_in_the_readme_is_understood(verb: str, arguments: list[str]):
    flags = {"--help", "--dry-run", "--profile"}
    arguments = [a for a in arguments if a not in flags and not a.endswith(".yaml")]
    if verb == "train":
        config.load(arguments, {"mlflow": lambda word, typed: config.dump(config.Config())})
    else:
        model, positional = REQUESTS[verb]
        if verb == "pack" and arguments[0] in pack.COMMANDS:
            model, positional = pack.COMMANDS[arguments.pop(0)][0], ("url",)
        config.parse(arguments, model, positional)


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT) for p in ROOT.glob("docs/**/*.md")))
def test_links_of_a_page_lead_somewhere(page: Path):
    assert_links(ROOT / page)


def test_links_of_the_readme_lead_somewhere():
    assert_links(ROOT / "README.md")


def assert_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_make_targets_named_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"(?:`|^)make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE)
        assert named
        assert set(named) <= targets


def test_the_exit_codes_of_the_readme_are_those_of_the_errors():
    from ray_diffusion.errors import RayDiffusionError

    def codes(kind: type[RayDiffusionError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(child) for child in kind.__subclasses__()))

    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert documented == codes(RayDiffusionError) | {0}
