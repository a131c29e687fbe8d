"""A copy of any model that shares nothing with it."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from tutelage.core.errors import InputError


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of `model`, modes and gradient flags included; the model itself is not touched.

    What a hook computed in the last pass and left on a module (`weight` of `torch.nn.utils.weight_norm`) belongs to a graph
    and cannot be copied; it is copied without its graph, as the next pass computes it again.
    Raises InputError for what is no nn.Module, and for a model that cannot be copied, with the reason.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise InputError("model", "weights on the meta device, which holds no numbers", "a model whose weights are loaded")
    computed = [
        (vars(module), name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    try:
        for place, name, value in computed:
            place[name] = value.detach()
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InputError("model", f"a model that cannot be copied: {error}", "one that copy.deepcopy takes") from error
    finally:
        for place, name, value in computed:
            place[name] = value
