"""Results of finished stages on their way into the store."""

import logging
from collections.abc import Iterable

from campaign.execution.commit import manifest_sha256
from campaign.execution.snapshot import RunBoard
from campaign.layout import Layout
from campaign.plan import Plan
from campaign.store import Row, Store

logger = logging.getLogger(__name__)


class ResultRows:
    """The store of a campaign as its driver writes it; opened, and made, with the first result."""

    def __init__(self, layout: Layout, plan: Plan, board: RunBoard) -> None:
        self._layout = layout
        self._plan = plan
        self._board = board
        self._store: Store | None = None
        self._late: list[str] = []

    def append(self, stage_ids: Iterable[str]) -> None:
        """Append the results among finished stages that the store does not have yet.

        What cannot be read now, as it was just written elsewhere, say, is read the next time.

        Raises
        ------
        StoreError
            The store cannot be used.
        """
        rows: dict[str, list[Row]] = {}
        late, self._late = self._late, []
        for stage_id in [*late, *stage_ids]:
            for calculation, run in self._board.results(stage_id).items():
                if self._store is None:
                    self._store = Store.open(
                        self._layout.store,
                        campaign=self._plan.campaign,
                        create=True,
                        spec_sha256=self._plan.spec_sha256,
                    )
                if stage_id not in self._store.stage_ids(calculation):
                    path = self._layout.stage(stage_id)
                    try:
                        sha256 = manifest_sha256(path)
                    except OSError as error:
                        if stage_id not in late:
                            logger.warning("the result of stage %s cannot be read now: %s", stage_id, error)
                        self._late.append(stage_id)
                        break
                    row = Row(stage_id, sha256, path, run.id, run.labels)
                    rows.setdefault(calculation, []).append(row)
        if self._store is not None:
            for calculation, found in rows.items():
                self._store.append(calculation, found)

    def flush(self) -> None:
        """Put what is left of the last shard into the store; what cannot be read waits for a next driver."""
        self.append(())
        if self._store is not None:
            self._store.flush()
