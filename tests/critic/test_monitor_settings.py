"""The monitor's settings: what they refuse, and how a table is laid over the defaults."""

import pytest

from critic.monitor.decide import check
from critic.monitor.readings import Reading
from critic.monitor.settings import DEFAULT_RULES, GOLD, MonitorSettings
from critic.monitor.state import MonitorState


def test_an_unknown_signal_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"tokn_entropy.*token_entropy"):
        check(MonitorState(), {"tokn_entropy": Reading(value=0.4, error=0.1)}, MonitorSettings())


NOVELTY = [name for name, rule in DEFAULT_RULES.items() if rule.channel == "N" and rule.watched]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rules": {"tokn_entropy": {"matters": 0.1}}}, "token_entropy"),
        ({"rules": {GOLD: {"watched": False}}}, "labelled gold probe"),
        ({"rules": {GOLD: {"bad": "rising"}}}, "labelled gold probe"),
        ({"rules": {n: {"watched": False} for n in NOVELTY[1:]}}, "can never alarm"),
        ({"hysteresis": 3}, "hysteresis"),
        ({"threshold": float("inf")}, "finite"),
    ],
)
def test_settings_refuse(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MonitorSettings.model_validate(table)


def test_settings_override_single_fields_and_add_signals() -> None:
    extra = {"channel": "N", "bad": "falling", "matters": 0.5}
    own = MonitorSettings.model_validate(
        {"rules": {"effective_groups": {"matters": 0.2}, "vendi": extra}}
    )
    assert own.rules["effective_groups"].matters == 0.2 and own.rules["effective_groups"].paired
    assert own.rules["distinct_ratio"] == DEFAULT_RULES["distinct_ratio"]
    assert own.active["vendi"].matters == 0.5
    assert MonitorSettings.model_validate_json(own.model_dump_json()) == own
    none = MonitorSettings.model_validate({"rules": {n: {"watched": False} for n in NOVELTY}})
    assert not any(rule.channel == "N" for rule in none.active.values())
