"""What an evaluation finds, as plain records and as a table."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

MOST_CLASSES = 10  # in the printed table; all are in the file


@dataclass(frozen=True)
class Figure:
    """One figure and the floor that real images reach.

    Attributes:
        value: Of the drawn images; the mean over the seeds.
        floor: Of the validation split, measured in the same way; None if there is none.
        count: Images that it was measured on, of each seed. Where the figure depends on their
            number, the floor was measured on as many.
        meaning: What it says, in a few words.
        better: Which way.
        spread: Standard deviation over the seeds; None of a single one.
    """

    value: float
    floor: float | None
    count: int
    meaning: str
    better: Literal["lower", "higher"]
    spread: float | None = None


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class, over all seeds.

    Attributes:
        count: Images drawn of it.
        accuracy: Share of them that the classifier takes for this class.
        accuracy_floor: Likewise of the validation split; None if it has none of this class.
        precision: Share of them in the region of the training images (of all classes).
        precision_floor: Likewise of the validation split.
    """

    count: int
    accuracy: float
    accuracy_floor: float | None
    precision: float
    precision_floor: float | None


@dataclass(frozen=True)
class Pair:
    """A drawn image and the training image nearest to it.

    Attributes:
        drawn: Index among the images of the first seed.
        train: Index in the train split.
        distance: Root mean square difference of the pixels, grey levels of 255.
    """

    drawn: int
    train: int
    distance: float


@dataclass(frozen=True)
class Report:
    """All figures of one model's images. Add more with ``dataclasses.replace``.

    Attributes:
        figures: By metric name.
        per_class: By class name; empty without classes.
        closest: The drawn images nearest to a training image, the nearest first.
        memorised_below: Distance up to which an image counts as memorised, grey levels of 255.
        features: Which features were used.
        features_fingerprint: Of their weights.
        dataset_fingerprint: Of what the figures are relative to.
        codec_fingerprint: Of what lies between pixels and the data that the model draws.
        score_fingerprint: Of how a score was measured; None without one.
    """

    figures: dict[str, Figure]
    per_class: dict[str, ClassFigures]
    closest: list[Pair]
    memorised_below: float
    features: str
    features_fingerprint: str
    dataset_fingerprint: str
    codec_fingerprint: str = "identity"
    score_fingerprint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def table(self) -> str:
        """The report for a person."""
        several = any(figure.spread is not None for figure in self.figures.values())
        spread = f" {'± sd':>7}" if several else ""
        lines = [f"{'':<24} {'drawn':>8}{spread} {'real':>8} {'images':>7}"]
        for name, figure in self.figures.items():
            spread = f" {number(figure.spread):>7}" if several else ""
            arrow = {"lower": "↓", "higher": "↑"}[figure.better]
            lines.append(
                f"{name:<22} {arrow} {number(figure.value):>8}{spread} "
                f"{number(figure.floor):>8} {figure.count:>7}  {figure.meaning}"
            )
        return "\n".join([*lines, *self._class_line()])

    def _class_line(self) -> list[str]:
        found = list(self.per_class.items())
        if len(found) > MOST_CLASSES:
            found = sorted(found, key=lambda item: item[1].accuracy)[:MOST_CLASSES]
            head = f"accuracy of the {MOST_CLASSES} worst classes: "
        else:
            head = "accuracy by class: "
        shares = (f"{name} {figures.accuracy:.2f}" for name, figures in found)
        return [head + "  ".join(shares)] if found else []


def number(value: float | None) -> str:
    """A figure as people read it; a dash for one that there is not."""
    return "-" if value is None else f"{value:.3f}"
