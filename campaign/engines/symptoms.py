"""What a program says last: lines of its log, and the class of error that its words mean."""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from campaign.errors import CampaignError, InputError, Location, TransientError

_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Symptom:
    """Words of an engine or of the system, the class of error that they mean, and what to do."""

    pattern: str
    error: type[CampaignError]
    hint: str | None = None


def explain(
    program: str,
    message: tuple[str, Location] | None,
    returncode: int,
    log: Path,
    symptoms: Iterable[Symptom],
) -> CampaignError:
    """Error of the right class for a process that failed.

    Parameters
    ----------
    program
        Its name for users.
    message
        Its last error message, and where it stands; None where it said nothing.
    returncode
        Negative for a signal.
    log
        Where else one can look.
    symptoms
        In order of search: the first whose words are in the message, in capitals or not, decides.
    """
    if message is None and returncode < 0:
        return TransientError(f"{program} was ended by {_signal_name(-returncode)}", where=Location(log))
    if message is None:
        return TransientError(f"{program} ended with code {returncode} and said nothing", where=Location(log))
    text, where = message
    for one in symptoms:
        if re.search(one.pattern, text, re.IGNORECASE):
            return one.error(text, where=where, hint=one.hint)
    return InputError(text, where=where, hint=f"{program} refused its input")


def lines_from_the_end(path: Path) -> list[str]:
    """Whole lines at the end of a log that still grows, the last one first.

    Raises
    ------
    FileNotFoundError
        There is no log yet.
    """
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return lines[-2::-1]  # what follows the last line's end may be half a line


def last_line(path: Path) -> tuple[str, Location] | None:
    """Last line of a file that is not empty: that of a traceback is its message; None if there is none."""
    try:
        lines = path.read_text(errors="replace").rstrip().splitlines()
    except FileNotFoundError:
        return None
    return (lines[-1].strip(), Location(path, len(lines))) if lines else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
