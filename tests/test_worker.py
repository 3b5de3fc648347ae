import errno
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from campaign.errors import FailureClass, LedgerError, ResourceError
from campaign.execution import commit as commits
from campaign.execution import process, worker
from campaign.execution.commit import read_manifest, verify
from campaign.execution.segments import WORK
from campaign.execution.worker import AttemptOutcome, AttemptRequest, run_attempt, run_attempts
from campaign.layout import Layout
from campaign.protocols.base import Stage, read_result
from tests.standin_campaign import committed, engine_starts, engines_alive, plan_of, write_spec

Chain = Callable[[str], tuple[Stage, ...]]


@pytest.fixture
def chain(layout: Layout) -> Chain:
    """The four stages of a run whose stand-in engine has the faults of ``potential``."""

    def stages_of(potential: str) -> tuple[Stage, ...]:
        plan, stages = plan_of(write_spec(layout.root.parent, [potential], 1))
        build, equilibrate, produce, reduce = (stages[item] for item in plan.calculations[0].runs[0].stages)
        return build, equilibrate, produce, reduce

    return stages_of


def attempt(layout: Layout, stage: Stage, attempt_id: str = "first", **more: float) -> AttemptOutcome:
    return run_attempt(AttemptRequest(layout.root, attempt_id, stage, **more))  # type: ignore[arg-type]


def reach_produce(layout: Layout, chain: tuple[Stage, ...]) -> Stage:
    requests = [AttemptRequest(layout.root, f"before-{i}", stage) for i, stage in enumerate(chain[:2])]
    assert [outcome.status for outcome in run_attempts(requests)] == ["committed"] * 2
    return chain[2]


def test_a_run_is_committed_stage_by_stage(layout: Layout, chain: Chain) -> None:
    stages = chain("steady")
    outcomes = run_attempts([AttemptRequest(layout.root, f"a{i}", stage) for i, stage in enumerate(stages)])
    assert [outcome.status for outcome in outcomes] == ["committed"] * 4
    assert read_result(layout.stage(stages[3].id))["value"].item() == 2.0
    assert list(layout.attempts.iterdir()) == []
    for stage in stages:
        directory = layout.stage(stage.id)
        verify(directory)
        assert read_manifest(directory)["identity"] == json.loads(json.dumps(stage.identity))
    produced = read_manifest(layout.stage(stages[2].id))
    # Only the equilibration's state is needed by another stage.
    assert set(produced["files"]) == {"result.nc", "log.standin"}
    assert "state.restart" in read_manifest(layout.stage(stages[1].id))["files"]
    assert produced["random_seed"] == stages[2].random_seed
    assert produced["atom_steps_per_s"] == pytest.approx(10 * 100 / produced["wall_s"])
    assert {"python", "campaign", "numpy", "xarray"} <= set(produced["versions"])


def test_a_committed_stage_is_not_computed_again(layout: Layout, chain: Chain) -> None:
    produce = reach_produce(layout, chain("steady"))
    attempt(layout, produce)
    assert attempt(layout, produce, "second").status == "already committed"
    assert set(engine_starts(layout.root).values()) == {1}


def test_a_second_execution_of_an_attempt_refuses_and_leaves_the_first_alone(
    layout: Layout, chain: Chain
) -> None:
    build = chain("steady")[0]
    layout.attempt("first").mkdir()
    (layout.attempt("first") / "work").touch()
    assert attempt(layout, build).status == "refused"
    assert [path.name for path in layout.attempt("first").iterdir()] == ["work"]
    assert committed(layout.root) == []


@pytest.mark.parametrize(
    ("potential", "failure_class", "message"),
    [
        ("flaky", FailureClass.TRANSIENT, "ended with 3"),
        ("signal", FailureClass.TRANSIENT, "ended with -9"),
        ("half", FailureClass.TRANSIENT, "cut short"),
        ("nan", FailureClass.PHYSICS, "value is not finite"),
        ("hang", FailureClass.TIMEOUT, "wrote nothing"),
        ("bug", FailureClass.INTERNAL, "RuntimeError: a bug in the stand-in"),
        ("absent", FailureClass.ENGINE_NOT_FOUND, "not installed"),
    ],
)
def test_a_fault_ends_the_attempt_with_its_class_and_commits_nothing(
    layout: Layout, chain: Chain, potential: str, failure_class: FailureClass, message: str
) -> None:
    stages = chain(potential)
    produce = stages[1] if potential == "absent" else reach_produce(layout, stages)
    if potential == "absent":
        run_attempts([AttemptRequest(layout.root, "build", stages[0])])
    before = committed(layout.root)
    outcome = attempt(layout, produce, timeout_without_output_s=0.5)
    assert (outcome.status, outcome.failure_class) == ("failed", failure_class)
    assert message in outcome.message
    assert str(layout.root) not in outcome.message
    assert committed(layout.root) == before
    directory = layout.attempt("first")
    record = json.loads((directory / "failure.json").read_text())
    assert (record["class"], record["message"]) == (failure_class, outcome.message)
    assert (directory / "traceback.txt").exists() == (failure_class == FailureClass.INTERNAL)
    if potential == "flaky":
        assert "ERROR: told to fail" in outcome.log_tail
    assert engines_alive(layout.root) == []


