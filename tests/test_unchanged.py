"""A plan is read again only if expanding the spec would make the same one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from campaign import unchanged
from campaign.errors import SpecError
from campaign.plan import make_plan
from campaign.plan_file import save_plan
from campaign.spec import load_spec
from campaign.unchanged import plan_or_reuse

SPECS = Path(__file__).parent.parent / "specs"


@pytest.fixture
def campaign_dir(tmp_path: Path) -> Path:
    """A spec, and the plan of it that a driver left."""
    (tmp_path / "spec.yaml").write_text((SPECS / "demo.yaml").read_text())
    plan, _ = plan_or_reuse(load_spec(tmp_path / "spec.yaml"), tmp_path / "plan.json")
    save_plan(plan, tmp_path / "plan.json")
    return tmp_path


@pytest.fixture
def expansions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Campaigns whose spec was expanded."""
    found: list[str] = []

    def counted(spec, **options):  # type: ignore[no-untyped-def]
        found.append(spec.campaign)
        return make_plan(spec, **options)

    monkeypatch.setattr(unchanged, "make_plan", counted)
    return found


def test_an_unchanged_spec_is_not_expanded(campaign_dir: Path, expansions: list[str]) -> None:
    spec = load_spec(campaign_dir / "spec.yaml")
    plan, stages = plan_or_reuse(spec, campaign_dir / "plan.json")
    made, expected = make_plan(spec)
    assert plan.made_from
    assert list(stages) == list(expected)
    assert len(stages) == len(expected)
    assert plan.calculations == made.calculations
    assert plan.stages == made.stages
    assert expansions == []
    # The settings of a stage are made when one is to be run.
    assert dict(stages) == dict(expected)
    assert expansions == ["demo"]
    assert "no stage" not in stages


def change_the_spec(directory: Path, _: pytest.MonkeyPatch) -> None:
    path = directory / "spec.yaml"
    path.write_text(path.read_text() + "# a comment\n")


def change_the_code(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "_code_sha256", lambda: "0" * 64)


def change_a_potential(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "file_hashes", lambda _: {"BNC.tersoff": "0" * 64})


def change_a_library(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "version", lambda _: "0")


def damage_the_plan(directory: Path, _: pytest.MonkeyPatch) -> None:
    (directory / "plan.json").write_text("{")


@pytest.mark.parametrize(
    "change", [change_the_spec, change_the_code, change_a_potential, change_a_library, damage_the_plan]
)
def test_a_spec_is_expanded_where_anything_differs(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    campaign_dir: Path,
    expansions: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(campaign_dir, monkeypatch)
    plan_or_reuse(load_spec(campaign_dir / "spec.yaml"), campaign_dir / "plan.json")
    assert expansions == ["demo"]


def test_a_plan_of_a_plug_in_is_never_reused(
    campaign_dir: Path, expansions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "get_engine", lambda _: object())
    for _ in range(2):
        plan, _stages = plan_or_reuse(load_spec(campaign_dir / "spec.yaml"), campaign_dir / "plan.json")
        assert plan.made_from == ""
        save_plan(plan, campaign_dir / "plan.json")
    assert expansions == ["demo", "demo"]


def test_the_limit_holds_for_a_plan_that_was_confirmed_before(tmp_path: Path) -> None:
    text = (SPECS / "demo.yaml").read_text()
    (tmp_path / "spec.yaml").write_text(f"{text}\nlimits: {{runs: 1}}\n")
    spec = load_spec(tmp_path / "spec.yaml")
    plan, _ = plan_or_reuse(spec, tmp_path / "plan.json", allow_large=True)
    save_plan(plan, tmp_path / "plan.json")
    plan_or_reuse(spec, tmp_path / "plan.json", allow_large=True)
    with pytest.raises(SpecError, match="more than the limit of 1"):
        plan_or_reuse(spec, tmp_path / "plan.json")
