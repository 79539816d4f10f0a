import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import UsageError
from ray_diffusion.evaluation.features import Features, features_of
from ray_diffusion.evaluation.figures import Figure, Report
from ray_diffusion.evaluation.measure import MEANINGS
from ray_diffusion.evaluation.report import LEAST_IMAGES, evaluate, require_enough
from ray_diffusion.evaluation.sliced import directions, project, sliced_wasserstein
from ray_diffusion.models.pixels import encode

FD, ACCURACY, RECALL = "sample/fd", "sample/class_accuracy", "sample/recall"
PRECISION, MEMORISED = "sample/precision", "sample/memorised"
pytestmark = pytest.mark.usefixtures("_cached")


@pytest.fixture(scope="module")
def features(digits_cache: str, train: Dataset) -> Features:
    return features_of("classifier", train)


def measured(
    images: Tensor, labels: Tensor | None, train: Dataset, val: Dataset, features: Features
) -> Report:
    return evaluate([images], labels, train, val, features)


def test_real_images_reach_their_own_floor(train: Dataset, val: Dataset, features: Features):
    real = val.read(0, len(val))
    report = measured(real.images, real.labels, train, val, features)
    assert set(report.figures) == set(MEANINGS)
    for figure in report.figures.values():
        assert figure.value == figure.floor
        assert figure.count == len(val)
        assert figure.spread is None
    assert report.figures[ACCURACY].value > 0.95
    assert report.figures[MEMORISED].value == pytest.approx(0.05, abs=1 / len(val))
    assert report.dataset_fingerprint == train.manifest.fingerprint
    assert (report.features, report.features_fingerprint) == (features.name, features.fingerprint)


def test_figures_of_the_classes_add_up_to_those_of_all(
    train: Dataset, val: Dataset, features: Features
):
    real = val.read(0, len(val))
    report = measured(real.images, real.labels, train, val, features)
    found = report.per_class.values()
    assert list(report.per_class) == list("0123456789")
    counts = [figures.count for figures in found]
    assert counts == np.bincount(real.labels).tolist()
    for name, shares in (
        (ACCURACY, [figures.accuracy for figures in found]),
        (PRECISION, [figures.precision for figures in found]),
    ):
        assert np.average(shares, weights=counts) == pytest.approx(report.figures[name].value)
    assert all(figures.accuracy == figures.accuracy_floor for figures in found)
    assert all(figures.precision == figures.precision_floor for figures in found)


def test_copies_of_training_images_pass_every_figure_but_one(
    train: Dataset, val: Dataset, features: Features
):
    copies = train.read(0, 500)
    report = measured(copies.images, copies.labels, train, val, features)
    assert report.figures[MEMORISED].value == 1
    assert report.figures[PRECISION].value == 1
    assert report.figures["sample/swd"].value <= report.figures["sample/swd"].floor
    for i, pair in enumerate(report.closest):
        assert (pair.drawn, pair.train, pair.distance) == (i, i, 0)


def test_a_pair_is_named_with_the_distance_of_its_pixels(
    train: Dataset, val: Dataset, features: Features
):
    images = torch.full((200, 1, 8, 8), 255, dtype=torch.uint8)
    images[7] = train.read(40, 41).images[0] ^ 2  # each pixel two grey levels off
    report = measured(images, None, train, val, features)
    first = report.closest[0]
    assert (first.drawn, first.train, first.distance) == (7, 40, 2)
    assert report.figures[MEMORISED].value == 1 / 200


def test_pixels_are_compared_in_the_range_that_the_model_draws_in(
    train: Dataset, val: Dataset, features: Features
):
    real, images = val.read(0, 200).images, train.read(0, len(train)).images
    onto = directions(64)
    a, b = (project(encode(part).flatten(1).double().numpy(), onto) for part in (real, images))
    found = measured(real, None, train, val, features).figures["sample/swd"].value
    assert found == pytest.approx(sliced_wasserstein(a, b), rel=1e-6)


def test_shuffled_labels_are_right_one_time_in_ten(
    train: Dataset, val: Dataset, features: Features
):
    real = val.read(0, len(val))
    shuffled = real.labels[torch.randperm(len(val), generator=torch.Generator().manual_seed(0))]
    figures = measured(real.images, shuffled, train, val, features).figures
    # Four standard deviations of 359 throws at 1/10.
    assert figures[ACCURACY].value == pytest.approx(0.1, abs=0.064)
    assert figures[FD].value == figures[FD].floor  # labels are not its matter


@pytest.mark.parametrize("name", ["classifier", "random"])
def test_noise_and_blurred_images_are_far_from_real_ones(train: Dataset, val: Dataset, name: str):
    real, generator = val.read(0, len(val)), torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, real.images.shape, generator=generator, dtype=torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(real.images.float(), 3, 1, 1).to(torch.uint8)
    for images in (noise, blurred):
        figures = measured(images, None, train, val, features_of(name, train)).figures
        assert figures[FD].value > 10 * figures[FD].floor
        assert figures["sample/kid"].value > 1 > abs(figures["sample/kid"].floor)
        assert figures["sample/swd"].value > 3 * figures["sample/swd"].floor
        assert figures[PRECISION].value < 0.1 < 0.8 < figures[PRECISION].floor
        assert figures[RECALL].value < 0.1 < 0.8 < figures[RECALL].floor


