"""Where the authors' own numbers and files lie; tests that need them skip, and say so, without them."""

from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"the authors' data are not at {REFERENCE}"
)
