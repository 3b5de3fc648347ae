"""``campaign rebuild`` and ``campaign gc``: a campaign repaired, and tidied up."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from campaign.cli.app import err, out
from campaign.cli.specs import byte_text
from campaign.cli.text import command, duration, folded, make_table, plural, run_again
from campaign.document import did_you_mean
from campaign.errors import ExitCode, SpecError
from campaign.layout import Layout

if TYPE_CHECKING:
    from campaign.execution.garbage import Group
    from campaign.execution.rebuild import Rebuilt

FEW = 5
FAILED = "failed"
"""The group that `why` and `retry` still need: it goes only when it is named."""
TELL_AFTER_S = 2.0


class Counter:
    """Says on stderr how far a long count is, about every two seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, number: int, total: int) -> None:
        """Take note of ``number`` of ``total``."""
        now = time.monotonic()
        if now - self._last > TELL_AFTER_S:
            self._last = now
            err.print(f"  {what}: {number:,} of {total:,}", markup=False, style="dim")


def rebuild_campaign(layout: Layout, *, as_json: bool) -> int:
    """Make ledger and store again, and say what was found; return the exit code."""
    from campaign.execution.rebuild import rebuild

    rebuilt = rebuild(layout, on_stage=Counter())
    if as_json:
        record = asdict(rebuilt)
        record["aside"] = None if rebuilt.aside is None else str(rebuilt.aside)
        _dump(record)
    else:
        _print_rebuilt(layout, rebuilt)
    return ExitCode.OK


def _print_rebuilt(layout: Layout, rebuilt: "Rebuilt") -> None:
    def say(text: str) -> None:
        out.print(folded(text, out.width, "  "), markup=False)

    unplanned = f", {rebuilt.unplanned:,} of them not in the plan" if rebuilt.unplanned else ""
    say(f"ledger and store made again from {plural(rebuilt.whole, 'committed stage')}{unplanned}")
    for name, counts in rebuilt.counts.items():
        say(f"{name}: {counts['done']:,} of {plural(counts['total'], 'run')} done")
    if rebuilt.kept_results:
        say(
            f"{plural(rebuilt.kept_results, 'result')} only in the store, without a stage on the disk: "
            "the store was kept and completed"
        )
    needed, spare, of_plan = _by_need(layout, rebuilt.damaged)
    for what, problems in (
        ("damaged and set aside, to be made again", needed),
        ("damaged and set aside, and nothing needs them any more", spare),
        ("left alone", rebuilt.foreign),
    ):
        if problems:
            say(f"{plural(len(problems), 'stage')} {what}:")
            for stage_id, problem in list(problems.items())[:FEW]:
                out.print(f"  {stage_id}: {problem}", markup=False)
            if len(problems) > FEW:
                out.print(f"  and {len(problems) - FEW:,} more", markup=False)
    if of_plan:
        say("to make again all the same what nothing needs, before the next run:")
        out.print(f"  {command('retry', 'gone', '--dir', layout.root)}", markup=False)
    if rebuilt.aside is not None:
        say(f"what was there before is in {rebuilt.aside} until `campaign gc`")
    say("the history of failed attempts is lost; what had failed is pending again")
    if any(counts["done"] < counts["total"] for counts in rebuilt.counts.values()):
        out.print(f"next: {run_again(layout)}", markup=False)


def _by_need(layout: Layout, damaged: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], bool]:
    """Separate damaged stages that `campaign run` makes again, and those that nothing needs.

    Last: whether `campaign retry gone` would make any of those, since they are of the plan.
    """
    from campaign.ledger import Ledger

    with Ledger.open(layout, read_only=True) as ledger:
        states = ledger.states()
    needed = {stage: problem for stage, problem in damaged.items() if states.get(stage) == "pending"}
    spare = {stage: problem for stage, problem in damaged.items() if stage not in needed}
    return needed, spare, any(states.get(stage) == "done" for stage in spare)


def collect(layout: Layout, only: list[str], *, yes: bool, as_json: bool) -> None:
    """Say what can go and what it would cost to make again; remove it with ``yes``.

    Raises
    ------
    SpecError
        There is no group of a name in ``only``.
    BusyError
        It is to be removed, and a driver holds the campaign.
    """
    from campaign.execution.garbage import GROUPS, collect_garbage, find_garbage

    for name in only:
        if name not in GROUPS:
            raise SpecError(f"there is no group {name!r}", hint=did_you_mean(name, list(GROUPS)))
    names = only or [name for name in GROUPS if name != FAILED]
    groups = collect_garbage(layout, names) if yes else find_garbage(layout, names)
    if as_json:
        _dump({"removed": yes, "groups": [_record(group) for group in groups]})
        return
    if not (only or yes) and find_garbage(layout, [FAILED]):
        err.print(f"kept: {GROUPS[FAILED]}; to remove them: --only {FAILED}", markup=False, style="dim")
    if not groups:
        out.print("nothing can go", markup=False)
        return
    rows = [
        {
            "group": group.name,
            "number": f"{len(group.items):,}",
            "files": f"{group.files:,}",
            "size": byte_text(group.size),
            "core-h": "?" if group.core_hours is None else f"{group.core_hours:.2g}",
        }
        for group in groups
    ]
    out.print("removed" if yes else "can go", style="bold")
    out.print(make_table(rows, ["group", "number", "files", "size", "core-h"], 1))
    for group in groups:
        out.print(folded(f"{group.name}: {GROUPS[group.name]}", out.width, "  "), markup=False)
    _print_total(layout, groups, only, yes=yes)


def _print_total(layout: Layout, groups: list["Group"], only: list[str], *, yes: bool) -> None:
    size = byte_text(sum(group.size for group in groups))
    files = plural(sum(group.files for group in groups), "file")
    hours = [group.core_hours for group in groups]
    if None in hours:
        cost = "an unknown time"
    else:
        total = sum(one for one in hours if one is not None)
        cost = f"{total:.2g} core-hours ({duration(3600 * total)} on one core)"
    again = f"to compute it again, if it is ever wanted, takes {cost}"
    out.print(
        folded(f"{size} in {files}; {again}" if any(hours) else f"{size} in {files}", out.width, "  "),
        markup=False,
    )
    if not yes:
        chosen = [word for name in only for word in ("--only", name)]
        out.print(f"to remove it: {command('gc', layout.root, *chosen, '--yes')}", markup=False)


def _record(group: "Group") -> dict[str, Any]:
    return {
        "name": group.name,
        "number": len(group.items),
        "files": group.files,
        "bytes": group.size,
        "core_hours": group.core_hours,
        "items": [str(path) for path in group.items],
    }


def _dump(record: dict[str, Any]) -> None:
    json.dump(record, sys.stdout, indent=1)
    sys.stdout.write("\n")
