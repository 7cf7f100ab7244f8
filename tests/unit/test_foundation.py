"""Pretrained forecasters: weights come from a folder and nowhere else; tiny random ones are made here."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.base import Forecaster
from models.families.foundation import ChronosBolt, Foundation, TimesFm, Ttm
from nightcast.contracts.columns import HORIZON, ID, LEVELS, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError, RegistryError
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import PanelSchema

AS_OF = datetime(2023, 12, 1)
CUTOFF = datetime(2023, 8, 1)
H = 4


# -- tiny random weights --------------------------------------------------------------------------------------------


def chronos_weights(folder: Path, *, seed: int = 0, levels: tuple[float, ...] = LEVELS) -> None:
    import torch
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    torch.manual_seed(seed)
    config = T5Config(
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        vocab_size=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    config.chronos_config = {
        "context_length": 64,
        "prediction_length": 8,
        "input_patch_size": 8,
        "input_patch_stride": 8,
        "quantiles": list(levels),
        "use_reg_token": True,
    }
    config.chronos_pipeline_class = "ChronosBoltPipeline"
    config.architectures = ["ChronosBoltModelForForecasting"]
    ChronosBoltModelForForecasting(config).save_pretrained(folder)


def tiny_timesfm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Release 2.5 fixes its 200 million parameters in a class attribute; a test makes it small."""
    import dataclasses

    from timesfm.timesfm_2p5 import timesfm_2p5_torch

    kind = timesfm_2p5_torch.TimesFM_2p5_200M_torch_module
    whole = kind.config
    transformer = dataclasses.replace(
        whole.stacked_transformers.transformer, model_dims=16, hidden_dims=16, num_heads=2
    )
    monkeypatch.setattr(
        kind,
        "config",
        dataclasses.replace(
            whole,
            input_patch_len=8,
            output_patch_len=16,
            output_quantile_len=16,
            tokenizer=dataclasses.replace(whole.tokenizer, input_dims=16, hidden_dims=16, output_dims=16),
            stacked_transformers=dataclasses.replace(whole.stacked_transformers, num_layers=1, transformer=transformer),
            output_projection_point=dataclasses.replace(
                whole.output_projection_point, input_dims=16, hidden_dims=16, output_dims=160
            ),
            output_projection_quantiles=dataclasses.replace(
                whole.output_projection_quantiles, input_dims=16, hidden_dims=16, output_dims=160
            ),
        ),
    )


def timesfm_weights(folder: Path, *, seed: int = 0) -> None:
    import torch
    from safetensors.torch import save_file
    from timesfm.timesfm_2p5 import timesfm_2p5_torch

    torch.manual_seed(seed)
    module = timesfm_2p5_torch.TimesFM_2p5_200M_torch_module()
    folder.mkdir(parents=True, exist_ok=True)
    # Some of its parameters are left as allocated.
    random = {name: 0.1 * torch.randn(value.shape) for name, value in module.state_dict().items()}
    save_file(random, str(folder / "model.safetensors"))


def timesfm3_weights(folder: Path, *, seed: int = 0) -> None:
    import torch
    from timesfm3.torch import configs, model

    torch.manual_seed(seed)
    block = configs.ResidualBlockConfig(hidden_dims=16, output_dims=16, use_bias=False, activation="relu")
    transformer = configs.TransformerConfig(
        model_dims=16,
        hidden_dims=16,
        num_heads=2,
        attention_norm="rms",
        feedforward_norm="rms",
        qk_norm="rms",
        use_rope_seq=True,
        use_rope_var=False,
        use_bias=False,
        ff_activation="relu",
        deterministic=True,
    )
    model.TimesFM3Torch(
        input_patch_len=8,
        output_patch_len=16,
        quantiles=list(LEVELS),
        residual_block_config=block,
        transformer_config=configs.StackedTransformersConfig(num_layers=1, transformer=transformer),
    ).save_pretrained(folder)


def ttm_weights(folder: Path, *, seed: int = 0, prefix: bool = False, horizon: int = 8) -> None:
    import torch
    from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction

    torch.manual_seed(seed)
    config = TinyTimeMixerConfig(
        context_length=24,
        patch_length=8,
        patch_stride=8,
        prediction_length=horizon,
        num_layers=1,
        decoder_num_layers=1,
        d_model=8,
        decoder_d_model=8,
        resolution_prefix_tuning=prefix,
        frequency_token_vocab_size=10,
    )
    TinyTimeMixerForPrediction(config).save_pretrained(folder)


CASES: dict[str, tuple[type[Foundation], Callable[..., None], dict[str, Any]]] = {
    "chronos_bolt": (ChronosBolt, chronos_weights, {}),
    "timesfm": (TimesFm, timesfm_weights, {"context": 64, "batch_size": 4}),
    "timesfm_3": (TimesFm, timesfm3_weights, {"release": "3.0", "context": 64, "batch_size": 4}),
    "ttm": (Ttm, ttm_weights, {"error_origins": 6}),
}


