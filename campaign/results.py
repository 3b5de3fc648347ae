"""Results as labelled data: plan, status snapshot and committed rows joined into one view.

A calculation becomes an `xarray.Dataset` whose dimensions are the axes of its spec. Each variable is a lazy
array that maps cells to rows of the store (-1: there is none yet), so that nothing is read before it is used,
without Dask. Rows that are committed as stages, but not yet in the store, are read from their stages.
"""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import campaign.analysis  # noqa: F401 - registers the accessor `.campaign`
from campaign.errors import LedgerError, SpecError
from campaign.execution.requests import DRIVING, driver_is_alive
from campaign.layout import Layout
from campaign.plan_file import WRITTEN_ANEW, load_plan, read_status
from campaign.protocols.base import CalculationProtocol, Variable, get_protocol
from campaign.runs import CalculationPlan, Plan, Run
from campaign.store import Table, read_tables
from campaign.store.lazy import MISSING, Rows
from campaign.store.rows import IDENTITY, RUN, label_name

SPARSE = 0.1
"""A grid of which a smaller part is runs stays flat along ``run``."""


class Campaign:
    """A campaign directory, opened for reading; also while it runs.

    Parameters
    ----------
    root
        Directory of the campaign.

    Raises
    ------
    LedgerError
        There is no campaign in it.
    """

    def __init__(self, root: Path) -> None:
        self.layout = Layout(Path(root))
        if not self.layout.plan.is_file():
            hint = "`campaign run SPEC --dir DIR` makes one"
            raise LedgerError("there is no campaign in this directory", where=str(root), hint=hint)
        self._seen: tuple[int, ...] | None = None
        self._results: xr.DataTree | None = None

    @property
    def root(self) -> Path:
        """Directory of the campaign."""
        return self.layout.root

    @property
    def plan(self) -> Plan:
        """Runs and stages of the spec as it was last run."""
        return load_plan(self.layout.plan)

    @property
    def name(self) -> str:
        """Name of the campaign."""
        return self.plan.campaign

    @property
    def spec(self) -> str:
        """Text of the spec as it was last run."""
        try:
            return self.layout.spec.read_text(encoding="utf-8") if self.layout.spec.is_file() else ""
        except UnicodeDecodeError:
            raise LedgerError("is not UTF-8 text", where=str(self.layout.spec), hint=WRITTEN_ANEW) from None

    @property
    def description(self) -> str:
        """What the spec says of itself."""
        return self.plan.description

    @property
    def status(self) -> dict[str, Any]:
        """The driver's last snapshot; empty before a driver has run."""
        return read_status(self.layout.status) or {}

    @property
    def results(self) -> xr.DataTree:
        """One node for each calculation, as of now; values are read when they are used.

        Beside the variables of its protocol a dataset has ``state`` (pending, running, done, failed; empty
        where the spec has no run), ``reason`` (why a run is missing, failed or not valid), ``valid`` (whether
        it is done and passed all gates), ``run_id`` and ``stage_id``. A missing number is NaN, a missing text
        empty.

        Raises
        ------
        StoreError
            The store, or a committed result, cannot be read.
        """
        files = (self.layout.plan, self.layout.status, self.layout.store / "zarr.json")
        seen = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)
        if self._results is None or seen != self._seen:
            self._results, self._seen = self._read(), seen
        return self._results

    def _read(self) -> xr.DataTree:
        plan, status, tables = self.plan, self.status, read_tables(self.layout.store)
        provenance = {"campaign": plan.campaign, "spec_sha256": plan.spec_sha256}
        nodes = {"/": xr.Dataset(attrs=provenance)}
        driving = status.get("driver", {}).get("state") in DRIVING and driver_is_alive(self.layout)
        states = _States(status, driving=driving)
        for calculation in plan.calculations:
            table = tables.get(calculation.name)
            rows = Rows(table, self._tail(calculation, table))
            nodes[calculation.name] = _View(calculation, rows, states).dataset(provenance)
        return xr.DataTree.from_dict(nodes, name=plan.campaign)

    def _tail(self, calculation: CalculationPlan, table: Table | None) -> dict[str, Path]:
        """Results that are committed as stages and not in the store, in the order of the plan."""
        stored = set() if table is None else set(table.stage_ids())
        results = dict.fromkeys(calculation.runs.result_stages)
        wanted = [stage_id for stage_id in results if stage_id not in stored]
        committed = self._committed() if wanted else set()
        return {stage_id: self.layout.stage(stage_id) for stage_id in wanted if stage_id in committed}

    def _committed(self) -> set[str]:
        """Ids of all committed stages: at most 257 directories are listed, whatever the number of runs."""
        stages = self.layout.stages
        if not stages.is_dir():
            return set()
        return {stage.name for part in stages.iterdir() if part.is_dir() for stage in part.iterdir()}

    def __repr__(self) -> str:
        lines = [f"<Campaign {self.name!r} in {self.root}>"]
        lines += [f"  {' '.join(cells)}" for cells in self._summary()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in self._summary()
        )
        title = f"Campaign <b>{html.escape(self.name)}</b> in <code>{html.escape(str(self.root))}</code>"
        return f"<div>{title}<table>{rows}</table></div>"

    def _summary(self) -> list[tuple[str, str, str]]:
        """Name, shape and counts of each calculation; reads no results."""
        counts = self.status.get("counts", {})
        summary = []
        for calculation in self.plan.calculations:
            shape = ", ".join(f"{d.name}: {d.size}" for d in calculation.dimensions)
            number = {
                state: n for state, n in counts.get(calculation.name, {}).items() if n and state != "total"
            }
            states = ", ".join(f"{n} {state}" for state, n in number.items()) or "not started"
            summary.append((calculation.name, f"({shape})", f"{len(calculation.runs)} runs: {states}"))
        return summary


