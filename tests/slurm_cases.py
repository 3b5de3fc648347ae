"""Campaigns of real LAMMPS on a local SLURM: start them, look at them, and check that they are whole."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import campaign
from campaign.execution.commit import read_manifest, verify
from campaign.execution.segments import committed_segments
from campaign.layout import Layout
from campaign.ledger import Attempt, Ledger
from campaign.plan_file import read_status
from tests.local_slurm import LocalSlurm
from tests.nemd_cases import small_spec
from tests.standin_campaign import drive, engines_alive, plan_of, wait_for

QUIET_S = 20.0
"""Time in which jobs and engines are gone after their driver."""


class Case:
    """One campaign on a site."""

    def __init__(self, folder: Path, slurm: LocalSlurm, seeds: int, production_ps: float, **gpu: Any) -> None:
        self.root = folder / "campaign"
        self.layout = Layout(self.root)
        self.slurm = slurm
        self.drivers: list[subprocess.Popen[bytes]] = []
        folder.mkdir(exist_ok=True)
        (folder / "spec.yaml").write_text(small_spec("cluster", production_ps, f"seed: {{count: {seeds}}}"))
        yaml = YAML(typ="safe")
        data = yaml.load(slurm.site.read_text())
        data["resources"]["gpu"] |= {"jobs": 2, **gpu}
        self.site = folder / "site.yaml"
        with self.site.open("w") as file:
            yaml.dump(data, file)
        plan, _ = plan_of(folder / "spec.yaml")
        self.runs = list(plan.calculations[0].runs)

    @property
    def stages(self) -> int:
        """Structure, then equilibration, production and reduction of each run."""
        return 1 + 3 * len(self.runs)

    def drive(self, segment_s: float = 2.0) -> "subprocess.Popen[bytes]":
        self.drivers.append(drive(self.root, 1, segment_s=segment_s, site=self.site))
        return self.drivers[-1]

    def finish(self, segment_s: float = 2.0) -> None:
        assert self.drive(segment_s).wait(600) == 0
        self.check_whole()

    def status(self) -> dict[str, Any]:
        return read_status(self.layout.status) or {}

    def attempts(self) -> list[Attempt]:
        with Ledger.open(self.layout, read_only=True) as ledger:
            return [item for stage_id in ledger.states() for item in ledger.attempts(stage_id)]

    def failures(self) -> Counter[str]:
        return Counter(item.failure_class for item in self.attempts() if item.failure_class)

    def jobs(self) -> list[tuple[str, str]]:
        """Id and state of this campaign's jobs that wait or run."""
        lines = self.slurm.run("squeue", "-h", "-o", "%i %T %j").splitlines()
        parts = (line.split() for line in lines)
        return [(job, state) for job, state, name in parts if name.startswith("cluster-")]

    def producing(self) -> dict[str, Any] | None:
        """Entry of a production that runs, has committed a segment, and is in a job."""
        if not (self.root / "ledger.sqlite").exists():
            return None
        for stage_id, entry in self.status().get("running", {}).items():
            if entry["kind"] == "produce" and committed_segments(self.layout, stage_id):
                return {"stage": stage_id, **entry}
        return None

    def wait_for_production(self, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def look() -> bool:
            assert process.poll() is None, (self.root.parent / "drive.log").read_text()
            entry = self.producing()
            if entry is not None:
                found.append(entry)
            return bool(found)

        wait_for(look, seconds=240)
        return found[0]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """LAMMPS stands still, as if this machine were slow: it cannot finish before something is noticed."""
        stopped: list[int] = []

        def stop() -> bool:
            for engine in engines_alive(self.root):
                try:
                    os.kill(engine, signal.SIGSTOP)
                    if "State:\tZ" not in Path(f"/proc/{engine}/status").read_text():
                        stopped.append(engine)
                except (ProcessLookupError, FileNotFoundError):
                    continue  # it had just ended
            return bool(stopped)

        wait_for(stop)
        try:
            yield
        finally:
            for engine in stopped:
                with suppress(ProcessLookupError):  # it was killed meanwhile
                    os.kill(engine, signal.SIGCONT)

    def check_whole(self) -> None:
        """Everything is done, committed once, and neither a job nor an engine is left."""
        committed = [path.name for path in self.layout.stages.glob("??/*")]
        assert len(committed) == self.stages
        for stage_id in committed:
            verify(self.layout.stage(stage_id))
        done = Counter(item.stage_id for item in self.attempts() if item.state == "done")
        assert done == Counter(committed)
        assert campaign.open(self.root).results["nemd"].ds["itc"].notnull().all()
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        wait_for(lambda: not self.jobs(), seconds=QUIET_S)
        wait_for(lambda: not engines_alive(self.root), seconds=QUIET_S)
        assert not list(self.layout.jobs.glob(".dask-jobqueue.worker.*"))

    def gpus_overlap(self) -> list[tuple[str, str]]:
        """Pairs of attempts that had the same GPU of a node at the same time."""
        used = []
        for item in self.attempts():
            if item.state == "done":
                gpus = read_manifest(self.layout.stage(item.stage_id))["gpus"]
                if gpus is not None:
                    gpu = (item.host, gpus)
                    used.append((item.id, gpu, item.job, item.started or "", item.finished or ""))
        return [
            (one[0], other[0])
            for index, one in enumerate(used)
            for other in used[index + 1 :]
            if one[1] == other[1] and one[2] != other[2] and one[3] < other[4] and other[3] < one[4]
        ]
