"""The store: what was committed stays readable and true, whatever happens to the writer."""

import errno
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from campaign.errors import ResourceError, StoreError
from campaign.protocols.base import read_result, write_result
from campaign.store import Row, Store, read_tables, writer
from campaign.store.rows import Result, read_row


def result(
    value: float, n_layers: int, *, checks: tuple[str, ...] = ("closure",), text: str = ""
) -> xr.Dataset:
    return xr.Dataset(
        {
            "itc": ((), value, {"units": "MW m^-2 K^-1", "long_name": "conductance"}),
            "atoms": ((), int(value)),
            "valid": ((), value > 0),
            "reason": ((), text),
            "profile": (("layer",), value + np.arange(n_layers), {"units": "K"}),
            "energy": (("sample",), np.linspace(0, value, n_layers + 2)),
            "passed": (("check",), np.ones(len(checks), dtype=bool)),
        },
        coords={"layer": np.arange(n_layers), "check": list(checks)},
    )


class Stages:
    """Writes stages and remembers what each row must hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.expected: dict[str, xr.Dataset] = {}

    def row(self, name: str, dataset: xr.Dataset, **labels: Any) -> Row:
        directory = self.root / name
        directory.mkdir()
        write_result(dataset, directory)
        self.expected[name] = dataset
        return Row(name, f"sha-{name}", directory, f"nemd/{name}", labels)


def check_contents(path: Path, expected: dict[str, xr.Dataset], calculation: str = "nemd") -> None:
    """Compare what a user reads with what was written; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(path, group=calculation, chunks=None).load()
    assert dataset["stage_id"].values.tolist() == list(expected)
    for position, (name, wanted) in enumerate(expected.items()):
        found = dataset.isel(run=position)
        assert found["manifest_sha256"].item() == f"sha-{name}"
        for scalar in ("itc", "atoms", "valid", "reason"):
            assert found[scalar].item() == wanted[scalar].item()
        for series, dim in (("profile", "layer"), ("energy", "sample")):
            np.testing.assert_array_equal(found[series].values[: wanted.sizes[dim]], wanted[series].values)
            assert np.isnan(found[series].values[wanted.sizes[dim] :]).all()
        passed = dict(zip(found["check"].values.tolist(), found["passed"].values.tolist(), strict=True))
        assert {check for check, yes in passed.items() if yes} == set(wanted["check"].values.tolist())


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    (tmp_path / "stages").mkdir()
    return Stages(tmp_path / "stages")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.zarr"


def test_plain_zarr_has_units_labels_and_provenance(stages: Stages, path: Path) -> None:
    store = Store.open(path, campaign="c", create=True, spec_sha256="abc")
    store.append("nemd", [stages.row("a", result(1.5, 3), temperature=300.0, seed=1, direction="forward")])
    store.append("nemd", [stages.row("b", result(2.5, 3), temperature=310.5, seed=2, direction="backward")])
    store.flush()
    dataset = xr.open_zarr(path, group="nemd", chunks=None)
    assert dataset["itc"].attrs == {"units": "MW m^-2 K^-1", "long_name": "conductance"}
    assert {"stage_id", "run_id", "manifest_sha256", "temperature", "seed", "direction"} <= set(
        dataset.coords
    )
    assert dataset["itc"].where(dataset["direction"] == "backward", drop=True).values.tolist() == [2.5]
    assert dataset["seed"].values.tolist() == [1.0, 2.0]
    assert dataset.attrs["campaign"] == "c"
    assert dataset.attrs["spec_sha256"] == "abc"
    assert {"campaign_version", "created", "updated"} <= dataset.attrs.keys()


SMALL_TAIL = 3


class AppendFlushReopen(RuleBasedStateMachine):
    """The store against a list: rows given before the last flush are there, once, in order."""

    root: Path

    @initialize()
    def start(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "stages").mkdir(parents=True)
        self.stages = Stages(self.root / "stages")
        self.path = self.root / "results.zarr"
        self.store = Store.open(self.path, campaign="c", create=True)
        self.flushed: dict[str, xr.Dataset] = {}

    @rule(
        count=st.integers(1, 2 * SMALL_TAIL + 1),
        n_layers=st.integers(1, 5),
        checks=st.sampled_from([("closure",), ("closure", "balance"), ("jump", "closure")]),
        text=st.sampled_from(["", "late", "ümlaut " * 20]),
    )
    def append(self, count: int, n_layers: int, checks: tuple[str, ...], text: str) -> None:
        """Give several rows at once, and all of them a second time; each full tail is written."""
        rows = []
        for _ in range(count):
            number = len(self.stages.expected)
            dataset = result(float(number), n_layers, checks=checks, text=text)
            rows.append(self.stages.row(f"s{number}", dataset, seed=number))
            if len(self.stages.expected) - len(self.flushed) == SMALL_TAIL:
                self.flushed = dict(self.stages.expected)
        self.store.append("nemd", rows)
        self.store.append("nemd", rows)

    @rule()
    def flush(self) -> None:
        self.store.flush()
        self.flushed = dict(self.stages.expected)

    @rule()
    def reopen(self) -> None:
        self.flush()
        self.store = Store.open(self.path, campaign="c")

    @invariant()
    def holds(self) -> None:
        if self.flushed:
            check_contents(self.path, self.flushed)
            assert self.store.stage_ids("nemd") == set(self.stages.expected)


