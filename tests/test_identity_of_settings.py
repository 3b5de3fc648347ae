"""A field that was added to settings later leaves the identities of older settings as they were."""

from typing import Annotated

import pytest
from pydantic import Field

from campaign.quantities import AddedLater, Settings, digest


class Before(Settings):
    length_A: float


class After(Settings):
    length_A: float
    twist_deg: Annotated[float, AddedLater(), Field(ge=0)] = 0.0
    inner: Annotated[Before | None, AddedLater()] = None


class BeforeOuter(Settings):
    part: Before
    parts: tuple[Before, ...]


class AfterOuter(Settings):
    part: After
    parts: tuple[After, ...]


def test_at_its_default_it_leaves_the_identity_as_it_was() -> None:
    before, after = Before(length_A=1.0), After(length_A=1.0)
    assert digest(after) == digest(before)
    assert digest(after.model_dump(mode="json")) == digest(before)
    nested = AfterOuter(part=after, parts=(after, after))
    assert digest(nested) == digest(BeforeOuter(part=before, parts=(before, before)))
    assert digest(After(length_A=1.0, twist_deg=0.0)) == digest(before)


@pytest.mark.parametrize("change", [{"twist_deg": 0.1}, {"inner": Before(length_A=2.0)}])
def test_off_its_default_it_is_part_of_the_identity(change: dict[str, object]) -> None:
    after = After.model_validate({"length_A": 1.0} | change)
    assert digest(after) != digest(Before(length_A=1.0))
    assert After.model_validate_json(after.model_dump_json()) == after


def test_its_range_still_holds() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        After(length_A=1.0, twist_deg=-1.0)
