"""A command of the user's that is told what happens: a mail, a message to a chat, whatever it does.

It gets the message on its standard input; in its environment are ``CAMPAIGN_EVENT`` (``ended``, ``failure``
or ``held``), ``CAMPAIGN_NAME`` and ``CAMPAIGN_DIRECTORY``.
"""

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any, Literal

from campaign.cli.progress import headline
from campaign.layout import Layout

Event = Literal["ended", "failure", "held"]

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""What was started has so long before the end is told, and after it; the driver waits for it only then."""


class Notifier:
    """Tells of the first failure of each class, of what is held back, and of the end."""

    def __init__(self, command: str, layout: Layout, name: str) -> None:
        self._command = command
        self._environment = {"CAMPAIGN_NAME": name, "CAMPAIGN_DIRECTORY": str(layout.root.resolve())}
        self._classes: set[str] | None = None
        self._held: set[str] = set()
        self._last: dict[str, Any] | None = None
        self._children: list[subprocess.Popen[str]] = []

    def __call__(self, snapshot: dict[str, Any]) -> None:
        """Look what is new in a snapshot."""
        first = self._classes is None  # what an earlier driver met, it told
        seen = self._classes or set()
        failures = {failure["class"]: failure for failure in snapshot["failed"].values()}
        held = set(snapshot["held"])
        if not first:
            for name in sorted(failures.keys() - seen):
                failure = failures[name]
                self._tell("failure", f"first failure ({name}): {failure['runs'][0]}: {failure['message']}")
            for text in sorted(held - self._held):
                self._tell("held", f"held back: {text}")
        self._classes = seen | failures.keys()
        self._held = held
        self._last = snapshot

    def ended(self) -> None:
        """Tell that nothing is left to do, after what was told before."""
        self.close()
        if self._last is not None:
            self._tell("ended", f"ended: {headline(self._last).plain}")

    def close(self) -> None:
        """Wait for what was started."""
        deadline = time.monotonic() + PATIENCE_S
        while self._children:
            child = self._children.pop(0)
            try:
                code = child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)  # with what it started
                child.wait()
                logger.warning("the command of `notify` took more than %g s", PATIENCE_S)
            else:
                if code:
                    logger.warning("the command of `notify` ended with %d", code)

    def _tell(self, event: Event, message: str) -> None:
        child = subprocess.Popen(  # noqa: S603 - the user's own command, from the user's spec
            ("/bin/sh", "-c", self._command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._environment, "CAMPAIGN_EVENT": event},
            text=True,
            start_new_session=True,  # Ctrl-C is not for it
        )
        self._children.append(child)
        if child.stdin is not None:
            # Less than a pipe holds, so that it never waits for the command to read.
            with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
                pipe.write(f"{self._environment['CAMPAIGN_NAME']}: {message}\n"[:4096])


@contextlib.contextmanager
def notifier(command: str, layout: Layout, name: str) -> Iterator[Notifier | None]:
    """Tell a command what happens; None where there is none."""
    if not command:
        yield None
        return
    told = Notifier(command, layout, name)
    try:
        yield told
    finally:
        told.close()
