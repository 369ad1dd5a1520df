"""Entry batches: cutting, and bodies from hostile hands."""

import pytest

from barque.core import entries
from barque.core.entries import EntryKind
from barque.errors import ProtocolError
from barque.types import ClientRef, ReplyMode


def test_correlations_that_would_overflow_are_refused() -> None:
    """Every entry's correlation fits the format, so that the batch can be cut anywhere."""
    origin = ClientRef("n", 1)
    for first, count, good in ((2**64 - 2, 2, True), (2**64 - 1, 1, True), (2**64 - 1, 2, False)):
        body = entries.encode_body([b"a"] * count, EntryKind.USER, ReplyMode.NOTIFY, origin, first)
        if good:
            entries.check_body(body, count)
            entries.cut_body(body, count, count - 1, 1)
        else:
            with pytest.raises(ProtocolError, match="correlation"):
                entries.check_body(body, count)
