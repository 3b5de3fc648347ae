"""The command that a spec names is told what happens: once each, and never waited for by the campaign."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from campaign.cli import notify
from campaign.layout import Layout
from tests.standin_campaign import use_standin, write_spec

COMMAND = 'echo "$CAMPAIGN_EVENT $CAMPAIGN_NAME $(cat)" >> "$CAMPAIGN_DIRECTORY/told"'


def picture(failed: dict[str, str], held: list[str]) -> dict[str, Any]:
    """Snapshot with these failures (stage and class)."""
    return {
        "failed": {
            stage: {"class": name, "message": "Lost atoms", "runs": [f"nemd/seed={stage}"], "n_runs": 1}
            for stage, name in failed.items()
        },
        "held": held,
        "counts": {"nemd": {"done": 3, "failed": len(failed), "total": 3 + len(failed)}},
        "driver": {"state": "finished"},
    }


def test_each_class_and_each_hold_is_told_once(tmp_path: Path) -> None:
    with notify.notifier(COMMAND, Layout(tmp_path), "mine") as told:
        assert told is not None
        told(picture({"1": "physics"}, []))  # of another day
        told(picture({"1": "physics", "2": "physics"}, []))
        told(picture({"1": "physics", "3": "walltime"}, ["condition a: too many failures"]))
        told(picture({"3": "walltime", "4": "walltime"}, ["condition a: too many failures"]))
        told.ended()
    assert sorted((tmp_path / "told").read_text().splitlines()) == [
        "ended mine mine: ended: 5 runs: 3 done, 2 failed",
        "failure mine mine: first failure (walltime): nemd/seed=3: Lost atoms",
        "held mine mine: held back: condition a: too many failures",
    ]


def test_a_command_that_hangs_or_fails_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "PATIENCE_S", 0.5)
    began = time.monotonic()
    for command in (f"sleep 1000; touch {tmp_path}", "exit 3"):
        with notify.notifier(command, Layout(tmp_path), "mine") as told:
            assert told is not None
            told(picture({}, []))
            told.ended()
    assert time.monotonic() - began < 500
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may end while we look
            assert str(tmp_path) not in path.read_text()
    assert "took more than 0.5 s" in caplog.text
    assert "ended with 3" in caplog.text


def test_a_run_tells_of_its_failures_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_standin(monkeypatch)
    spec = write_spec(tmp_path, ["steady", "nan"], 1)
    spec.write_text(f"notify: {COMMAND!r}\n{spec.read_text()}")
    done = subprocess.run(
        (sys.executable, "-m", "campaign", "run", str(spec), "--dir", str(tmp_path / "c"), "--workers", "1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    lines = (tmp_path / "c" / "told").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["failure", "ended"]
    assert "first failure (physics)" in lines[0]
    assert "2 runs: 1 done, 1 failed" in lines[1]
