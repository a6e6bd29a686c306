"""A device that is not here: CUDA without numbers, and a guard over what is asked of it.

Of a tensor on a fake device torch knows shape, dtype and device. The guard refuses what a GPU
would have to be waited for, and what would fail there:

    a read by the host            `.item()`, `.tolist()`, `bool(x)`, `if x > 0`, `.cpu()`
    a shape that depends on data  `x.nonzero()`, `x[mask]`, `x[mask] = values`
    two devices in one operation  `cpu_table[cuda_index]`, and copies between them
    numbers of Python's sent      `torch.tensor([1.0, 2.0], device="cuda")`, `x[[0, 2]]`

(A plain copy from the CPU waits until all is done that was asked of the device before.) A tensor
of one number, without axes, on the CPU goes into operations as a number does. Tensors on the CPU
are real ones, so that grids, tables and settings are computed as ever.

Autograd asks the driver for a device, which "cuda" does not have without one; on "meta", torch's
own device without numbers, gradients are computed, and the guard is the same.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from score_sde import tensor_ops
from score_sde.config import parts
from score_sde.config.build import build_measurement
from score_sde.config.schema import FIELDS
from score_sde.networks.table import NETWORKS
from score_sde.posteriors import POSTERIORS
from score_sde.sde import SDES, VPSDE

Made = TypeVar("Made")

LIBRARY = Path(tensor_ops.__file__).parent
FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
READ = torch.ops.aten._local_scalar_dense.default
INDEXED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
)
DEPENDS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
ERRORS_READ = torch.ops.aten._linalg_check_errors.default  # of `torch.linalg.solve` and others


class Refused(AssertionError):  # noqa: N818, it says what happened
    """What the host would wait for, or could not do, were the device there."""


class FakeDevice:
    """What lies on it and what is asked of it.

    Attributes:
        type: "cuda" or "meta".
        reads: how often the host has read, by the place in the library, as "solvers/ode/slots.py
            retire"; filled within `answering`.
    """

    def __init__(self, kind: str) -> None:
        self.type = kind
        self.reads: Counter[str] = Counter()
        self.tables_come = False
        self.answers: int | None = None

    def is_here(self, value: Any) -> bool:
        """Whether a value is a tensor of the device."""
        return isinstance(value, Tensor) and value.device.type == self.type

    @contextmanager
    def tables_coming(self) -> Iterator[None]:
        """Within it tensors may be copied from the CPU, as tables are the first time."""
        self.tables_come = True
        try:
            yield
        finally:
            self.tables_come = False

    def settled(self, call: Callable[[], Made]) -> Made:
        """What a call gives the second time, after which nothing may come from the CPU."""
        with self.tables_coming():
            call()
        return call()

    @contextmanager
    def answering(self, answer: int = 0) -> Iterator[None]:
        """Within it reads are noted and given a number, and what the host decides may be sent.

        It must be sent without being waited for. The reads of before are forgotten.
        """
        self.answers = answer
        self.reads.clear()
        try:
            yield
        finally:
            self.answers = None

    def note_read(self, what: str) -> None:
        """Notes a read of the host, or refuses it."""
        if self.answers is None:
            raise Refused(f"the host reads ({what})")
        self.reads[_place()] += 1


class _Guard(TorchDispatchMode):
    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        here = [value for value in given if self.device.is_here(value)]
        to = kwargs.get("device")
        if not here and (to is None or torch.device(to).type == "cpu"):
            with unset_fake_temporarily():  # the CPU is here
                return func(*args, **kwargs)
        if func is READ:
            self.device.note_read(str(func))
            return self.device.answers
        if func in COPIES:
            return self.copied(func, args, kwargs)
        self.check(func, args, given, here)
        return func(*args, **kwargs)

    def check(self, func, args, given, here) -> None:
        if func in INDEXED:
            # A mask that is filled with one number is no search for where it is true.
            filled = len(args) > 2 and args[2].device.type in ("cpu", "meta") and not args[2].ndim
            if any(_is_mask(index) for index in args[1]) and not filled:
                raise Refused(f"the host waits for where a mask is true, in {func}")
        elif DEPENDS & set(func.tags) or func is ERRORS_READ:
            raise Refused(f"the host waits for what {func} finds")
        others = [value for value in given if not self.device.is_here(value) and value.ndim]
        if here and others:
            raise Refused(f"{func} of tensors on {here[0].device} and {others[0].device}")

    def copied(self, func, args, kwargs):
        device = self.device
        if func is COPIES[0]:
            source, to = args[0], kwargs.get("device")
            here, there = (
                device.is_here(source),
                to is None or torch.device(to).type == device.type,
            )
            there = there if to is not None else here
            unwaited = kwargs.get("non_blocking", False)
        else:
            here, there = device.is_here(args[1]), device.is_here(args[0])
            unwaited = bool(args[2]) if len(args) > 2 else kwargs.get("non_blocking", False)
        if here and not there:
            device.note_read(f"a copy by {func}")
            with unset_fake_temporarily():
                if func is COPIES[1]:
                    return args[0].fill_(device.answers)
                dtype = kwargs.get("dtype") or args[0].dtype
                return torch.full(args[0].shape, device.answers, dtype=dtype)
        if (
            there
            and not here
            and not (device.tables_come or (device.answers is not None and unwaited))
        ):
            raise Refused(f"{func} of a tensor on the CPU to {device.type}")
        return func(*args, **kwargs)


class _FromPython(TorchFunctionMode):
    """Refuses tensors made on the device of Python's numbers."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = self.device
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and device.is_here(
            args[0]
        ):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in parts):
                raise Refused("a list of Python's is sent as an index")
        made = func(*args, **kwargs)
        if func in FROM_PYTHON and device.is_here(made) and not (device.tables_come):
            source = args[1] if func is torch.Tensor.new_tensor else args[0]
            if not device.is_here(source):
                raise Refused("numbers of Python's are sent, and waited for")
        return made


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _place() -> str:
    """The innermost function of the library on the stack."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(LIBRARY):
            return f"{path.relative_to(LIBRARY)} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


@contextmanager
def fake_device(kind: str) -> Iterator[FakeDevice]:
    """The device "cuda", or "meta", and the guard over it."""
    device = FakeDevice(kind)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(tensor_ops, "_KEPT", type(tensor_ops._KEPT)())
        tolist = torch.Tensor.tolist  # one read, though torch asks for number by number
        for tensors in (torch.Tensor, FakeTensor):
            patch.setattr(tensors, "tolist", lambda x: tolist(x.cpu() if device.is_here(x) else x))
        if kind == "cuda":
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_FromPython(device))
        stack.enter_context(_Guard(device))
        yield device


# ---- What is stepped and evaluated there ----

B, SHAPE = 3, (3, 8, 8)
LARGER = (3, 16, 16)  # which all networks can halve as often as they do
CONFIG = parts.as_config(
    {name: row.default for name, row in FIELDS.items()}
    | parts.DDPMPP
    | parts.COLOUR_DIGITS
    | parts.VP
    | parts.SMALL
    | {"device": "cpu", "model.nf": 32, "model.ch_mult": (1, 1), "model.num_scales": 12}
    | {"model.beta_max": 5.0, "sampling.s_churn": 5.0, "sampling.eta": 0.5}
)
MODEL = CONFIG.model.to_dict() | {"centered": True, "augment_dim": 0}


def sde_of(name):
    return SDES[name](MODEL)


def images(device, *shape):
    return torch.zeros(B, *(shape or SHAPE), device=device.type)


def times(device, value=0.5):
    return torch.full((B,), value, device=device.type)


def index(device):
    return torch.arange(B, device=device.type)


def score(x, t):
    """Of a standard normal, kept so by the SDE."""
    assert t.device == x.device
    assert t.shape == x.shape[:1]
    return -x


def no_noise(x):
    return lambda shape: torch.zeros_like(x)


def network(device, name="ddpm", moved=False, **fields):
    """A network, made on the device or moved to it."""
    make, fields = NETWORKS[name], MODEL | fields
    if not moved:
        with device.tables_coming(), torch.device(device.type):
            return make(fields, LARGER)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with device.tables_coming():
            return make(fields, LARGER).to(device.type)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def measurement_of(task, noise=0.1):
    config = CONFIG.copy_and_resolve_references()
    config.restore.task, config.restore.noise = task, noise
    return build_measurement(config, SHAPE)


def posterior(name, device, measurement):
    y = measurement.measured(measurement.forward(images(device)[:1]))
    made = POSTERIORS[name](lambda x, t: -x, VPSDE(), measurement, y)
    if hasattr(made, "max_iterations"):
        made.max_iterations = 2
    return made
