"""Promotion by hand: what the gate refused, or never judged, becomes champion only with a reason, which is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcast.contracts.decision import Decision, Guard
from nightcast.contracts.errors import RegistryError
from tasks.settings import get_settings
from tasks.tracking import CHAMPION, FORCED, Tracking, Version, registered_name

GUARDS = (
    Guard("skill_gate", 1.0, "one", True),
    Guard("economic_gate", 0.0, "one", False),
    Guard("bias", 9, "0", False),
)
REFUSED = Decision("none", False, "no model passed the gate", GUARDS)
WORSE = Decision("keep", False, "not better than the champion")
PASSED = Decision("first", True, "first champion", GUARDS[:1])


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.setenv("NIGHTCAST_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NIGHTCAST_MLFLOW_URI", raising=False)
    return Tracking(get_settings(tmp_path / "home"))


def registered(tracking: Tracking, *decisions: Decision | None, workload: str = "wells") -> list[Version]:
    """One version a decision, the last one the challenger."""
    name = registered_name(workload)
    tracking.client.create_registered_model(name)
    made = []
    for number, decision in enumerate(decisions, start=1):
        tracking.client.create_model_version(name, f"file:///nowhere/{number}", tags={"as_of": "2024-06-01"})
        version = tracking.numbered(workload, str(number))
        made.append(tracking.record_gate(version, decision))
        tracking.set_challenger(version)
    return made


@pytest.mark.parametrize("workload", ["wells", "markets"])
def test_a_version_that_its_gate_refused_is_not_promoted_and_the_failed_gates_are_named(
    tracking: Tracking, workload: str
) -> None:
    registered(tracking, REFUSED, workload=workload)

    for number in (None, "1"):
        with pytest.raises(RegistryError) as caught:
            tracking.promote(workload, number)
        assert "economic_gate, bias: no model passed the gate" in caught.value.what
        assert "skill_gate" not in caught.value.what
        assert f"nightcast promote {workload} --version 1 --force REASON" in caught.value.remedy
    assert tracking.alias(workload, CHAMPION) is None


def test_a_version_that_is_no_better_than_the_champion_is_refused_by_its_reason(tracking: Tracking) -> None:
    registered(tracking, PASSED, WORSE)
    tracking.promote("wells", "1")

    with pytest.raises(RegistryError, match="not better than the champion"):
        tracking.promote("wells")
    champion = tracking.alias("wells", CHAMPION)
    assert champion is not None
    assert champion.number == "1"


def test_a_version_that_no_gate_judged_is_refused(tracking: Tracking) -> None:
    (version,) = registered(tracking, None)

    assert version.gate == "not asked"
    with pytest.raises(RegistryError, match="never judged"):
        tracking.promote("wells")


def test_a_version_that_passed_is_promoted_and_carries_no_reason(tracking: Tracking) -> None:
    registered(tracking, PASSED)

    assert tracking.promote("wells").forced == ""
    champion = tracking.alias("wells", CHAMPION)
    assert champion is not None
    assert (champion.gate, champion.forced) == ("passed", "")


def test_force_promotes_and_the_reason_stands_in_the_registry(tracking: Tracking) -> None:
    registered(tracking, REFUSED)
    target = tracking.promote("wells", "1", force=" the field test agrees ")

    champion = tracking.alias("wells", CHAMPION)
    assert champion is not None
    assert champion.tags[FORCED] == target.forced == "the field test agrees"
    assert champion.gate == "refused (economic_gate, bias)"


def test_a_forced_promotion_can_be_rolled_back_and_is_not_repeated_without_a_reason(tracking: Tracking) -> None:
    registered(tracking, PASSED, REFUSED)
    tracking.promote("wells", "1")
    tracking.promote("wells", "2", force="trial")

    assert tracking.rollback("wells").number == "1"
    with pytest.raises(RegistryError, match="refused by its gate"):
        tracking.promote("wells", "2")


def test_force_without_a_reason_is_refused(tracking: Tracking) -> None:
    registered(tracking, REFUSED)

    with pytest.raises(RegistryError, match="a reason in words"):
        tracking.promote("wells", force=" ")
