"""Words of a program that failed, and the class of error that they mean."""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from campaign.errors import CampaignError


@dataclass(frozen=True)
class Symptom:
    """Words of an engine or of the system, the class of error that they mean, and what to do."""

    pattern: str
    error: type[CampaignError]
    hint: str | None = None


def find_symptom(text: str, symptoms: Iterable[Symptom]) -> Symptom | None:
    """Find the first symptom whose words are in a message, in capitals or not."""
    return next((one for one in symptoms if re.search(one.pattern, text, re.IGNORECASE)), None)


def signal_name(number: int) -> str:
    """Name of a signal, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