@pytest.fixture(params=sorted(CASES))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind = CASES[request.param][0]
    if find_spec(kind.package) is None:
        pytest.skip(f"the package {kind.package!r} (extra {kind.extra!r}) is not installed")
    if request.param == "timesfm":
        tiny_timesfm(monkeypatch)
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder; weights lie below it and are named relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fresh(name: str, **params: Any) -> Forecaster:
    kind, _, own = CASES[name]
    return kind(**{"weights": "weights/tiny", **own, **params})


def fitted(name: str, view: PanelView, **params: Any) -> Forecaster:
    CASES[name][1](Path("weights/tiny"))
    return fresh(name, **params).fit(view, seed=3)


@functools.cache
def panel(*, times: float = 1.0, only: tuple[str, ...] = ()) -> PanelDataset:
    """Four series: plain, with gaps, constant, short; three months past the cutoff, for a future to scramble."""
    rng = np.random.default_rng(5)
    schema = PanelSchema(freq="MS", horizon=H, lower=0.0)
    first, parts = schema.freq.shift(AS_OF, -47), []
    for i, series in enumerate(("constant", "gaps", "plain", "short")):
        start = 33 if series == "short" else 0
        t = np.arange(start, 48)
        y: list[float | None] = list(times * 50 * (i + 1) * np.exp(-0.01 * t) * rng.lognormal(0, 0.1, t.size))
        if series == "constant":
            y = [times * 30.0] * 48
        if series == "gaps":
            for gap in (4, 20, 21, 40, 43):
                y[gap] = None
        if only and series not in only:
            continue
        parts.append(
            pl.DataFrame(
                {ID: [series] * t.size, TIME: [schema.freq.shift(first, int(k)) for k in t], TARGET: y},
                schema_overrides={TIME: pl.Datetime("us"), TARGET: pl.Float64},
            )
        )
    return PanelDataset(pl.concat(parts), schema, {}, as_of=AS_OF)


def view(**changes: Any) -> PanelView:
    return panel(**changes).view(CUTOFF)


def values(model: Forecaster, asked: PanelView) -> np.ndarray:
    return model.predict(asked).frame.select(QUANTILES).to_numpy()


# -- what every forecaster promises ---------------------------------------------------------------------------------


def test_every_series_gets_nine_sorted_finite_quantiles_at_every_horizon(name: str, place: Path) -> None:
    model = fitted(name, view())

    forecast = model.forecast(view())

    frame = forecast.prediction.frame
    assert forecast.left_out == {}
    assert frame.group_by(ID).agg(pl.col(HORIZON).sort())[HORIZON].to_list() == [[1, 2, 3, 4]] * 4
    numbers = frame.select(QUANTILES).to_numpy()
    assert numbers.shape == (16, 9)
    assert np.isfinite(numbers).all()
    assert (np.diff(numbers, axis=1) >= 0).all()
    assert (numbers[:, -1] > numbers[:, 0]).mean() > 0.7
    assert any(note.code == "gaps_filled" for note in forecast.notes)


def test_two_fits_and_two_forecasts_are_the_same_numbers(name: str, place: Path) -> None:
    model = fitted(name, view())
    first = values(model, view())

    model.predict(panel().view(datetime(2023, 3, 1)))

    assert np.array_equal(values(model, view()), first)
    assert np.array_equal(values(fresh(name).fit(view(), seed=9), view()), first)


def test_other_weights_give_another_forecast(name: str, place: Path) -> None:
    first = values(fitted(name, view()), view())
    CASES[name][1](Path("weights/tiny"), seed=1)

    assert not np.allclose(values(fresh(name).fit(view(), seed=3), view()), first)


def test_scrambling_what_comes_after_the_cutoff_changes_nothing(name: str, place: Path) -> None:
    data = panel()
    late = pl.when(pl.col(TIME) > CUTOFF).then(pl.col(TARGET) * -3 + 1).otherwise(pl.col(TARGET))
    scrambled = PanelDataset(data.frame.with_columns(late.alias(TARGET)), data.schema, {}, as_of=AS_OF)
    assert not scrambled.frame.equals(data.frame)

    other = fitted(name, scrambled.view(CUTOFF)).predict(scrambled.view(CUTOFF))

    assert other.frame.equals(fitted(name, view()).predict(view()).frame)


