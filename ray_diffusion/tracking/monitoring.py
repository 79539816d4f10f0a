"""Alert rules, a dashboard and a table, written from the definitions of the metrics.

``python -m ray_diffusion.tracking.monitoring DIRECTORY`` writes the first two, `make monitoring`
where they belong.
"""

import sys
from pathlib import Path

from ray_diffusion.tracking.alerts import rules
from ray_diffusion.tracking.dashboard import dashboard
from ray_diffusion.tracking.families import FAMILIES, PREFIX

FILES = {"prometheusrule.yaml": rules, "dashboard.json": dashboard}


def table() -> str:
    """The families as a table in Markdown, for ``docs/operations.md``."""
    rows = ["| metric | kind | labels | what it is |", "| --- | --- | --- | --- |"]
    for family in FAMILIES.values():
        kind = "gauge" if family.kind == "age" else family.kind
        labels = ", ".join(family.labels)
        rows.append(f"| `{PREFIX}{family.name}` | {kind} | {labels} | {family.help} |")
    return "\n".join(rows)


def main(argv: list[str]) -> None:
    """Write the files.

    Args:
        argv: The directory that they go to.
    """
    [directory] = argv
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, made in FILES.items():
        Path(directory, name).write_text(made())


if __name__ == "__main__":
    main(sys.argv[1:])
