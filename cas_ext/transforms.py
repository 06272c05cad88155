"""What makes an autograd.Function cheap to call, and known to torch.func, forward-mode AD and torch.compile.

A `@transformable` function defines forward, setup_context, backward and, beside what PyTorch asks for, `push`: the forward-mode
derivative. It stands in `push` and not in `jvp` because torch.compile refuses a class that has a `jvp`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

AnyFunction = TypeVar("AnyFunction", bound=type[torch.autograd.Function])

# Function.apply inspects the signature of forward at every call, which costs more than a small loss. Outside of torch.func
# nothing needs it. These two are internals of PyTorch: where one is missing, Function.apply itself is called.
_in_transform = getattr(torch._C, "_are_functorch_transforms_active", None)
_unwrap_if_dead = getattr(getattr(torch._C, "_functorch", None), "unwrap_if_dead", None)
_DIRECT = _in_transform is not None and _unwrap_if_dead is not None
_NO_DUAL_LEVEL = -1


def call(function: Any, *arguments: Any) -> Any:
    """`function.apply`."""
    # An exported graph has no autograd functions, but operators (exported.py). torch.compiler.is_exporting() says True in
    # every graph that PyTorch 2.11 compiles, so the flag itself is read; where it is missing, such a graph cannot be trained.
    if getattr(torch.compiler, "_is_exporting_flag", False):
        return function.forward(*arguments)
    if torch.compiler.is_compiling():
        return function.apply(*arguments)
    if not _DIRECT or _in_transform():  # type: ignore[misc]
        return function.eager.apply(*arguments)
    unwrapped = [_unwrap_if_dead(a) if isinstance(a, Tensor) else a for a in arguments]  # type: ignore[misc]
    if not torch.is_grad_enabled() and _nobody_watches():
        return function.forward(*unwrapped)  # inference, or a backward that nothing differentiates
    return super(torch.autograd.Function, function.eager).apply(*unwrapped)


def _nobody_watches() -> bool:
    """Neither forward-mode AD, nor a trace, which is to be the same with gradients and without."""
    return getattr(forward_ad, "_current_level", None) == _NO_DUAL_LEVEL and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def transformable(function: AnyFunction) -> AnyFunction:
    """Gives the class an `eager` twin with a `jvp`, and a `vmap` if it has none (all its tensors then begin with images)."""
    if function.vmap is torch.autograd.Function.vmap:
        function.vmap = staticmethod(_vmap_over_images(function))  # type: ignore[method-assign]
    members = {
        "jvp": staticmethod(_jvp_by(function.push)),  # type: ignore[attr-defined]
        "__module__": function.__module__,
        "__doc__": function.__doc__,
    }
    function.eager = type(function.__name__, (function,), members)  # type: ignore[attr-defined]
    return function


def _jvp_by(push: Any) -> Any:
    def jvp(ctx: Any, *tangents: Any) -> Any:
        levels = torch._C._functorch.get_interpreter_stack() or ()
        if sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels) > 1:
            # PyTorch computes this function with forward mode off: the outer derivative would be 0.
            raise RuntimeError(
                "cas_ext: forward-mode AD over forward-mode AD is not supported by autograd functions; let one of the two be "
                "in reverse mode, as in torch.func.hessian or jacrev(jacfwd(f))"
            )
        return push(ctx, *tangents)

    return jvp


def save(ctx: Any, *tensors: Tensor) -> None:
    """Saves tensors for `backward` and `push`."""
    ctx.save_for_backward(*tensors)
    if not torch.compiler.is_compiling():
        ctx.save_for_forward(*tensors)


def fold(size: int, dims: tuple[Any, ...], *tensors: Tensor) -> tuple[int, list[Tensor]]:
    """Tensors (B, ...) with a vmapped dimension of `size`, or without one (None), as (size * B, ...); also B."""
    batched = [
        tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, dims, strict=False)
    ]
    return batched[0].shape[1], [tensor.flatten(0, 1) for tensor in batched]


def unfold(size: int, images: int, tensor: Tensor) -> Tensor:
    """(size * images, ...) as (size, images, ...)."""
    return tensor.view(size, images, *tensor.shape[1:])


def _vmap_over_images(function: type[torch.autograd.Function]) -> Any:
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size
        tensors = [a for a in arguments if isinstance(a, Tensor)]  # they come before the options
        images, folded = fold(size, in_dims, *tensors)
        results = call(function, *folded, *arguments[len(tensors) :])
        if isinstance(results, Tensor):
            return unfold(size, images, results), 0
        return tuple(unfold(size, images, result) for result in results), (0,) * len(results)

    return vmap
