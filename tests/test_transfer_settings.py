"""KEY VALUE overrides take the type of the default; differences say what was changed."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from parallel.mappings import differences
from transfer.settings import TaskConfig


@dataclass(frozen=True)
class Toy(TaskConfig):
    epochs: int = 100
    learning_rate: float = 0.3
    milestones: tuple = (12, 16)
    schedule: str = "cosine"
    nesterov: bool = False


@pytest.mark.parametrize("pairs, field, value", [
    (["epochs", "3"], "epochs", 3),
    (["learning_rate", "1e-2"], "learning_rate", 0.01),
    (["milestones", "4,8,12"], "milestones", (4, 8, 12)),
    (["milestones", "(4, 8)"], "milestones", (4, 8)),
    (["schedule", "step"], "schedule", "step"),
    (["nesterov", "True"], "nesterov", True),
    (["epochs", "3", "epochs", "5"], "epochs", 5),
])
def test_value_takes_the_type_of_the_default(pairs, field, value):
    changed = getattr(Toy().override(pairs), field)
    assert changed == value and type(changed) is type(value)


@pytest.mark.parametrize("pairs, message", [
    (["epoch", "3"], "unknown key 'epoch'; did you mean epochs"),
    (["zzz", "3"], "known are epochs, learning_rate, milestones, nesterov, schedule"),
    (["epochs", "three"], "epochs: expected int such as 100, found 'three'"),
    (["epochs", "2.5"], "epochs: expected int"),
    (["nesterov", "1"], "nesterov: expected bool such as true or false, found '1'"),
    (["milestones", "a,b"], "milestones: expected tuple such as 1,2"),
    (["epochs"], "found 'epochs' left over"),
    (["epochs=3"], "found 'epochs=3'; write a space instead of the ="),
    (["epochs", "3", "schedule=step", "nesterov=true"], "found 'schedule=step'; write a space"),
])
def test_bad_pairs_are_one_clear_line(pairs, message):
    with pytest.raises(ValueError) as error:
        Toy().override(pairs)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_resolved_is_json_and_differences_name_the_keys():
    paper, used = Toy().resolved(), Toy(epochs=2, milestones=(1,)).resolved()
    assert paper["milestones"] == [12, 16]
    assert differences(paper, used) == {"epochs": [100, 2], "milestones": [[12, 16], [1]]}
    assert differences({"a": 1}, {"b": 2}) == {"a": [1, None], "b": [None, 2]}
    assert differences(paper, Toy().resolved()) == {}


@dataclass(frozen=True)
class Chosen(Toy):
    preset: str = "paper"

    PRESETS: ClassVar[dict] = {"paper": {}, "short": {"epochs": 10, "schedule": "step"}}


def test_a_preset_comes_first_and_its_name_is_kept():
    used = Chosen().override(["epochs", "3", "preset", "short"])
    assert used == Chosen(epochs=3, schedule="step", preset="short")
    assert differences(Chosen().resolved(), used.resolved()).keys() == {"epochs", "schedule", "preset"}
    with pytest.raises(ValueError, match="unknown preset 'shrot'; did you mean short"):
        Chosen().override(["preset", "shrot"])
    with pytest.raises(ValueError, match="unknown key 'preset'"):
        Toy().override(["preset", "short"])
