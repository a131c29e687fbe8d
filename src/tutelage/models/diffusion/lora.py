"""Copies of a network to be trained beside it: whole, or as low-rank changes on shared weights (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from tutelage.core.checks import check_integer, check_positive
from tutelage.core.errors import InputError
from tutelage.models.copying import copied
from tutelage.models.diffusion.extras import extra

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def full_copy(net: nn.Module) -> nn.Module:
    """A copy that shares nothing, every weight trainable: for small networks."""
    return copied(net).requires_grad_(True)


def lora_copy(net: nn.Module, *, rank: int = 64, scaling: float = 128.0, targets: Sequence[str] = ATTENTION) -> nn.Module:
    """A network that shares the weights of `net`, which stay frozen, and learns low-rank changes of its own.

    `net` itself never sees the changes, so it cannot be asked by mistake with the adapters on. rank, scaling: r and
    lora_alpha of peft; the change is scaling / rank x B A, and B starts at 0. targets: ends of names of linear layers.
    """
    check_integer("rank", rank)
    check_positive("scaling", scaling, "a number above 0")
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not any(name == one or name.endswith(f".{one}") for name in names for one in targets):
        raise InputError(
            "targets", tuple(targets), f"ends of names of linear layers, such as {', '.join(names[:3]) or 'none here'}"
        )
    peft = extra("peft", "lora_copy")
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    twin: nn.Module = copy.deepcopy(net, memo=dict(shared))
    config = peft.LoraConfig(r=rank, lora_alpha=scaling, target_modules=list(targets), lora_dropout=0.0, bias="none")
    flags = [(p, p.requires_grad) for p in net.parameters()]
    twin = peft.inject_adapter_in_model(config, twin)
    for parameter, flag in flags:  # peft freezes the weights it finds, and these are the net's own
        parameter.requires_grad_(flag)
    return twin


def adapter_parameters(net: nn.Module) -> list[nn.Parameter]:
    """What is learnt: LoRA's matrices where there are any, otherwise all that is not frozen."""
    own = [p for name, p in net.named_parameters() if "lora_" in name]
    return own or [p for p in net.parameters() if p.requires_grad]
