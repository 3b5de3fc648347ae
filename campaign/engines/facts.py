"""What reading an engine's output needs besides the output, as a file beside its input."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from campaign.layout import write_atomic
from campaign.quantities import canonical_json


@dataclass(frozen=True)
class FactsFile:
    """Base of frozen dataclasses of plain data; sequences in them are tuples."""

    FILE: ClassVar[str]
    """Name of the file."""

    def write(self, directory: Path) -> None:
        """Write the file."""
        write_atomic(directory / self.FILE, canonical_json(asdict(self)), durable=False)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the file."""
        plain = json.loads((directory / cls.FILE).read_text())
        data: dict[str, Any] = {
            key: tuple(item) if isinstance(item, list) else item for key, item in plain.items()
        }
        return cls(**data)
