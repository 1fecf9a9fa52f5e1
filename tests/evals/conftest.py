"""What tests of suites share."""

import pytest

from evals.core import contact_sheets


@pytest.fixture(autouse=True)
def _sheets(monkeypatch):
    """Contact sheets of one tile, which are drawn in no time; test_sheets.py looks at whole ones."""
    monkeypatch.setattr(contact_sheets, "MAX_TILES", 1)
