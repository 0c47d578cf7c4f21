"""A GPU for machines without one: its tensors have a device, a shape and a type, but no numbers.

On the CPU everything is computed as usual. What fails on a GPU, or makes the program wait for it,
raises: tensors of both devices in one operation, `.item()`, shapes that depend on numbers, and
copies that are not `non_blocking`. A backward pass only makes gradients of the right shape.
"""
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convnext_nb import images

aten = torch.ops.aten
Generator = torch.Generator


class Waits(RuntimeError):
    "The program would wait here until the GPU has done all that it was asked for."


class _OnCpu(Generator):
    "A generator for the GPU needs a GPU; this one is on the CPU, whatever it is asked for."
    def __new__(cls, device=None): return super().__new__(cls)


def _arrived(t, device, dtype=None, memory_format=None, **_):
    "A tensor of the CPU as it is on the GPU: shape, type and layout."
    how = dict(dtype=dtype or t.dtype, device=device)
    if memory_format in (None, torch.preserve_format):
        return aten.empty_strided.default(t.size(), t.stride(), **how)
    return aten.empty.memory_format(t.size(), memory_format=memory_format, **how)


class _Pretend(TorchDispatchMode):
    "Sends what concerns the GPU to the FakeTensorMode below it; computes the rest."
    strict = False  # True: no copy may wait

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func.namespace == "aten":
            # composed operations arrive whole
            with self: out = func.decompose(*args, **kwargs)
            if out is not NotImplemented: return out
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_gpu = any(t.device.type == "cuda" for t in tensors)
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type == "cuda"
        if not on_gpu and not to_gpu:
            with unset_fake_temporarily(): return func(*args, **kwargs)
        if func is aten._to_copy.default and target is not None:
            self.check_copy(on_gpu, to_gpu, kwargs.get("non_blocking"))
            if not on_gpu: return _arrived(args[0], **kwargs)
        elif func is aten.copy_.default:
            into, source = (t.device.type == "cuda" for t in args[:2])
            self.check_copy(source, into, len(args) > 2 and args[2])
        elif on_gpu and any(t.device.type == "cpu" and t.ndim for t in tensors):
            raise RuntimeError(f"{func} got tensors of both devices")
        return func(*args, **kwargs)

    def check_copy(self, from_gpu, to_gpu, non_blocking):
        if self.strict and from_gpu != to_gpu and not (to_gpu and non_blocking):
            raise Waits("a copy from the GPU" if from_gpu else "a copy to the GPU that blocks")


def _backward(loss):
    "Gives each parameter a gradient; to run backward passes on cuda, autograd needs a real GPU."
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen: continue
        seen.add(node)
        if hasattr(node, "variable"): node.variable.grad = torch.empty_like(node.variable)
        nodes += [before for before, _ in node.next_functions]


@contextmanager
def pretend_cuda() -> Iterator[_Pretend]:
    "In this block one may train on `cuda`, as far as shapes go."
    images._factors.cache_clear()
    with pytest.MonkeyPatch.context() as m, FakeTensorMode(allow_non_fake_inputs=True):
        m.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        m.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        m.setattr(torch.cuda, "mem_get_info", lambda *_: (2**40, 2**40))
        m.setattr(torch.cuda, "synchronize", lambda *_: None)
        m.setattr(torch, "Generator", _OnCpu)
        m.setattr(torch.Tensor, "backward", _backward)
        with _Pretend() as mode: yield mode
    images._factors.cache_clear()  # they hold pretended tensors
