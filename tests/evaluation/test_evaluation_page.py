import io

import numpy as np
import pytest
import torch
from page_reader import read
from PIL import Image
from torch import Tensor

from ray_diffusion.data.reader import Dataset
from ray_diffusion.evaluation.features import features_of
from ray_diffusion.evaluation.figures import Report
from ray_diffusion.evaluation.gallery import Panel, alike, panels
from ray_diffusion.evaluation.page import page
from ray_diffusion.evaluation.report import evaluate

pytestmark = pytest.mark.usefixtures("_cached")


def png(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "png")
    return file.getvalue()


def pixels(content: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content))))[None]


@pytest.fixture(scope="module")
def report(digits_cache: str, train: Dataset, val: Dataset) -> Report:
    images, labels, *_ = train.read(300, 500)
    return evaluate([images, images], labels, train, val, features_of("random", train))


def shown(report: Report, **said: object) -> dict[str, object]:
    facts = {
        "name": "digits",
        "model": "runs/digits/checkpoint-1",
        "weights": "ema",
        "num_images": 200,
        "seeds": [0, 1],
        "dataset_url": "builtin:digits",
        "image_size": 8,
        "sampler": {"solver": "ddim", "num_inference_steps": 50},
    }
    return facts | report.to_dict() | said


@pytest.fixture
def found(report: Report, train: Dataset, val: Dataset) -> list[Panel]:
    images, labels, *_ = train.read(300, 500)
    return panels(images, labels, report, train, val, png)


def test_the_page_holds_every_figure_with_its_floor_and_its_spread(
    report: Report, found: list[Panel]
):
    text = read(page(shown(report), found)).text
    for name, figure in report.figures.items():
        at = text.index(name)
        row = text[at : at + 6]
        assert f"{figure.value:.3f}" in row
        assert f"± {figure.spread:.3f}" in row
        assert f"{figure.floor:.3f}" in row
    for fact in ("num inference steps", "50", "ddim", report.dataset_fingerprint, "seeds 0, 1"):
        assert any(fact in part for part in text)


def test_the_pictures_are_the_images_themselves(
    report: Report, found: list[Panel], train: Dataset, val: Dataset
):
    drawn, labels, *_ = train.read(300, 500)
    reader = read(page(shown(report), found))
    pictures = reader.pictures
    assert set(reader.kinds) == {"png"}
    assert len(pictures) == 100 + 100 + 2 * len(report.closest)
    for i, (content, name) in enumerate(pictures[:100]):
        assert torch.equal(pixels(content), drawn[i])
        assert name == f"drawn {labels[i]}"
    real = val.read(0, len(val))
    for i, (content, name) in enumerate(pictures[100:200]):
        same = (real.images == pixels(content)).flatten(1).all(1)
        assert real.labels[same].tolist() == [int(labels[i])]
        assert name == f"real {labels[i]}"
    assert len({content for content, _ in pictures[100:200]}) == 100  # none twice
    for pair, (above, _), (below, _) in zip(
        report.closest, pictures[200::2], pictures[201::2], strict=True
    ):
        assert torch.equal(pixels(above), drawn[pair.drawn])
        assert torch.equal(pixels(below), train.read(pair.train, pair.train + 1).images[0])


def test_without_classes_pictures_have_no_names_and_there_is_no_table_of_classes(
    report: Report, train: Dataset, val: Dataset
):
    images = train.read(0, 30).images
    found = panels(images, None, report, train, val, png)
    assert [len(panel.tiles) for panel in found] == [30, 30, len(report.closest)]
    assert {tile.name for tile in found[0].tiles + found[1].tiles} == {"drawn", "real"}
    text = read(page(shown(report, per_class={}), found)).text
    assert "Classes" not in text


def test_images_of_a_class_are_taken_in_turn_and_a_class_without_any_is_left_out():
    images, labels = torch.arange(4)[:, None, None, None], torch.tensor([0, 1, 0, 2])
    found = alike(images, labels, [0, 3, 0, 1, 0, 1])
    assert [(int(image), label) for image, label in found] == [
        (0, 0),
        (2, 0),
        (1, 1),
        (0, 0),
        (1, 1),
    ]


def test_words_of_the_user_are_text_and_nothing_else(report: Report, found: list[Panel]):
    evil = "<script>alert('&')</script>"
    reader = read(page(shown(report, name=evil, model=evil, dataset_url=evil), found))
    assert reader.text.count(evil) == 4  # heading and title, model, dataset


@pytest.mark.parametrize(("size", "rendering"), [(8, "pixelated"), (256, "auto")])
def test_small_images_are_enlarged_without_blur(
    report: Report, found: list[Panel], size: int, rendering: str
):
    assert f'"--rendering: {rendering}"' in page(shown(report, image_size=size), found)