def test_an_engine_that_does_not_end_when_asked_is_ended(
    layout: Layout, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_GRACE_S", 0.2)
    produce = reach_produce(layout, chain("hang"))
    found: list[AttemptOutcome] = []
    thread = threading.Thread(target=lambda: found.append(attempt(layout, produce)))
    thread.start()
    log = layout.attempt("first") / WORK / "log.standin"
    deadline = time.monotonic() + 20
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    (layout.attempt("first") / worker.STOP).touch()
    thread.join(20)
    assert [outcome.failure_class for outcome in found] == [FailureClass.CANCELLED]
    assert engines_alive(layout.root) == []


def test_a_full_disk_is_a_lack_of_resources(
    layout: Layout, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commits, "_fsync_tree", full)
    outcome = attempt(layout, chain("steady")[0])
    assert outcome.failure_class == FailureClass.RESOURCE == ResourceError.failure_class
    assert committed(layout.root) == []


@pytest.mark.parametrize(
    ("number", "failure_class"),
    [
        (errno.EDQUOT, FailureClass.RESOURCE),
        (errno.ESTALE, FailureClass.TRANSIENT),
        (errno.EAGAIN, FailureClass.TRANSIENT),
        (errno.ENOMEM, FailureClass.OUT_OF_MEMORY),
        (errno.EINVAL, FailureClass.INTERNAL),
    ],
)
def test_what_may_pass_is_told_from_a_bug(number: int, failure_class: FailureClass) -> None:
    assert worker.classify(OSError(number, os.strerror(number)))[0] == failure_class


@pytest.mark.parametrize("where", ["look", "mkdir", "parents", "names"])
def test_a_disk_that_fails_costs_one_attempt_and_not_its_batch(
    layout: Layout, chain: Chain, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Two structures travel together, and the disk fails the first one; names of several have one sync."""
    build = chain("steady")[0]
    stages = [build] if where == "names" else [build, replace(build, version=build.version + 1)]
    module, name, faulty = {
        "look": (Path, "exists", layout.stage(build.id) / "manifest.json"),
        "mkdir": (Path, "mkdir", layout.attempt("0")),
        "parents": (Path, "mkdir", layout.stage(build.id).parent),
        "names": (commits, "fsync_directory", layout.stage(build.id).parent),
    }[where]
    if where == "names":
        faulty.mkdir(parents=True)
    real = getattr(module, name)

    def failing(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == faulty:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(path, *arguments, **more)

    monkeypatch.setattr(module, name, failing)
    requests = [AttemptRequest(layout.root, str(number), stage) for number, stage in enumerate(stages)]
    first, *others = run_attempts(requests)
    assert (first.status, first.failure_class) == ("failed", FailureClass.RESOURCE)
    assert [outcome.status for outcome in others] == ["committed"] * len(others)


def test_a_needed_stage_that_is_gone_is_named(layout: Layout, chain: Chain) -> None:
    outcome = attempt(layout, chain("steady")[1])
    assert outcome.failure_class == FailureClass.TRANSIENT
    assert "'structure' is not there" in outcome.message


def test_a_rename_that_fails_after_it_happened_is_a_commit(
    layout: Layout, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        rename(self, target)
        if self.name == "commit":
            raise OSError(2, "No such file or directory")
        return target

    monkeypatch.setattr(Path, "rename", failing)
    build = chain("steady")[0]
    assert attempt(layout, build).status == "committed"
    verify(layout.stage(build.id))


def test_a_late_copy_loses(layout: Layout, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts, one stage: the second to rename finds the first one's commit and leaves it as it is."""
    build = chain("steady")[0]
    assert attempt(layout, build, "winner").status == "committed"
    monkeypatch.setattr(worker, "is_committed", lambda *_: False)
    late = attempt(layout, build, "late")
    assert late.status == "already committed"
    assert read_manifest(layout.stage(build.id))["attempt"] == "winner"
    assert list(layout.attempts.iterdir()) == []


def test_a_rename_that_fails_commits_nothing(
    layout: Layout, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "commit":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert attempt(layout, chain("steady")[0]).failure_class == FailureClass.TRANSIENT
    assert committed(layout.root) == []


@pytest.mark.parametrize(
    "text", ["[]", '"files"', '{"format": 1}', '{"format": 1, "files": [], "attempt": "a"}']
)
def test_a_manifest_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(LedgerError, match="the manifest is damaged"):
        verify(tmp_path)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_verification_finds_what_was_changed_or_removed(layout: Layout, chain: Chain, damage: str) -> None:
    build = chain("steady")[0]
    attempt(layout, build)
    path = layout.stage(build.id) / "structure.npz"
    if damage == "change":
        path.write_bytes(b"atomz")
    else:
        path.unlink()
    with pytest.raises(LedgerError, match=r"structure\.npz"):
        verify(layout.stage(build.id))


def test_what_is_committed_is_on_disk_before_it_is_visible(
    layout: Layout, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    rename = Path.rename

    def check(self: Path, target: Path) -> Path:
        if self.name == "commit":
            assert {path.stat().st_ino for path in (self, *self.rglob("*"))} <= synced
            assert not target.exists()
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(Path, "rename", check)
    build = chain("steady")[0]
    assert attempt(layout, build).status == "committed"
    assert layout.stage(build.id).parent.stat().st_ino in synced
