"""What a panel's columns are: roles, units, frequency, horizon."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from nightcast.contracts.columns import Role
from nightcast.contracts.frequency import Frequency


def _frequency(value: Any) -> Frequency:
    return value if isinstance(value, Frequency) else Frequency.parse(str(value))


FrequencyField = Annotated[Frequency, PlainValidator(_frequency), PlainSerializer(lambda f: f.alias, return_type=str)]


class PanelSchema(BaseModel):
    """Declared facts of a panel.

    Attributes
    ----------
    freq
        Step between two rows of one series.
    horizon
        Steps to forecast, H.
    unit
        Unit of the target, for axes and tables.
    covariates
        Covariate column -> role.
    lower
        Physical lower bound of the target (0 for a rate), or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    freq: FrequencyField
    horizon: int = Field(ge=1)
    unit: str = ""
    covariates: dict[str, Role] = Field(default_factory=dict)
    lower: float | None = None

    def columns_of(self, role: Role) -> tuple[str, ...]:
        """Covariate columns of one role, in declared order."""
        return tuple(name for name, its in self.covariates.items() if its == role)


class FeatureColumn(BaseModel):
    """One model input column.

    Attributes
    ----------
    role
        When its values are known.
    scaled
        True if it is in the target's unit, so that models that scale the target scale it too.
    block
        The feature function that made it, or `covariate`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    scaled: bool = False
    block: str = "covariate"
