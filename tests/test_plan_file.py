"""``plan.json``: small, complete, and read without anything heavy."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.columns import IndexRows
from campaign.errors import LedgerError
from campaign.plan_file import load_plan, save_plan
from tests.planning import SPEC, plan_of, planned, swap, use_toy


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


@pytest.mark.parametrize("extra", ["", "    zip: [{timestep_fs: [1, 2], production_ps: [4, 8]}]\n"])
def test_a_plan_is_the_same_after_it_was_written(extra: str, tmp_path: Path) -> None:
    plan, _ = plan_of(SPEC + extra)
    save_plan(plan, tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again == plan
    assert list(again.runs) == list(plan.runs)
    assert dict(again.stages) == dict(plan.stages)


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple), max_size=20), st.data())
def test_rows_in_columns_are_the_rows(rows: list[tuple[int, ...]], data: st.DataObject) -> None:
    columns = IndexRows.of(rows)
    assert len(columns) == len(rows)
    assert list(columns) == rows
    assert columns == rows
    assert IndexRows.of(columns) is columns
    assert (columns == [*rows, (1,)]) is False
    if rows:
        at = data.draw(st.integers(-len(rows), len(rows) - 1))
        assert columns[at] == rows[at]
        assert columns[at:] == rows[at:]


def test_a_plan_without_axes_is_one_run(tmp_path: Path) -> None:
    plan, _ = plan_of("campaign: a\ncalculations: {toy: {settings: {temperature_K: 300}}}\n")
    save_plan(plan, tmp_path / "plan.json")
    assert [run.id for run in load_plan(tmp_path / "plan.json").runs] == ["toy"]
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no campaign here"), ("{", "damaged"), ('{"format": 99}', "format 99")]
)
def test_a_plan_that_cannot_be_read(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(LedgerError, match=message):
        load_plan(tmp_path / "plan.json")


def test_reading_a_plan_imports_nothing_heavy() -> None:
    heavy = ("pydantic", "xarray", "numpy", "ruamel.yaml", "dask")
    code = f"import sys, campaign.plan; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_large_plan_is_a_small_file_and_comes_back_whole(tmp_path: Path) -> None:
    temperatures = ", ".join(str(100 + n) for n in range(50))
    text = swap("{temperature_K: 300}", "{}")
    text = swap("{count: 3}", f"{{count: 100}}\n      temperature_K: [{temperatures}]", text)
    plan, stages = planned(tmp_path, text)
    assert len(plan.calculations[0].runs) == 10_000
    assert len(stages) == 1 + 5_000 + 20_000
    save_plan(plan, tmp_path / "plan.json")
    assert (tmp_path / "plan.json").stat().st_size < 200 * 10_000
    assert load_plan(tmp_path / "plan.json") == plan