class _States:
    """State and reason of runs without a result, from the driver's snapshot."""

    def __init__(self, status: Mapping[str, Any], *, driving: bool) -> None:
        self._running: Mapping[str, Any] = status.get("running", {}) if driving else {}
        self._failed: Mapping[str, Any] = status.get("failed", {})

    def of(self, run: Run) -> tuple[str, str]:
        for stage_id in run.stages:
            if stage_id in self._failed:
                failure = self._failed[stage_id]
                return "failed", f"{failure['class']}: {failure['message']}"
        for stage_id in run.stages:
            if stage_id in self._running:
                attempt = self._running[stage_id]
                steps = f", step {attempt['steps_done']}" if attempt.get("steps_done") else ""
                total = f" of {attempt['steps_total']}" if steps and attempt.get("steps_total") else ""
                return "running", f"{attempt['kind']} is running{steps}{total}"
        return "pending", "is not done yet"


class _View:
    """Labelled dataset of one calculation: a grid of its dimensions, flat where few of its cells are runs."""

    def __init__(self, calculation: CalculationPlan, rows: Rows, states: _States) -> None:
        self.calculation = calculation
        self.rows = rows
        self.states = states
        self.runs: Sequence[Run] = list(calculation.runs)
        self.labels = [{**calculation.groups[run.group].labels, **run.labels} for run in self.runs]
        try:
            self.protocol: CalculationProtocol | None = get_protocol(calculation.protocol)
        except SpecError:
            self.protocol = None  # made with a plug-in that is not installed here: the data say enough
        grid = tuple(dimension.size for dimension in calculation.dimensions)
        self.flat = len(self.runs) < SPARSE * math.prod(grid)
        if self.flat:
            self.dims: tuple[str, ...] = (RUN,)
            self.shape: tuple[int, ...] = (len(self.runs),)
            self.places: tuple[NDArray[Any], ...] = (np.arange(len(self.runs)),)
        else:
            self.dims = tuple(self._label(dimension.name) for dimension in calculation.dimensions)
            self.shape = grid
            cells = np.array([run.cell for run in self.runs], dtype=np.int64)
            self.places = tuple(cells.reshape(len(self.runs), len(grid)).T)
        self.cells = self._spread([rows.row_of.get(run.result_stage, MISSING) for run in self.runs], MISSING)

    def dataset(self, provenance: Mapping[str, str]) -> xr.Dataset:
        variables = {**self._promised(), **self._stored(), **self._bookkeeping()}
        used = {dim for variable in variables.values() for dim in variable.dims}
        axes = {name: _readable(axis) for name, axis in self.rows.axes.items() if name in used}
        calculation, table = self.calculation, self.rows.table
        attrs = {
            **provenance,
            "calculation": calculation.name,
            "protocol": calculation.protocol,
            "engine": calculation.engine,
        }
        if table is not None:
            attrs |= {key: table.attributes[key] for key in ("campaign_version", "created", "updated")}
        if self.protocol is not None and self.protocol.ratio is not None:
            attrs["ratio"] = ":".join(self.protocol.ratio)
        return xr.Dataset(variables, {**axes, **self._coordinates()}, attrs)

    def _spread(self, values: Sequence[Any], empty: Any) -> NDArray[Any]:
        """One value of each run as an array over the cells; ``empty`` where the spec has no run."""
        found = np.asarray(values)
        cells = np.full(self.shape, empty, dtype=found.dtype)
        cells[self.places] = found if self.places else found[0]
        return cells

    def _label(self, name: str) -> str:
        """Name of a label; variables of the protocol keep theirs."""
        promised = {dim for promise in self._promises().values() for dim in promise.dims}
        taken = {*self.rows.variables, *self.rows.axes} - self._stored_labels()
        return label_name(name, {*taken, *self._promises(), *promised})

    def _stored_labels(self) -> set[str]:
        table = self.rows.table
        return set() if table is None else set(table.attributes.get("coordinates", "").split())

    def _stored(self) -> dict[str, xr.Variable]:
        skip = {*IDENTITY, *self._stored_labels()}
        names = [name for name in self.rows.variables if name not in skip]
        return {name: self._described(name, self.rows.lazy(name, self.cells, self.dims)) for name in names}

    def _described(self, name: str, variable: xr.Variable) -> xr.Variable:
        promise = self._promises().get(name)
        if promise is not None:
            said = {"units": promise.units, "long_name": promise.long_name}
            variable.attrs = {**{key: text for key, text in said.items() if text}, **variable.attrs}
        return variable

    def _promises(self) -> Mapping[str, Variable]:
        return {} if self.protocol is None else self.protocol.variables

    def _promised(self) -> dict[str, xr.Variable]:
        """Numbers that no run has yet; they are there from the start, with units."""
        empty = np.full(self.shape, np.nan)
        return {
            name: self._described(name, xr.Variable(self.dims, empty.copy()))
            for name, promise in self._promises().items()
            if promise.units and not promise.dims
        }

    def _bookkeeping(self) -> dict[str, xr.Variable]:
        valid, reasons = self._judged()
        pairs = [
            self.states.of(run) if run.result_stage not in self.rows.row_of else ("done", "")
            for run in self.runs
        ]
        # Objects: one reason may be a thousand times longer than the others.
        waiting = self._spread([reason for _, reason in pairs], "").astype(object)
        columns = {
            "state": (self._spread([state for state, _ in pairs], ""), "state of the run"),
            "reason": (
                np.where(self.cells == MISSING, waiting, reasons),
                "why the run is missing, failed or not valid",
            ),
            "valid": (valid, "whether the run is done and passed all gates"),
            "run_id": (self._spread([run.id for run in self.runs], ""), "name of the run"),
            "stage_id": (self._spread([run.result_stage for run in self.runs], ""), "stage with the result"),
        }
        return {
            name: xr.Variable(self.dims, data, {"long_name": text}) for name, (data, text) in columns.items()
        }

    def _judged(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Whether each cell is done and passed its gates, and what the gates said."""
        done = self.cells != MISSING
        if "valid" not in self.rows.variables:
            return done, np.full(self.shape, "", dtype=object)
        valid = np.asarray(self.rows.lazy("valid", self.cells, self.dims).values, dtype=bool)
        if "invalid_reason" not in self.rows.variables:
            return valid, np.where(done & ~valid, "a gate did not pass", "").astype(object)
        return valid, np.asarray(self.rows.lazy("invalid_reason", self.cells, self.dims).values)

    def _coordinates(self) -> dict[str, xr.Variable]:
        """Labels of the runs: along the dimensions, and what the protocol says of them beside."""
        found: dict[str, xr.Variable] = {}
        for dimension in () if self.flat else self.calculation.dimensions:
            for name, labels in dimension.coordinates.items():
                dims = (self._label(dimension.name),)
                found[self._label(name)] = xr.Variable(dims, np.array(labels))
        for name in dict.fromkeys(name for labels in self.labels for name in labels):
            label = self._label(name)
            if label not in found:
                values = [labels.get(name, "") for labels in self.labels]
                found[label] = self._reduced(self._spread(values, np.zeros((), np.asarray(values).dtype)[()]))
        units = {name: unit for d in self.calculation.dimensions for name, unit in d.units.items()}
        for name, unit in units.items():
            found[self._label(name)].attrs["units"] = unit
        return found

    def _reduced(self, values: NDArray[Any]) -> xr.Variable:
        """Label without the dimensions along which it is the same; cells without a run agree with all."""
        planned = self._spread([True] * len(self.runs), False)
        variable, mask = xr.Variable(self.dims, values), xr.Variable(self.dims, planned)
        for dim in () if self.flat else self.dims:
            first = variable.isel({dim: mask.argmax(dim)})
            if bool((~mask | (variable == first)).all()):
                variable, mask = first, mask.any(dim)
        return variable


def _readable(axis: xr.Variable) -> xr.Variable:
    """Axis with plain texts instead of numpy's variable-width ones, which few tools know."""
    if axis.dtype.kind != "T":
        return axis
    return xr.Variable(axis.dims, np.array(axis.values.tolist(), dtype=str), axis.attrs)
