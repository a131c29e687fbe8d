"""Tensors that are sharded over processes (`torch.distributed.fsdp.fully_shard`), and their whole values.

Every function here is called by all processes together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


def is_sharded(tensor: object) -> bool:
    """Whether this is a DTensor: each process holds a part of it."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "device_mesh")


def has_shards(model: nn.Module) -> bool:
    return any(is_sharded(parameter) for parameter in model.parameters())


def gathered(state: Any) -> Any:
    """`state` (nested dicts, lists, tuples) with every sharded tensor whole, on the CPU; the rest is as it was."""
    return tree_map(lambda value: value.full_tensor().detach().cpu() if is_sharded(value) else value, state)


def sharded_like(value: Any, reference: Any) -> Any:
    """A whole tensor cut as `reference` is; anything else, and without a sharded reference, as it was."""
    if not is_sharded(reference) or not isinstance(value, Tensor) or value.shape != reference.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(reference.device), reference.device_mesh, reference.placements)


def load_gathered(model: nn.Module, state: Mapping[str, Any]) -> None:
    """`load_state_dict` of a whole state into a model that may be sharded."""
    own = model.state_dict()
    model.load_state_dict({key: sharded_like(value, own.get(key)) for key, value in state.items()})
