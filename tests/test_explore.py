"""Exercises that answer: right and wrong answers of every kind, hints in stages."""
import math
import sys

import ipywidgets as widgets
import numpy as np
import pytest
import torch

from convnext_nb import explore
from convnext_nb.explore import checker, play, press

RIGHT_AND_WRONG = [
    (42, [42, 42.0, torch.tensor(42)], [41, 43, 0, -42, 420, float("nan"), "42", None, (42,), 42j]),
    (18_038_336, [18_038_336, 18_038_336.0], [18_038_337, 18_038_000, 18e6]),
    (50.0, [50, 50.000003, torch.tensor(50.0)], [50.1, 49, 0.5, float("inf")]),
    (0.5, [0.5, 1 / 2, 0.50001, 0.505, torch.tensor(0.5)], [0.52, 0, 5, "half", [0.5]]),
    (0.0238, [0.0238, 0.024], [0.023, 0.025, 2.4]),
    (0.02034, [0.02], [0.021]),
    (0, [0, 0.0, 1e-9], [1, -1, 0.01, None]),
    (1e12, [1e12, 10**12], [1e9, 2e12]),
    (-7.9, [-7.9, -7.9001], [7.9, -8.5, 0]),
    (False, [False], [True]),
    ("shapes", ["shapes"], ["Shapes", "tiny", None, 3]),
    ((192, 384, 3), [(192, 384, 3), [192, 384, 3], torch.Size((192, 384, 3))],
     [(192, 384), (384, 192, 3), 192, None]),
    ((0.5, 0.0), [(0.5, 0.0)], [(0.5, 99.5), 0.5]),
    ([1, 2], [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2])], [[2, 1], 1, [1]]),
    (((1, 2), (3, 4)), [np.array([[1, 2], [3, 4]]), [(1, 2), [3, 4]]], [((1, 2),), [1, 2, 3, 4]]),
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
    answers = {"factor": lambda: 3.9985, "share": lambda: 0.0238}
    assert checker(answers)("factor", 4) == "Yes."
    assert "too high" in checker(answers, tolerance=1e-4)("factor", 4)
    check = checker(answers, narrow={"factor": 1e-4})
    assert "too high" in check("factor", 4) and check("share", 0.024) == "Yes."
    with pytest.raises(ValueError, match="no exercise 'c' here"):
        checker(answers, narrow={"c": 1e-4})


@pytest.mark.parametrize("truth, answer, said", [
    (0.0238, 2.4, "2.4 is about 100 times the answer. Is percent asked for, or a share?"),
    (46, 0.46, "0.46 is about 0.01 times the answer. Is percent asked for, or a share?"),
    (93.6, 93_600, "93,600 is about 1,000 times the answer. Look at the unit."),
    (4.0892, 4_089_200_000,
     "4,089,200,000 is about 1,000,000,000 times the answer. Look at the unit."),
    (5.9836, 434, "434 is about 70 times the answer."),
    (3.15, "width", "the answer is a number, not 'width'.")])
def test_a_wrong_unit_is_named(truth, answer, said):
    assert checker({"it": lambda: truth})("it", answer) == f"Not yet: {said}"


def test_tensors_are_compared_by_shape_and_numbers():
    truth = torch.arange(6.0).view(2, 3)
    check = checker({"map": lambda: truth})
    assert check("map", truth + 1e-6) == check("map", truth.double()) == "Yes."
    assert check("map", truth.T) == "Not yet: the shape is (3, 2), and should be (2, 3)."
    assert check("map", truth + 1) == "Not yet: the shape is right, the numbers are not."
    assert check("map", 3) == "Not yet: 3 is not a tensor."
    assert check("map", truth.numpy()) == check("map", truth.flip(0).numpy()[::-1]) == "Yes."
    assert check("map", truth.numpy().astype(object)).startswith("Not yet: ")


def test_a_tensor_is_not_rounded_to_the_kind_of_the_answer():
    check = checker({"whole": lambda: torch.tensor([2, 3]), "mask": lambda: torch.tensor([True])})
    assert check("whole", torch.tensor([2.9, 3.7])).endswith("the numbers are not.")
    assert check("whole", torch.tensor([2, 3], dtype=torch.uint8)) == "Yes."
    assert check("mask", torch.tensor([5.0])) == check("mask", torch.tensor([1])) == (
        "Not yet: true or false is asked for, not numbers.")
    assert check("mask", torch.tensor([False])).endswith("the numbers are not.")
    assert check("mask", np.array([True])) == "Yes."


