"""The short form of ``benchmarks/soak.py``: a campaign on a real SLURM through random faults, to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local_slurm import needs_slurm, skip_without_root

pytestmark = [pytest.mark.slurm, pytest.mark.lammps, pytest.mark.slow, needs_slurm, pytest.mark.timeout(1500)]

RUNS, FAULTS = 8, 5


def test_random_faults_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    skip_without_root()
    command = ("-m", "benchmarks.soak", str(tmp_path / "soak"), "--seed", "5", "--runs", str(RUNS))
    done = subprocess.run(
        (sys.executable, *command, "--faults", str(FAULTS), "--limit-s", "1200"),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # it checks the whole itself
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["stages"] == 1 + 3 * RUNS
    assert sum(figures["faults"].values()) >= 1
    assert figures["attempts"] >= figures["stages"]
    report = (tmp_path / "soak" / "soak" / "report.html").read_text()
    assert "runs done" in report
