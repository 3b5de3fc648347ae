"""The durable record of what was done: stages, attempts, and who drives the campaign."""

from campaign.ledger.ledger import Ledger
from campaign.ledger.records import Attempt, Ending, Holder, State, utc_now

__all__ = ["Attempt", "Ending", "Holder", "Ledger", "State", "utc_now"]
