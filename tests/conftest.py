"""What tests with the stand-in plug-in start from, and the record of the conformance suite."""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

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


_RECORDS = pytest.StashKey[list[dict[str, Any]]]()
_OPTION = "--conformance-record"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(_OPTION, type=Path, help="file for what the conformance suite found (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORDS] = []


@pytest.fixture
def found(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Take note of what a test of the conformance suite measured."""
    return lambda figure: request.node.user_properties.append(("figure", figure))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not isinstance(item, pytest.Function) or "found" not in item.fixturenames:
        return report
    if report.when == "call" or report.skipped:
        parameters: dict[str, Any] = item.callspec.params
        cell = parameters.get("cell")
        title, _, meaning = (item.function.__doc__ or "").split("\n")[0].rstrip(".").partition(": ")
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        item.config.stash[_RECORDS].append(
            {
                "title": f"{title}, {cell} cell" if cell else title,
                "meaning": meaning,
                "case": str(parameters.get("case") or parameters["pair"][0]),
                "outcome": report.outcome,
                "figure": dict(item.user_properties).get("figure", ""),
                "reason": reason.removeprefix("Skipped: "),
            }
        )
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption(_OPTION)
    if path is not None:
        path.write_text(json.dumps(session.config.stash[_RECORDS], indent=1))
