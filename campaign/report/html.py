"""The report: one HTML file with everything in it, for a browser, a mail or a printer."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import campaign
from campaign.analysis import MEMORY_PS, MINIMUM_RUNS
from campaign.execution.requests import DRIVING
from campaign.layout import write_atomic
from campaign.report import tables
from campaign.report.ensemble import Ensemble, load_ensemble
from campaign.report.figures import MAX_CONDITIONS, MAX_PANELS, Picture, pictures
from campaign.report.history import read_history
from campaign.report.provenance import collect
from campaign.results import Campaign
from campaign.runs import StructureRow

MAX_STRUCTURES = 100
"""Structures that are shown of each calculation."""


@dataclass(frozen=True)
class Section:
    """One calculation in the template's words."""

    ensemble: Ensemble
    name: str
    protocol: str
    engine: str
    counts: dict[str, int]
    headline: list[tables.HeadlineRow]
    structures: tuple[StructureRow, ...]
    structure_note: str
    stacking_note: str
    steady: list[tables.SteadyRow]
    grid: list[tables.GridRow]
    checks: list[tables.CheckRow]
    remarks: list[tables.Remark]
    n_remarks: int
    pictures: list[tuple[Picture, Markup]]

    @property
    def pictures_left_out(self) -> bool:
        """Whether there are more conditions than are drawn."""
        shown = len(self.ensemble.conditions) + len(self.ensemble.pooled)
        return shown > min(MAX_PANELS, MAX_CONDITIONS)


def write_report(campaign_root: Path) -> Path:
    """Write the report of a campaign as it is now, finished or not, and return its path.

    Parameters
    ----------
    campaign_root
        Directory of the campaign; the report becomes ``report.html`` in it.

    Raises
    ------
    LedgerError
        There is no campaign in the directory.
    StoreError
        Results cannot be read.
    """
    opened = Campaign(campaign_root)
    write_atomic(opened.layout.report, render(opened), durable=False)
    return opened.layout.report


def render(opened: Campaign) -> str:
    """HTML of the report."""
    plan = opened.plan
    history = read_history(opened.layout, plan)
    environment = Environment(
        loader=PackageLoader("campaign.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        campaign=plan.campaign,
        description=plan.description,
        spec=opened.spec,
        plan=plan,
        status=opened.status,
        driving=DRIVING,
        sections=[_section(load_ensemble(opened, calculation)) for calculation in plan.calculations],
        history=history,
        # our own picture: its texts come from the ledger, which matplotlib escapes
        history_svg=Markup(history.picture.svg) if history else "",  # noqa: S704
        provenance=collect(opened.layout, plan),
        version=campaign.__version__,
        memory_ps=f"{MEMORY_PS:g}",
        minimum_runs=MINIMUM_RUNS,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _section(ensemble: Ensemble) -> Section:
    found, number = tables.remarks(ensemble)
    conducts = ensemble.has_conductance
    return Section(
        ensemble=ensemble,
        name=ensemble.calculation.name,
        protocol=ensemble.calculation.protocol,
        engine=ensemble.calculation.engine,
        counts=ensemble.counts,
        headline=tables.headline(ensemble) if conducts else [],
        structures=ensemble.calculation.structures[:MAX_STRUCTURES],
        structure_note=tables.structure_note(ensemble) if conducts else "",
        stacking_note=tables.stacking_note(ensemble),
        steady=tables.steady_state(ensemble) if conducts else [],
        grid=tables.grid(ensemble),
        checks=tables.checks(ensemble),
        remarks=found,
        n_remarks=number,
        # our own pictures: their texts come from labels, which matplotlib escapes
        pictures=[(picture, Markup(picture.svg)) for picture in pictures(ensemble)],  # noqa: S704
    )