def test_arrays_and_tensors_where_another_kind_is_asked():
    check = checker({"number": lambda: 12, "pair": lambda: (2, 3), "word": lambda: "disc"})
    assert check("number", np.array(12)) == check("number", np.int64(12)) == "Yes."
    assert check("pair", np.array([2, 3])) == check("pair", torch.tensor([2, 3])) == "Yes."
    two = torch.tensor([1, 2])
    for name in ("number", "pair", "word"):
        for wrong in (two, two.numpy(), torch.zeros(2, 2), np.zeros((2, 2)), torch.zeros(0)):
            assert check(name, wrong).startswith("Not yet: ") and "\n" not in check(name, wrong)


def test_the_present_value_is_among_the_choices_of_a_page():
    control = explore.play(lambda x=0.35: str(x), x=(0.0, 1.0, 0.05)).controls["x"]
    found = explore._choices(control)
    assert "0.35" in found and len(found) == 10
    control = widgets.FloatLogSlider(value=0.2, min=-5, max=0)
    found = explore._choices(control)
    assert min(found.values()) == pytest.approx(1e-5) and max(found.values()) == 1
    assert any(math.isclose(value, control.value) for value in found.values())


@pytest.mark.parametrize("make", [
    lambda: widgets.IntText(3), lambda: widgets.FloatText(3.0),
    lambda: widgets.BoundedFloatText(0.5, min=0, max=1),
    lambda: widgets.IntRangeSlider(value=(2, 5)),
    lambda: widgets.SelectMultiple(options=["a", "b"], value=["a"]),
    lambda: widgets.SelectionRangeSlider(options=["a", "b", "c"]), lambda: widgets.Text("words"),
    lambda: widgets.Dropdown(options={"one": 1, "two": 2}),
    lambda: widgets.Dropdown(options=[("one", 1), ("two", 2)])])
def test_any_widget_has_a_page_without_a_kernel(make):
    asked = []
    toy = play(lambda it: asked.append(it) or f"it is {it}", it=make())
    kind = type(toy.controls["it"].value)
    assert f"it is {toy.controls['it'].value}" in toy.without_kernel()
    assert {type(value) for value in asked} == {kind}
    if "Dropdown" in type(toy.controls["it"]).__name__: assert asked[-1] == 2


def test_a_run_that_is_stopped_says_so():
    def count(to):
        yield "one"
        if to == 3: raise RuntimeError
    toy = press(count, "count", to=[2, 3])
    toy.controls["to"].value = 2
    toy.run()
    assert toy.said == "A run with to 2."
    toy.controls["to"].value = 3
    with pytest.raises(RuntimeError): toy.run()
    assert toy.said == "An unfinished run with to 3." and not toy.button.disabled


def test_a_flipbook_in_a_flipbook():
    inner = explore.flipbook(str, object=[1, 2])
    with pytest.raises(ValueError, match="a page holds a flipbook"):
        explore.flipbook(lambda a: inner, a=["x", "y"])


def test_tiny_numbers_are_not_zero():
    table = explore.html_table([{"x": 1e-6, "y": 0.0}, {"x": 1234.5, "y": 0.25}])
    assert ">1.0e-06<" in table and ">1,234.5<" in table and ">0.00<" in table


def test_in_colab_a_figure_to_play_with_is_a_page_of_its_own(monkeypatch):
    shown = play(lambda n: f"<b>{n}</b>", n=[1, 2, 3])
    assert set(shown._repr_mimebundle_()) > {"text/html"}
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/html"} and "<b>2</b>" in bundle["text/html"]


def test_a_wrong_answer_does_not_tell_the_right_one():
    "What is said is the same for a range of truths, wider than the tolerance."
    def said(truth): return checker({"it": lambda: truth})("it", 4)
    assert said(3.1) == said(3.5) == "Not yet: 4 is too high, but not by half."
    assert said(3.7) == said(3.9) == "Not yet: 4 is a little too high."
    assert said(0.06) == said(0.0601) == "Not yet: 4 is about 70 times the answer."


def test_a_right_answer_begins_the_hints_anew():
    check = checker({"a": lambda: 1}, hints={"a": ["first", "second"]})
    assert "first" in check("a", 2) and "second" in check("a", 2)
    assert check("a", 1) == "Yes." and "first" in check("a", 2)
