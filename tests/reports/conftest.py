"""What tests of reports share."""

import pytest

from reports import style


@pytest.fixture(autouse=True)
def _one_format(request, monkeypatch):
    """Figures are saved as SVG alone, which the page shows; as everything in a test that asks for `every_format`."""
    if "every_format" not in request.fixturenames:
        monkeypatch.setattr(style, "FORMATS", {"svg": style.FORMATS["svg"]})


@pytest.fixture
def every_format():
    """For a test that looks at the other files of figures."""
