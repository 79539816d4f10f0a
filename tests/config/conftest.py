import pytest


@pytest.fixture(autouse=True)
def _hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help wraps at the width of the terminal that happens to run the tests."""
    monkeypatch.setenv("COLUMNS", "100")
