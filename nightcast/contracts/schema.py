"""What rows are, as a source declares them: panels (roles, unit, frequency, horizon) and bars."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from nightcast.contracts.columns import BAR_COLUMNS, CLOSE, ID, SERIES_ROLE, TARGET, TIME, Role
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

YEAR_DAYS: Final = 365.25
LEAST_COUNTED_DAYS: Final = 90
"""Days elapsed below which a year cannot be counted from bars."""


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


ALL_SYMBOLS = "*"
"""In `BarsSchema.rolls`: every symbol."""


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
    counted_days, counted_bars
        Days and bars of a year as the data have them, from `counted`; None to go by the calendar alone.
    rolls
        Symbol, or `*` for all -> times at which a new contract takes over: the bar at or after such a time is the new
        contract's first and belongs to another segment than the bar before it.
    """

    freq: FrequencyField
    horizons: tuple[int, ...] = Field(default=(1, 5, 20), min_length=1)
    calendar: Calendar = "continuous"
    max_gap: int = Field(default=3, ge=0)
    planted: bool = False
    rolls: dict[str, tuple[datetime, ...]] = Field(default_factory=dict)
    unit: str = ""
    lower: None = None
    counted_days: float | None = Field(default=None, gt=0)
    counted_bars: float | None = Field(default=None, gt=0)

    @model_serializer(mode="wrap")
    def _without_what_is_not_counted(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A schema as a source declares it has the hash it had before anything was counted or rolls could be declared.
        left_out = [name for name in ("counted_days", "counted_bars") if getattr(self, name) is None]
        left_out += [] if self.rolls else ["rolls"]
        return {name: value for name, value in handler(self).items() if name not in left_out}

    @field_validator("horizons")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(h < 1 for h in value) or list(value) != sorted(set(value)):
            raise ValueError(f"rising horizons of one bar or more, not {list(value)}")
        return value

    def rolls_of(self, symbol: str) -> tuple[datetime, ...]:
        """Times at which a symbol's contract changes, rising."""
        return tuple(sorted({*self.rolls.get(symbol, ()), *self.rolls.get(ALL_SYMBOLS, ())}))

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
        """Bars of a symbol in a year of 365.25 days: as counted, else by the calendar; business days count 252."""
        if self.counted_bars is not None:
            return self.counted_bars
        if self.calendar == "business_days":
            return 252.0 / max(1.0, self.step / timedelta(days=1))
        year = timedelta(days=365.25) / self.step
        return year if self.calendar == "continuous" else year * 5 / 7

    @property
    def days_per_year(self) -> float:
        """Days (UTC) with bars in a year: as counted, else 365.25 on a continuous calendar and 252 on others."""
        if self.counted_days is not None:
            return self.counted_days
        return 365.25 if self.calendar == "continuous" else 252.0

    def counted(self, bars: pl.DataFrame) -> BarsSchema:
        """The schema with the days and bars of a year as these bars have them.

        Days are UTC dates on which any symbol has a bar, as the backtest sums returns by them, over the days elapsed
        from the first to the last; bars are the median over the symbols of their number over their own days elapsed.

        Parameters
        ----------
        bars
            `unique_id, ds`. With fewer than 90 days elapsed the days stay the calendar's, and where that has closes the
            bars are the median of a symbol's day times those days; what is counted already stays.
        """
        if self.counted_bars is not None or bars.is_empty():
            return self
        date = pl.col(TIME).dt.date()
        elapsed = (date.max() - date.min()).dt.total_days() + 1
        days, span = bars.select(date.n_unique().alias("days"), elapsed.alias("span")).row(0)
        if span < LEAST_COUNTED_DAYS:
            if self.calendar == "continuous":
                return self
            a_day = bars.group_by(ID, date).len().get_column("len").median()
            return self.model_copy(update={"counted_bars": self.days_per_year * float(a_day)})  # type: ignore[arg-type]
        each = bars.group_by(ID).agg((pl.len() / elapsed).alias("rate"), elapsed.alias("span"))
        rate = each.filter(pl.col("span") >= LEAST_COUNTED_DAYS).get_column("rate").median()
        return self.model_copy(
            update={
                "counted_days": YEAR_DAYS * days / span,
                "counted_bars": None if rate is None else YEAR_DAYS * float(rate),  # type: ignore[arg-type]
            }
        )
