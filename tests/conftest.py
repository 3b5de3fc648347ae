"""What tests with the stand-in plug-in start from."""

from pathlib import Path

import pytest

from campaign.layout import Layout
from tests.standin_campaign import use_standin


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a campaign of stand-ins will be; nothing is there yet."""
    use_standin(monkeypatch)
    return tmp_path / "campaign"


@pytest.fixture
def layout(root: Path) -> Layout:
    """A campaign's directory in which attempts can run; it has no ledger."""
    layout = Layout(root)
    for directory in (layout.root, layout.stages, layout.attempts):
        directory.mkdir()
    return layout
