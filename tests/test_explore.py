"""Exercises that answer: right and wrong answers of every kind, hints in stages."""
import pytest
import torch

from convnext_nb.explore import checker

RIGHT_AND_WRONG = [
    (42, [42, 42.0, torch.tensor(42)], [41, 43, 0, -42, 420, float("nan"), "42", None, (42,), 42j]),
    (0.5, [0.5, 1 / 2, 0.50001, torch.tensor(0.5)], [0.51, 0, 5, "half", [0.5]]),
    (0, [0, 0.0], [1, -1, 1e-9, None]),
    (1e12, [1e12, 10**12], [1e9, 2e12]),
    (-7.9, [-7.9, -7.9001], [7.9, -8.5, 0]),
    (False, [False], [True]),
    ("shapes", ["shapes"], ["Shapes", "tiny", None, 3]),
    ((192, 384, 3), [(192, 384, 3), [192, 384, 3], torch.Size((192, 384, 3))],
     [(192, 384), (384, 192, 3), 192, None]),
    ((0.5, 0.0), [(0.5, 0.0)], [(0.5, 99.5), 0.5]),
]


@pytest.mark.parametrize("truth, right, wrong", RIGHT_AND_WRONG)
def test_right_and_wrong_answers(truth, right, wrong):
    check = checker({"it": lambda: truth})
    for answer in right: assert check("it", answer) == "Yes."
    for answer in wrong: assert check("it", answer).startswith("Not yet: "), answer


def test_hints_come_one_by_one():
    check = checker({"a": lambda: 1, "b": lambda: 2}, hints={"a": ["Low.", "One."]})
    assert check("a", 1) == "Yes."
    said = [check("a", 3).partition(" Hint ")[2] for _ in range(3)]
    assert said == ["1 of 2: Low.", "2 of 2: One.", "2 of 2: One."]
    assert "Hint" not in check("b", 3) and "Hint" not in check("a", 1)
    with pytest.raises(ValueError, match="no exercise 'c' here; there are: a, b"):
        checker({"a": lambda: 1, "b": lambda: 2}, hints={"c": ["?"]})


def test_a_tolerance_may_be_narrow():
    assert checker({"factor": lambda: 3.9985})("factor", 4) == "Yes."
    assert "too high" in checker({"factor": lambda: 3.9985}, tolerance=1e-4)("factor", 4)
