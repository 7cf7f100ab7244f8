"""What rows are, as a source declares them: panels (roles, unit, frequency, horizon) and bars."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator

from nightcast.contracts.columns import BAR_COLUMNS, CLOSE, SERIES_ROLE, TARGET, Role
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

    @property
    def value(self) -> str:
        """The column people look at."""
        return TARGET

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns a request to the served model holds beside the keys."""
        return (TARGET, *self.covariates, SERIES_ROLE)

    @property
    def optional(self) -> tuple[str, ...]:
        """Those it may leave out."""
        return (*self.covariates, SERIES_ROLE)

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


Calendar = Literal["continuous", "weekdays", "business_days"]
"""`continuous`: every step of the clock has a bar. `weekdays`: closed over the weekend and on holidays.
`business_days`: one bar a trading day, whose closes between days count for nothing."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class LabelPlan(_Frozen):
    """How triple-barrier labels are made.

    Attributes
    ----------
    barrier
        Half-width of the barriers around the entry price, as a fraction of it. `volatility`:
        `multiplier * sigma_t * sqrt(h)`. `fixed`: `threshold`, for every horizon. `adaptive`:
        `max(minimum, multiplier * sigma_t * sqrt(h))`.
    multiplier
        Barrier in units of the volatility over the horizon.
    span
        Span of the exponentially weighted standard deviation of one-bar log returns, in bars.
    ambiguous
        Label when one bar touches both barriers: `neutral`, or the `worst` case for the side of the bar's close.
    """

    barrier: Literal["volatility", "fixed", "adaptive"] = "volatility"
    multiplier: float = Field(default=1.0, gt=0)
    threshold: float = Field(default=0.010, gt=0)
    minimum: float = Field(default=0.003, gt=0)
    span: int = Field(default=100, ge=2)
    ambiguous: Literal["neutral", "worst"] = "neutral"


class CostPlan(_Frozen):
    """What a unit of turnover costs, per side, in basis points of the traded value."""

    fee_bps: float = Field(default=1.0, ge=0)
    half_spread_bps: float = Field(default=0.5, ge=0)
    slippage_bps: float = Field(default=0.5, ge=0)

    @property
    def side(self) -> float:
        """Cost of one side as a fraction."""
        return (self.fee_bps + self.half_spread_bps + self.slippage_bps) / 1e4


class BarsSchema(_Frozen):
    """Declared facts of bars.

    Attributes
    ----------
    freq
        Step between two bars.
    horizons
        Bars a label may look ahead, rising.
    calendar
        When there are bars at all.
    max_gap
        Missing bars in a row, beyond the calendar's closes, that still belong to one segment.
    planted
        The source put a signal into the bars on purpose (a generated market): skill that is too good to be true is
        expected then, and no sign of a leak.
    """

    freq: FrequencyField
    horizons: tuple[int, ...] = Field(default=(1, 5, 20), min_length=1)
    calendar: Calendar = "continuous"
    max_gap: int = Field(default=3, ge=0)
    planted: bool = False
    unit: str = ""
    lower: None = None

    @field_validator("horizons")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(h < 1 for h in value) or list(value) != sorted(set(value)):
            raise ValueError(f"rising horizons of one bar or more, not {list(value)}")
        return value

    @property
    def horizon(self) -> int:
        """The longest horizon, H."""
        return self.horizons[-1]

    @property
    def value(self) -> str:
        """The column people look at."""
        return CLOSE

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns a request to the served model holds beside the keys."""
        return BAR_COLUMNS

    @property
    def optional(self) -> tuple[str, ...]:
        """Those it may leave out."""
        return ()

    @property
    def step(self) -> timedelta:
        """One bar."""
        start = datetime(2024, 1, 1)
        return self.freq.shift(start, 1) - start

    @property
    def bars_per_year(self) -> float:
        """Bars in a year of 365.25 days, by the calendar; business days count 252."""
        if self.calendar == "business_days":
            return 252.0 / max(1.0, self.step / timedelta(days=1))
        year = timedelta(days=365.25) / self.step
        return year if self.calendar == "continuous" else year * 5 / 7

    @property
    def days_per_year(self) -> float:
        """Days with profit or loss in a year: 365.25 on a continuous calendar, else 252."""
        return 365.25 if self.calendar == "continuous" else 252.0
