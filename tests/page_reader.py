"""Reads pages as a browser would, and refuses what a self-contained page must not hold."""

import base64
from html.parser import HTMLParser

VOID = {"meta", "img", "link"}


class Reader(HTMLParser):
    """Fails on tags that do not match; collects text, pictures and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []
        self.pictures: list[tuple[bytes, str]] = []
        self.kinds: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        assert "href" not in found
        if "src" in found:
            kind, _, content = str(found["src"]).partition(";base64,")
            assert kind.startswith("data:image/")
            self.kinds.append(kind.removeprefix("data:image/"))
            self.pictures.append((base64.b64decode(content, validate=True), str(found["alt"])))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert not {"script", "link", "iframe"} & set(reader.seen)
    assert "url(" not in html
    assert "@import" not in html
    return reader
