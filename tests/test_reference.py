"""The page of all docstrings is up to date."""

import os
import sys

import pytest

from tests.documents import ROOT
from tests.reference_page import page

PAGE = ROOT / "docs/reference/python.md"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions print annotations otherwise")
def test_the_page_of_docstrings_is_up_to_date() -> None:
    """`BARQUE_REWRITE=1` writes it again."""
    made = page()
    if os.environ.get("BARQUE_REWRITE"):
        PAGE.write_text(made)
    assert PAGE.read_text() == made, "write it again: BARQUE_REWRITE=1 pytest tests/test_reference.py"
