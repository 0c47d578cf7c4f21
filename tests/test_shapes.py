"""The drawn figures: the same bytes everywhere, balanced, and never twice the same."""
import torch
from children import python

from convnext_nb.shapes import Shapes


def test_shapes_do_not_depend_on_threads():
    usual = torch.get_num_threads()
    try:
        both = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            both.append(Shapes(40, 0, seed=3).train)
    finally:
        torch.set_num_threads(usual)
    a, b = both
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_shapes_do_not_depend_on_the_processor():
    code = ("import hashlib; from convnext_nb.shapes import Shapes; "
            "print(hashlib.sha256(Shapes(100, 0).train.images.numpy().tobytes()).hexdigest()[:16])")
    found = python(code, ATEN_CPU_CAPABILITY="default")  # no vector instructions
    assert found == "2e6f3fad519f21e6"  # as in the chapter


def test_shapes_are_balanced_and_differ():
    a, b = Shapes(500, 250), Shapes(250, 250, seed=1)
    assert a.train.labels.bincount().tolist() == [50] * 10
    assert a.val.labels.bincount().tolist() == [25] * 10
    assert torch.equal(a.train.images[:260], Shapes(260, 0).train.images)  # a beginning
    seen = torch.cat([s.images.flatten(1) for d in (a, b) for s in (d.train, d.val)])
    assert len({image.numpy().tobytes() for image in seen}) == 500 + 250 + 250 + 250
    assert (a.train.labels[:250] != a.train.labels[250:]).any()