def test_a_series_is_forecast_alike_alone_and_under_another_name(name: str, place: Path) -> None:
    model = fitted(name, view())
    among = model.predict(view()).frame.filter(pl.col(ID) == "plain").select(QUANTILES).to_numpy()
    alone = view(only=("plain",))
    renamed = PanelView(
        alone.history.with_columns(pl.lit("a new well").alias(ID)),
        alone.future.with_columns(pl.lit("a new well").alias(ID)),
        alone.cutoff,
        alone.schema,
        alone.columns,
    )

    assert np.allclose(values(model, renamed), among, rtol=1e-4)


def test_another_unit_gives_the_same_forecast_in_that_unit(name: str, place: Path) -> None:
    small = values(fitted(name, view()), view())

    large = values(fitted(name, view(times=1000.0)), view(times=1000.0))

    assert np.allclose(large / 1000, small, rtol=1e-4, atol=1e-3)


def test_the_callers_random_state_and_threads_are_left_alone(name: str, place: Path) -> None:
    import torch

    model = fitted(name, view())
    torch.manual_seed(5)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(5)

    model.predict(view())
    fresh(name).fit(view(), seed=1)

    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


# -- weights and bundles --------------------------------------------------------------------------------------------


def test_a_bundle_keeps_the_path_and_the_hash_but_not_the_weights(name: str, place: Path) -> None:
    model = fitted(name, view())

    model.save(Path("bundle"))

    facts = json.loads(Path("bundle/model.json").read_text())
    weights = Path("weights/tiny/model.safetensors")
    assert [file.name for file in Path("bundle").rglob("*")] == ["model.json"]
    assert facts["params"]["weights"] == "weights/tiny"
    assert facts["state"]["files"]["model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert str(place) not in Path("bundle/model.json").read_text()
    loaded = type(model).load(Path("bundle"))
    assert np.array_equal(values(loaded, view()), values(model, view()))
    loaded.save(Path("again"))
    assert Path("again/model.json").read_bytes() == Path("bundle/model.json").read_bytes()


def test_a_bundle_with_its_weights_needs_no_folder_beside_it(name: str, place: Path) -> None:
    model = fitted(name, view(), bundle_weights=True)
    before = values(model, view())
    model.save(Path("bundle"))
    Path("weights").rename("elsewhere")

    loaded = type(model).load(Path("bundle"))

    assert np.array_equal(values(loaded, view()), before)
    assert {file.suffix for file in Path("bundle").rglob("*") if file.is_file()} <= {".json", ".safetensors"}


def test_weights_that_changed_since_the_fit_are_refused_at_loading(name: str, place: Path) -> None:
    model = fitted(name, view())
    model.save(Path("bundle"))
    CASES[name][1](Path("weights/tiny"), seed=1)

    with pytest.raises(RegistryError, match=r"'model.safetensors' of the weights has the sha256"):
        type(model).load(Path("bundle"))


def test_weights_without_the_declared_hash_are_refused(name: str, place: Path) -> None:
    digest = hashlib.sha256()
    fitted(name, view())
    digest.update(Path("weights/tiny/model.safetensors").read_bytes())

    fresh(name, sha256=digest.hexdigest()).fit(view(), seed=0)

    with pytest.raises(ConfigError, match=f"has the sha256 {digest.hexdigest()}; expected {'0' * 64}"):
        fresh(name, sha256="0" * 64).fit(view(), seed=0)


def test_broken_weights_are_refused_by_name(name: str, place: Path) -> None:
    fitted(name, view())
    Path("weights/tiny/model.safetensors").write_bytes(b"no tensors")

    with pytest.raises(ConfigError, match="cannot read 'weights/tiny'"):
        fresh(name).fit(view(), seed=0)


def test_nothing_is_asked_of_the_network(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    values(fitted(name, view()), view())

    assert "HF_HUB_OFFLINE" not in os.environ


# -- each one's own -------------------------------------------------------------------------------------------------


def needs(kind: type[Foundation]) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find_spec(kind.package) is None, reason=f"the package {kind.package!r} (extra {kind.extra!r}) is not installed"
    )


@needs(ChronosBolt)
def test_chronos_is_handed_gaps_as_gaps(place: Path) -> None:
    model = fitted("chronos_bolt", view())
    seen: list[Any] = []
    ask = model.engine.predict_quantiles  # type: ignore[attr-defined]
    model.engine.predict_quantiles = lambda inputs, **kw: (seen.append(inputs), ask(inputs, **kw))[1]  # type: ignore[attr-defined]

    model.predict(view())

    gaps = panel().frame.filter((pl.col(ID) == "gaps") & (pl.col(TIME) <= CUTOFF))[TARGET].null_count()
    assert int(seen[0][1].isnan().sum()) == gaps > 0


@needs(ChronosBolt)
def test_a_chronos_without_the_nine_quantiles_is_refused(place: Path) -> None:
    chronos_weights(Path("weights/tiny"), levels=(0.1, 0.5, 0.9))

    with pytest.raises(ConfigError, match=r"without the quantiles \[0.2, 0.3"):
        fresh("chronos_bolt").fit(view(), seed=0)


@needs(TimesFm)
def test_the_nine_quantiles_of_timesfm_are_those_after_the_mean(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_timesfm(monkeypatch)
    model = fitted("timesfm", view())
    answer = np.broadcast_to(np.array([100, *range(1, 10)], dtype=np.float32), (4, H, 10))
    model.engine.forecast = lambda horizon, series: (None, answer)  # type: ignore[attr-defined]

    numbers = values(model, view())

    assert np.allclose(numbers[:H], 30.0 * np.arange(1, 10))


@needs(Ttm)
def test_ttm_refuses_weights_that_reach_less_far_than_the_horizon(place: Path) -> None:
    ttm_weights(Path("weights/tiny"), horizon=3)

    with pytest.raises(ConfigError, match="a TinyTimeMixer of 3 steps, for 4"):
        fresh("ttm").fit(view(), seed=0)


@needs(Ttm)
def test_ttm_tells_which_windows_it_had_to_fill_in_front(place: Path) -> None:
    notes = fitted("ttm", view()).forecast(view()).notes

    assert [(note.code, note.rows) for note in notes if note.code == "windows_padded"] == [("windows_padded", 1)]


@needs(Ttm)
def test_ttm_hands_over_the_frequency_where_the_weights_ask_for_it(place: Path) -> None:
    ttm_weights(Path("weights/tiny"), prefix=True)

    numbers = values(fresh("ttm").fit(view(), seed=0), view())

    assert np.isfinite(numbers).all()


@needs(Ttm)
def test_the_intervals_of_ttm_come_from_errors_at_past_origins_that_see_nothing_later(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_value(self: Ttm, window: np.ndarray) -> np.ndarray:
        return np.repeat(window[:, -1:], H, axis=1)[:, :, None]

    monkeypatch.setattr(Ttm, "_ask", last_value)
    alone = view(only=("plain",))

    model = fitted("ttm", alone, error_origins=30)

    y = alone.history[TARGET].to_numpy()
    level = np.array([y[origin - 12 : origin].mean() for origin in range(len(y) - 30, len(y))])
    one_step = (y[-30:] - y[-31:-1]) / level
    assert isinstance(model, Ttm)
    assert model.errors.counts == (30, 29, 28, 27)
    assert model.errors.offsets[0, 0] == pytest.approx(np.quantile(one_step, 0.1))
    assert model.errors.offsets[0, 8] == pytest.approx(np.quantile(one_step, 0.9))


# -- what needs no package ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ChronosBolt, TimesFm, Ttm])
def test_an_absent_folder_is_refused_with_the_layout_and_the_remedy(kind: type[Foundation], place: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"weights/nowhere.* does not exist.*model\.safetensors.*nothing is downloaded"
    ):
        kind(weights="weights/nowhere").fit(view(), seed=0)


@pytest.mark.parametrize("kind", [ChronosBolt, TimesFm, Ttm])
def test_a_folder_that_lacks_a_file_is_refused_by_the_files_name(kind: type[Foundation], place: Path) -> None:
    Path("weights").mkdir()
    Path("weights/config.json").write_text("{}")
    Path("weights/pytorch_model.bin").write_bytes(b"\x80\x02")

    with pytest.raises(ConfigError, match=r"has no 'model\.safetensors'"):
        kind(weights="weights").fit(view(), seed=0)


@pytest.mark.parametrize("kind", [ChronosBolt, TimesFm, Ttm])
def test_an_absent_package_is_refused_with_the_extra_that_brings_it(
    kind: type[Foundation], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("weights").mkdir()
    Path("weights/config.json").write_text("{}")
    Path("weights/model.safetensors").write_bytes(b"")
    monkeypatch.setattr(kind, "package", "no_such_package")

    with pytest.raises(ConfigError, match=rf"'no_such_package'.*not installed.*extra '{kind.extra}'.*pip install"):
        kind(weights="weights").fit(view(), seed=0)


@pytest.mark.parametrize("kind", [ChronosBolt, Ttm])
def test_anothers_weights_are_refused_by_what_they_are(
    kind: type[Foundation], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("weights").mkdir()
    Path("weights/config.json").write_text(json.dumps({"model_type": "bert"}))
    Path("weights/model.safetensors").write_bytes(b"")
    monkeypatch.setattr(kind, "package", "json")

    with pytest.raises(ConfigError, match="is that of bert"):
        kind(weights="weights").fit(view(), seed=0)


@pytest.mark.parametrize("kind", [ChronosBolt, TimesFm, Ttm])
def test_a_malformed_hash_is_refused(kind: type[Foundation]) -> None:
    with pytest.raises(ConfigError, match="sha256='abc'"):
        kind(sha256="abc")
