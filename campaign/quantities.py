"""Frozen settings, unit-suffixed field types, constants and canonical identity.

Every number in a settings model carries its unit in its name (``temperature_K``, ``timestep_fs``). The types
below carry the range in which the number makes sense, so that one place decides it.
"""

import hashlib
import json
import math
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

# CODATA 2018/2022; the elementary charge and the Boltzmann constant are exact since 2019.
BOLTZMANN_EV_PER_K = 1.380649e-23 / 1.602176634e-19
"""Boltzmann constant in eV/K."""

ITC_MW_PER_M2_K = 1.602176634e-19 / (1e-20 * 1e-12) * 1e-6
"""1 eV/(angstrom^2 ps K) in MW m^-2 K^-1 (1.602e7)."""

MAX_TEMPERATURE_K = 5000.0
Temperature = Annotated[float, Field(gt=0, le=MAX_TEMPERATURE_K, allow_inf_nan=False)]
TemperatureOffset = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Timestep = Annotated[float, Field(gt=0, le=5, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MAX_DURATION_PS = 1e6
"""A microsecond: 400 times the paper's productions. More is a slip of the pen."""

Duration = Annotated[float, Field(gt=0, le=MAX_DURATION_PS, allow_inf_nan=False)]
DurationOrZero = Annotated[float, Field(ge=0, le=MAX_DURATION_PS, allow_inf_nan=False)]
"""A duration in ps; 0 leaves it out."""

Count = Annotated[int, Field(ge=1)]

MAX_RANDOM_SEED = 900_000_000
"""LAMMPS refuses larger seeds."""


class AddedLater:
    """Marks a field that settings written before it lack: ``name: Annotated[type, AddedLater()] = default``.

    At its default it is left out of every dump, and so of the canonical JSON: older settings keep their
    identity. The default must be what was done before the field was there, and never change.
    """


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys rejected, defaults validated, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_added_at_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = serialise(self)
        for name, default in _added_later(type(self)):
            if getattr(self, name) == default:
                data.pop(name, None)
        return data


@cache
def _added_later(settings: type[Settings]) -> tuple[tuple[str, Any], ...]:
    """Names and defaults of the fields marked with `AddedLater`."""
    return tuple(
        (name, field.get_default(call_default_factory=True))
        for name, field in settings.model_fields.items()
        if any(isinstance(mark, AddedLater) for mark in field.metadata)
    )


def canonical_json(value: object) -> str:
    """Canonical JSON of plain data: sorted keys, shortest round-trip floats, -0 as 0, no NaN.

    Integral floats and ints stay distinct; the schema decides which of them a field is.
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, Settings):
        return _canonical(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f"{value} has no canonical form"
            raise ValueError(msg)
        return 0.0 if value == 0 else value
    return value


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of ``value``, the first 32 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def random_seed(*parts: object) -> int:
    """Random seed within 1..900,000,000 from whatever decides it (base seed, replica, settings, ids)."""
    number = int.from_bytes(hashlib.sha256(canonical_json(list(parts)).encode()).digest()[:8], "big")
    return 1 + number % MAX_RANDOM_SEED