def test_model_of_append_flush_and_reopen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "TAIL_ROWS", SMALL_TAIL)
    AppendFlushReopen.root = tmp_path / "machine"
    few = settings(
        max_examples=8, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
    )
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(AppendFlushReopen, settings=few)


def test_shards_and_chunks_hold_their_rows(
    stages: Stages, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TAIL_ROWS", SMALL_TAIL)
    monkeypatch.setattr(writer, "_MAX_SHARD_ROWS", 16)
    store = Store.open(path, campaign="c", create=True)
    for number in range(40):
        store.append("nemd", [stages.row(f"s{number}", result(float(number), 2 + number % 3), seed=number)])
    store.flush()
    check_contents(path, stages.expected)
    assert len([p for p in (path / "nemd" / "itc" / "c").rglob("*") if p.is_file()]) == 3
    some = np.array([39, 0, 17, 17])
    assert read_tables(path)["nemd"].read("itc", some).tolist() == [39.0, 0.0, 17.0, 17.0]


def test_kill_between_rows_and_commit_leaves_old_rows_and_is_repaired(
    stages: Stages, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(path, campaign="c", create=True)
    store.append("nemd", [stages.row("a", result(1.0, 2), seed=1)])
    store.flush()
    committed = dict(stages.expected)

    class KilledError(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    lost = result(9.0, 7, checks=("new", "closure")).assign(extra=1.0)
    store.append("nemd", [stages.row("lost", lost, seed=9, other="x")])
    with monkeypatch.context() as patch:
        patch.setattr(writer._GroupWriter, "_commit", kill)
        with pytest.raises(KilledError):
            store.flush()
    check_contents(path, committed)
    again = Store.open(path, campaign="c")
    assert again.stage_ids("nemd") == {"a"}
    del stages.expected["lost"]
    again.append("nemd", [stages.row("b", result(2.0, 4), seed=2)])
    again.flush()
    check_contents(path, stages.expected)
    assert "extra" not in xr.open_zarr(path, group="nemd", chunks=None)


def test_kill_in_first_append_is_repaired(
    stages: Stages, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(path, campaign="c", create=True)
    (path / "nemd" / "itc" / "c").mkdir(parents=True)
    assert read_tables(path) == {}
    store.append("nemd", [stages.row("a", result(1.0, 2), seed=1)])
    store.flush()
    check_contents(path, stages.expected)


def test_any_rows_are_read_in_the_order_asked_for(stages: Stages, path: Path) -> None:
    store = Store.open(path, campaign="demo", create=True)
    store.append("nemd", [stages.row(f"{n:03}", xr.Dataset({"number": ((), float(n))})) for n in range(120)])
    store.flush()
    table = read_tables(path)["nemd"]
    rng = np.random.default_rng(0)
    scattered = [rng.choice(120, size, replace=True) for size in (1, 5, 200)]
    spans = [np.arange(120), np.arange(119, -1, -1), np.r_[0:40, 80:120], np.r_[90:110, 5:60, 5:9]]
    for rows in [*scattered, *spans, np.arange(0, 120, 30), np.arange(0)]:
        assert table.read("number", rows).tolist() == rows.tolist()


def test_results_are_read_as_xarray_reads_them(stages: Stages) -> None:
    odd = {
        "packed": ((), 2.5, {}, {"scale_factor": 0.5, "add_offset": 1.0, "dtype": "i2", "_FillValue": -999}),
        "gaps": (("piece",), np.array([1.0, np.nan]), {}, {"_FillValue": -9.0}),
        "since": ((), 7.0, {"units": "days since 2000-01-01"}),
    }
    plain = result(1.5, 3, checks=("closure", "wärme"), text="warum nicht")
    plain["empty_text"] = ((), "")
    plain["names"] = (("check",), ["a", "längst"])
    plain["note"] = (("layer",), np.array([1.0, np.nan, 3.0]))
    plain = plain.assign_coords(beside=("layer", [3.0, 2.0, 1.0]))
    for name, dataset in {"plain": plain, "odd": xr.Dataset(odd), "mixed": plain.assign(odd)}.items():
        row = stages.row(name, dataset)
        expected = Result.of({str(key): v for key, v in read_result(row.path).variables.items()})
        found = read_row(row.path)
        assert found.sizes == expected.sizes
        assert found.variables.keys() == expected.variables.keys()
        for key, variable in expected.variables.items():
            assert variable.identical(found.variables[key]), key  # type: ignore[no-untyped-call]


def test_variables_and_labels_that_come_later_or_stay_away(stages: Stages, path: Path) -> None:
    store = Store.open(path, campaign="c", create=True)
    store.append("nemd", [stages.row("a", result(1.0, 2), seed=1)])
    store.flush()
    more = result(2.0, 3).assign(extra=("layer", np.arange(3.0)))
    store.append("nemd", [stages.row("b", more, seed=1, area="large")])
    store.flush()
    store.append("nemd", [stages.row("c", result(3.0, 5).drop_vars("profile"), seed=2)])
    store.flush()
    dataset = xr.open_zarr(path, group="nemd", chunks=None).load()
    assert dataset["area"].values.tolist() == ["", "large", ""]
    assert dataset["extra"].dims == ("run", "layer")
    assert np.isnan(dataset["extra"].values[[0, 2]]).all()
    assert np.isnan(dataset["profile"].values[2]).all()
    assert dataset["profile"].shape == (3, 5)


def test_a_label_that_is_a_number_in_some_runs_and_a_text_in_others(stages: Stages, path: Path) -> None:
    store = Store.open(path, campaign="c", create=True)
    found: dict[str, dict[str, Any]] = {
        "a": {"size": 60, "way": "up"},
        "b": {"size": "paper", "way": 2.5},
        "c": {"size": True, "way": "down"},
        "d": {"size": 80},
    }
    for name, labels in found.items():
        store.append("nemd", [stages.row(name, result(1.0, 2), **labels)])
        store.flush()
    dataset = xr.open_zarr(path, group="nemd", chunks=None).load()
    np.testing.assert_array_equal(dataset["size"].values, [60, np.nan, np.nan, 80])
    assert dataset["size_text"].values.tolist() == ["", "paper", "True", ""]
    assert dataset["way"].values.tolist() == ["up", "2.5", "down", ""]
    labels = read_tables(path)["nemd"].attributes["coordinates"].split()
    assert {"size", "size_text", "way"} <= set(labels)  # no variables of the view


def test_a_full_disk_is_told_as_such(stages: Stages, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(path, campaign="c", create=True)
    store.append("nemd", [stages.row("a", result(1.0, 2))])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr("campaign.store.writer.sync_filesystem", full)
        with pytest.raises(ResourceError, match="No space left"):
            store.flush()
    store.flush()
    check_contents(path, stages.expected)


def test_label_with_the_name_of_a_variable_keeps_both(stages: Stages, path: Path) -> None:
    store = Store.open(path, campaign="c", create=True)
    store.append("nemd", [stages.row("a", result(1.0, 2), atoms="many", layer=7)])
    store.flush()
    dataset = xr.open_zarr(path, group="nemd", chunks=None)
    assert dataset["atoms"].values.tolist() == [1.0]
    assert dataset["atoms_label"].values.tolist() == ["many"]
    assert dataset["layer_label"].values.tolist() == [7.0]


def test_real_coordinates_must_agree(stages: Stages, path: Path) -> None:
    store = Store.open(path, campaign="c", create=True)
    spectrum = xr.Dataset({"pdos": ("frequency", [1.0, 2.0])}, coords={"frequency": [0.5, 1.0]})
    longer = xr.Dataset({"pdos": ("frequency", [1.0, 2.0, 3.0])}, coords={"frequency": [0.5, 1.0, 1.5]})
    other = xr.Dataset({"pdos": ("frequency", [1.0, 2.0])}, coords={"frequency": [0.5, 1.1]})
    store.append("pdos", [stages.row("a", spectrum), stages.row("b", longer)])
    store.flush()
    assert xr.open_zarr(path, group="pdos", chunks=None)["frequency"].values.tolist() == [0.5, 1.0, 1.5]
    store.append("pdos", [stages.row("c", other)])
    with pytest.raises(StoreError, match="frequency"):
        store.flush()


def test_unknown_format_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path, campaign="c", create=True)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["format"] = 99
    (path / "zarr.json").write_text(json.dumps(document))
    before = (path / "zarr.json").read_bytes()
    with pytest.raises(StoreError, match="format 99"):
        Store.open(path, campaign="c", create=True)
    with pytest.raises(StoreError, match="format 99"):
        read_tables(path)
    assert (path / "zarr.json").read_bytes() == before


def test_store_of_another_campaign_and_missing_store_are_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="no result store"):
        Store.open(path, campaign="c")
    assert not path.exists()
    Store.open(path, campaign="c", create=True)
    with pytest.raises(StoreError, match="belongs to campaign 'c'"):
        Store.open(path, campaign="d")


def test_damage_is_reported_with_what_to_do(stages: Stages, path: Path) -> None:
    store = Store.open(path, campaign="c", create=True)
    store.append("nemd", [stages.row("a", result(1.0, 2))])
    store.flush()
    for shard in (path / "nemd" / "itc" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"\0" * shard.stat().st_size)
    with pytest.raises(StoreError, match="`campaign rebuild` makes it again from the committed stages"):
        read_tables(path)["nemd"].read("itc", np.array([0]))


def test_rebuilding_from_the_stages_gives_the_same(stages: Stages, path: Path) -> None:
    rows = [
        stages.row(f"s{number}", result(float(number), 2 + number % 2), seed=number) for number in range(5)
    ]
    for _ in range(2):
        shutil.rmtree(path, ignore_errors=True)
        store = Store.open(path, campaign="c", create=True)
        store.append("nemd", rows)
        store.flush()
        check_contents(path, stages.expected)
