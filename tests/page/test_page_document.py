import pytest
from page_reader import read

from ray_diffusion.page.document import document, listing, picture, section

PNG, JPEG, WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP"
EVIL = "\"><script>alert('&')</script>"


@pytest.mark.parametrize(("size", "rendering"), [(8, "pixelated"), (63, "pixelated"), (64, "auto")])
def test_pictures_below_64_pixels_are_enlarged_without_blur(size: int, rendering: str):
    assert f'"--rendering: {rendering}"' in document("a title", [], size)


def test_a_page_holds_its_parts_in_order_and_its_own_style():
    html = document("a title", [section("one", "1"), section("two", "2")], 8, "b { top: 0 }")
    found = read(html)
    assert found.text.index("one") < found.text.index("two")
    assert "b { top: 0 }" in html.partition("</style>")[0]


def test_pictures_are_the_files_under_their_own_types():
    found = read(picture([PNG, JPEG, WEBP], "three"))
    assert found.kinds == ["png", "jpeg", "webp"]
    assert found.pictures == [(PNG, "three"), (JPEG, "three"), (WEBP, "three")]


@pytest.mark.parametrize(
    "html",
    [
        document(EVIL, [], 8),
        section(EVIL, "", "text"),
        section("title", "", EVIL),
        listing({EVIL: 1}),
        listing({"name": EVIL}),
        picture([], "name", EVIL),
    ],
)
def test_words_are_text(html: str):
    assert EVIL in read(html).text


def test_the_name_of_a_picture_is_text():
    assert read(picture([PNG], EVIL)).pictures == [(PNG, EVIL)]