def test_one_image_drawn_again_and_again_is_precise_but_covers_nothing(
    train: Dataset, val: Dataset, features: Features
):
    images = train.read(3, 4).images.repeat(200, 1, 1, 1)
    figures = measured(images, None, train, val, features).figures
    assert figures[PRECISION].value == 1
    assert figures[RECALL].value < 0.01


def test_what_depends_on_the_count_is_compared_at_equal_counts(
    train: Dataset, val: Dataset, features: Features
):
    real, all_real = val.read(0, 200), val.read(0, len(val))
    figures = measured(real.images, real.labels, train, val, features).figures
    full = measured(all_real.images, all_real.labels, train, val, features).figures
    for name, meaning in MEANINGS.items():
        assert figures[name].count == 200
        if meaning.depends_on_count:
            assert figures[name].value == figures[name].floor != full[name].floor
        else:  # a share is as good a floor of all the images there are
            assert figures[name].floor == full[name].floor


def test_more_drawn_images_than_real_ones_are_cut_to_their_number(
    train: Dataset, val: Dataset, features: Features
):
    images, labels, *_ = train.read(0, 500)
    figures = measured(images, labels, train, val, features).figures
    assert (figures[FD].count, figures[ACCURACY].count) == (len(val), 500)
    cut = measured(images[: len(val)], labels[: len(val)], train, val, features).figures
    assert figures[FD].value == cut[FD].value


def test_several_seeds_have_a_mean_and_a_spread(train: Dataset, val: Dataset, features: Features):
    draws = [train.read(start, start + 150) for start in (0, 150, 300)]
    labels = draws[0].labels
    together = evaluate([draw.images for draw in draws], labels, train, val, features)
    alone = [measured(draw.images, labels, train, val, features) for draw in draws]
    for name, figure in together.figures.items():
        values = [report.figures[name].value for report in alone]
        assert figure.value == pytest.approx(np.mean(values))
        assert figure.spread == pytest.approx(np.std(values, ddof=1))
        assert figure.floor == alone[0].figures[name].floor
        assert figure.count == 150
    assert together.closest == alone[0].closest
    assert sum(figures.count for figures in together.per_class.values()) == 450
    assert "± sd" in together.table()


def test_without_labels_only_the_figures_of_classes_are_missing(
    train: Dataset, val: Dataset, features: Features
):
    real = val.read(0, len(val))
    report = measured(real.images, None, train, val, features)
    assert set(report.figures) == set(MEANINGS) - {ACCURACY}
    assert report.per_class == {}
    assert "by class" not in report.table()
    with_labels = measured(real.images, real.labels, train, val, features)
    assert all(with_labels.figures[name] == figure for name, figure in report.figures.items())


def test_a_class_that_was_not_asked_for_has_no_figures(
    train: Dataset, val: Dataset, features: Features
):
    real = val.read(0, len(val))
    even = real.labels % 2 == 0
    report = measured(real.images[even], real.labels[even], train, val, features)
    assert list(report.per_class) == list("02468")


def test_too_few_images_are_refused_by_count(train: Dataset, val: Dataset, features: Features):
    real = val.read(0, LEAST_IMAGES - 1)
    with pytest.raises(UsageError) as error:
        measured(real.images, real.labels, train, val, features)
    assert str(error.value) == (
        "num_images: at least 128 drawn and validation images are needed, got 127 and 359"
    )
    with pytest.raises(UsageError, match="got 500 and 127"):
        require_enough(500, 127)


def test_a_report_is_plain_data_and_a_table_and_takes_more_figures(
    train: Dataset, val: Dataset, features: Features
):
    real = val.read(0, 150)
    report = measured(real.images, real.labels, train, val, features)
    score = Figure(0.25, None, 359, "noise that is not predicted", "lower")
    report = replace(
        report, figures=report.figures | {"val/score": score}, score_fingerprint="score-1"
    )
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["figures"][FD]["count"] == 150
    head, *rows, classes = report.table().splitlines()
    assert head.split() == ["drawn", "real", "images"]
    assert [row.split()[0] for row in rows] == [*MEANINGS, "val/score"]
    assert rows[-1].split()[2:5] == ["0.250", "-", "359"]
    assert classes.startswith("accuracy by class: 0 ")


def test_of_many_classes_the_table_shows_the_worst(
    train: Dataset, val: Dataset, features: Features
):
    real = val.read(0, 150)
    report = measured(real.images, real.labels, train, val, features)
    one = report.per_class["0"]
    many = {f"c{i}": replace(one, accuracy=1 - i / 100) for i in range(30)}
    line = replace(report, per_class=many).table().splitlines()[-1]
    worst = [f"c{i} {1 - i / 100:.2f}" for i in range(29, 19, -1)]
    assert line == "accuracy of the 10 worst classes: " + "  ".join(worst)
