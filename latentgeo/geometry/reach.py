"""Modules that a callable leads to, and whether they are fit to be asked: nothing may be written to them."""

from __future__ import annotations

import collections
import dis
import functools
import itertools
import types
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

_MOST = 1000  # objects looked at, so that one that leads to everything costs little
_FOREIGN = {"torch", "numpy", "scipy"}  # whose functions lead to no model
_LEAVES = (str, bytes, int, float, complex, bool, type, types.ModuleType, Tensor, type(None))
_CONTAINERS = (dict, list, tuple, set, frozenset)


def owner_of(function: Callable) -> object:
    """The object that a bound method such as ``vae.decode`` belongs to, or the callable itself."""
    return getattr(function, "__self__", function)


@functools.lru_cache(maxsize=1024)
def _globals_in(code: types.CodeType) -> tuple[str, ...]:
    """Names that code, and functions made in it, read from their module."""
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _globals_in(part)]
    read = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    return tuple(dict.fromkeys([*read, *inner]))


def _behind_function(function: types.FunctionType) -> Iterator[object]:
    if function.__globals__.get("__name__", "").partition(".")[0] in _FOREIGN:
        return
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
    yield from (function.__globals__[name] for name in _globals_in(function.__code__) if name in function.__globals__)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if hasattr(function, "__wrapped__"):
        yield function.__wrapped__


def _behind(thing: object) -> Iterator[object]:
    """What a thing refers to: parts of containers, names in functions, attributes of objects."""
    if isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, types.FunctionType):
        yield from _behind_function(thing)
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, _CONTAINERS):
        yield from thing
    elif isinstance(thing, nn.Module):
        for module in thing.modules():
            own = type(module)
            if own.__module__.partition(".")[0] not in _FOREIGN:
                apart = getattr(own, "_apart", ())  # models that see to their modes themselves
                held = (value for name, value in vars(module).items() if name not in apart)
                yield from (value for value in held if callable(value) or isinstance(value, _CONTAINERS))
                yield own.forward
    else:
        if callable(thing):
            yield from (getattr(thing, "__self__", None), vars(type(thing)).get("__call__"))
        slots = getattr(type(thing), "__slots__", ())
        yield from (getattr(thing, name, None) for name in ([slots] if isinstance(slots, str) else slots))
        yield from getattr(thing, "__dict__", {}).values()


def modules_of(function: object) -> list[nn.Module]:
    """Modules that a callable is, belongs to, or leads to by names, arguments, containers and attributes.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> modules_of(lambda z: layer(z)) == modules_of(layer.forward) == modules_of({"f": [layer]}) == [layer]
        True
    """
    queue, seen, found, inside = collections.deque([function]), set(), [], set()
    while queue and len(seen) < _MOST:
        thing = queue.popleft()
        if id(thing) in seen or isinstance(thing, _LEAVES):
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            if id(thing) in inside:  # a submodule of one that was found
                continue
            found.append(thing)
            inside.update(map(id, thing.modules()))
        queue.extend(_behind(thing))
    return found


def parameter_in(*callables: object) -> Tensor | None:
    """A floating-point parameter or buffer that they lead to, which shows type and device; None where there is none."""
    for module in itertools.chain.from_iterable(map(modules_of, callables)):
        for parameter in itertools.chain(module.parameters(), module.buffers()):
            if parameter.is_floating_point():
                return parameter
    return None


def _layers(modules: list[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    for owner in modules:
        yield from owner.named_modules()


def _name(part: str, module: nn.Module) -> str:
    kind = getattr(module, "original_name", type(module).__name__)  # of a ScriptModule its class's
    return f"{f'layer {part!r}' if part else 'the module'} is a {kind}"


def _hooks(module: nn.Module) -> list[object]:
    return [*module.__dict__.get("_forward_pre_hooks", {}).values()]


def _fault(module: nn.Module) -> str | None:
    """What makes a module no function of its input, in its present mode."""
    script = getattr(module, "original_name", "")
    if isinstance(module, _BatchNorm) and module.running_mean is None and module.running_var is None:
        return (
            "without running statistics, so its rows depend on each other; give it some (track_running_stats=True) and "
            "train it"
        )
    if not module.training:
        return None
    remedy = "in training mode, so its output is not a function of its input; call .eval() on the model first"
    if isinstance(module, _DropoutNd | _BatchNorm | nn.RReLU) or script.startswith(("Dropout", "BatchNorm", "RReLU")):
        return remedy
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return remedy
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0:
        return remedy
    if isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in _hooks(module)):
        return remedy.replace("so its output is not a function of its input", "so every pass changes its buffers")
    return None


def check_modes(name: str, function: Callable) -> list[nn.Module]:
    """Refuse a callable whose rows depend on chance or on each other, before anything passes through it.

    One pass in training mode would already change the running means of batch normalisation.

    Args:
        name: what the caller calls the argument.
        function: a module, a method of one, or anything that leads to some, see :func:`modules_of`.

    Returns:
        The modules that it leads to.

    Raises:
        ValueError: a module in training mode has dropout, batch norm, spectral norm or the like; batch norm has no
            running statistics; or a lazy module has no parameters yet.
    """
    modules = modules_of(function)
    for part, module in _layers(modules):
        fault = _fault(module)
        if fault is not None:
            raise ValueError(f"{name}: {_name(part, module)} {fault}")
        if any(is_lazy(p) for p in module.__dict__.get("_parameters", {}).values() if p is not None):
            raise ValueError(
                f"{name}: {_name(part, module)} without parameters yet, which its first pass would make; pass a batch "
                "of data through the model first"
            )
    return modules


class Untouched:
    """A look at a callable's buffers, and at PyTorch's random numbers, that puts back what a pass has changed.

    Args:
        name: what the caller calls the argument.
        modules: those that it leads to.

    Raises:
        ValueError: on leaving, a buffer has changed.
    """

    def __init__(self, name: str, modules: list[nn.Module]) -> None:
        self.name, self.modules = name, modules

    def __enter__(self) -> Untouched:
        """Keep copies."""
        self._buffers = [
            (f"{part}.{name}" if part else name, module, name, buffer, buffer.clone())
            for part, module in _layers(self.modules)
            for name, buffer in module.named_buffers(recurse=False)
        ]
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Compare, and put back what has changed."""
        changed = []
        for path, module, name, buffer, copy in self._buffers:
            now = getattr(module, name, None)
            if now is buffer and _same(buffer, copy):
                continue
            changed.append(f"{path!r} of the {getattr(module, 'original_name', type(module).__name__)}")
            with torch.no_grad():
                buffer.data.copy_(copy)
            if now is not buffer:
                setattr(module, name, buffer)
        if changed and kind is None:
            raise ValueError(
                f"{self.name}: decoding changes the model's buffer {changed[0]}, so that its output depends on "
                "what was decoded before; call .eval() on the model first, or keep such counts out of its forward "
                "(what was changed has been put back)"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
