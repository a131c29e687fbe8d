"""The processes of one training: what each of them computes, and how they stay one training.

The loader's batch is the batch of a step, however many processes there are: each computes its share of the rows, and
gradients, losses and what an objective asks for with `ctx.batch_mean` are means over the whole batch. So the number of
processes changes nothing but the time, up to float error, for losses that are means over samples and nets without
BatchNorm. With one process everything here is the identity.
"""

from __future__ import annotations

import atexit
import itertools
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from tutelage.core.errors import InputError, TutelageError
from tutelage.core.rng import derive, rng_state, set_rng_state
from tutelage.core.shares import Share, share_of, sharing
from tutelage.models.sharding import has_shards

if TYPE_CHECKING:
    from accelerate import Accelerator

Step = Callable[[Any, Any], tuple[Tensor, Mapping[str, Tensor | float]]]


@atexit.register
def _leave() -> None:
    """Leaves a group of gloo, whose threads may abort a process that ends before them. NCCL would wait for the others here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def launched() -> int:
    """How many processes torchrun, or what else set WORLD_SIZE, has launched."""
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise InputError("WORLD_SIZE", text, "the number of processes, as torchrun sets it")
    return int(text)


def accelerator_of(given: Accelerator | None) -> Accelerator:
    """The user's Accelerator or a new one; InputError unless it has all processes that were launched."""
    from accelerate import Accelerator
    from accelerate.state import PartialState

    world = launched()
    if given is None and world > 1 and not PartialState._shared_state and "RANK" not in os.environ:
        raise InputError("WORLD_SIZE", f"{world} without RANK", "processes that torchrun started, or no WORLD_SIZE")
    if given is None:
        # without a GPU, Accelerate joins the other processes only if it is told to use the CPU
        on_cpu = world > 1 and not PartialState._shared_state and not torch.accelerator.is_available()
        given = Accelerator(cpu=on_cpu)
    if given.num_processes != world:
        wanted = f"the {world} that were launched" + (" (Accelerator(cpu=True) on CPUs)" if world > 1 else "")
        raise InputError("accelerator", f"{given.num_processes} processes", wanted)
    return given


class Processes:
    """This process among those of one training."""

    def __init__(self, accelerator: Accelerator, seed: int) -> None:
        self.accelerator, self.seed = accelerator, seed
        self.count, self.rank = int(accelerator.num_processes), int(accelerator.process_index)
        self.share: Share | None = None  # of the batch that was handed out last
        self.common: dict[str, Any] | None = None  # the global generators' state that all processes share
        self.network: nn.Module | None = None
        self.device = accelerator.device
        self._plain_backward = (
            self.count == 1
            and accelerator.scaler is None
            and str(accelerator.distributed_type.value) == "NO"
            and _is_own(type(accelerator))
        )

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    # what is computed

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """On the device, in the precision and, with a sharding Accelerator, in the shards that were asked for."""
        if self.count == 1 or str(self.accelerator.distributed_type.value) in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            model, optimizer = self.accelerator.prepare(model, optimizer)
            return model, optimizer
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # set by its plugin, which Accelerate leaves out on CPUs
            raise InputError(
                "accelerator", "a sharding plugin without effect here", "GPUs, or a model that fully_shard has cut"
            )
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise InputError("model", "a DistributedDataParallel", "the module itself, which fit makes parallel")
        # evaluation mode: no DistributedDataParallel around the model; see `parallel`
        return self.accelerator.prepare_model(model, evaluation_mode=True), self.accelerator.prepare_optimizer(optimizer)

    def parallel(self, model: nn.Module, objective: Any) -> Step:
        """(batch, ctx) -> what the objective says, with gradients that are averaged over the processes in `backward`.

        DistributedDataParallel counts one forward pass a step and hides the model's attributes. An objective may call
        the model as often as it needs (an attack does), so the whole objective is what is wrapped.
        """
        if self.count == 1 or has_shards(model) or hasattr(model, "no_sync"):  # fully_shard reduces by itself
            return lambda batch, ctx: objective(model, batch, ctx)
        handler = self.accelerator.ddp_handler
        options = handler.to_kwargs() if handler is not None else {}
        self.network = nn.parallel.DistributedDataParallel(_Whole(model, objective), **options)
        if handler is not None:
            handler.register_comm_hook(self.network)
        return self.network

    def unsynchronised(self, model: nn.Module) -> AbstractContextManager[Any]:
        """For a backward pass after which no step is taken: gradients stay where they are."""
        network = self.network
        if isinstance(network, nn.parallel.DistributedDataParallel):
            return network.no_sync()
        return self.accelerator.no_sync(model) if self.count == 1 or not has_shards(model) else nullcontext()

    def sharing(self) -> AbstractContextManager[None]:
        return sharing(self.share) if self.share is not None else nullcontext()

    def weighted(self, loss: Tensor) -> Tensor:
        """The loss whose gradient's mean over the processes is that of the whole batch."""
        return loss if self.share is None or self.share.weight == 1 else loss * self.share.weight

    def backward(self, loss: Tensor) -> None:
        """Accelerate's backward pass, without its division where that is by 1 and nothing else is to be done."""
        if self._plain_backward and self.accelerator.gradient_accumulation_steps == 1:
            torch.autograd.backward(loss)
        else:
            self.accelerator.backward(loss)

    # data and randomness

    def moved(self, batch: Any) -> Any:
        """The batch on this process's device."""
        if type(batch) in (tuple, list) and all(type(part) is Tensor and part.device == self.device for part in batch):
            return batch
        from accelerate.utils import send_to_device

        return send_to_device(batch, self.device)

    def augmented(self, augment: Callable[[Tensor, torch.Generator], Tensor], x: Tensor, noise: torch.Generator) -> Tensor:
        """Rows x as `augment` makes them in the whole batch: it draws for all rows, here of which only x are real."""
        share = self.share
        if share is None or len(x) == share.whole:
            return augment(x, noise)
        whole = x.new_zeros((share.whole, *x.shape[1:]))
        whole[share.start : share.stop] = x
        return augment(whole, noise)[share.start : share.stop]

    def split(self, loader: Any) -> Any:
        """A loader that gives this process its rows of each batch; its length is the number of whole batches."""
        if self.count == 1:
            return loader
        if type(loader).__module__.startswith("accelerate."):
            raise InputError("loader", type(loader).__name__, "the DataLoader itself, whose batches fit splits")
        return _Split(loader, self)

    def batches(self, loader: Any, epoch: int) -> Iterator[Any]:
        """The batches of one epoch.

        The order of the data is drawn from global generators that are equal everywhere. After the first batch every
        process has its own (dropout must not repeat itself), seeded anew for each batch, so that nothing needs to be
        saved of them; `rejoin` gives the common ones back.
        """
        if self.count == 1:
            yield from _begun(loader)
            return
        iterator = iter(loader)
        for index in itertools.count():  # to the very end: a sampler may draw once more after its last batch
            if index:
                self._own_generators(epoch, index)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if not index:
                self.common = rng_state()
                self._own_generators(epoch, index)
            yield batch

    def rejoin(self) -> None:
        """The global generators as all processes have them."""
        if self.common is not None:
            set_rng_state(self.common)
            self.common = None

    def _own_generators(self, epoch: int, index: int) -> None:
        value = derive(self.seed, "process", self.rank, epoch, index)
        torch.manual_seed(value)
        np.random.seed(value % 2**32)
        random.seed(value)

    # agreement

    def batch_mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Means over this process's rows -> means over the whole batch, equal on all processes."""
        if self.count == 1 or not values:
            return dict(values)
        weight = (self.share.weight if self.share is not None else 1.0) / self.count
        # a process whose row does not count must not spoil the mean with a NaN
        mine = [float(value) * weight if weight else 0.0 for value in values.values()]
        total = self._sum(mine)
        return dict(zip(values, total, strict=True))

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return flag if self.count == 1 else self._sum([float(flag)])[0] > 0

    def _sum(self, values: list[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        return [float(value) for value in self.accelerator.reduce(tensor, "sum")]

    def from_main(self, compute: Callable[[], Any]) -> Any:
        """What the main process computes, or the error that it meets, on all processes."""
        if self.count == 1:
            return compute()
        from accelerate.utils import broadcast_object_list

        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = compute()
            except (TutelageError, OSError) as error:
                answer[1] = error
        broadcast_object_list(answer, from_process=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    @torch.no_grad()
    def same_buffers(self, model: nn.Module) -> None:
        """The main process's buffers everywhere: running statistics have seen other rows on each process."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer.detach().clone(), from_process=0))

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


def _is_own(kind: type[Any]) -> bool:
    """Whether this is Accelerate's own class, or one that leaves its backward pass as it is."""
    from accelerate import Accelerator

    return getattr(kind, "backward", None) is Accelerator.backward


class _Whole(nn.Module):
    """Model and objective as one module, so that DistributedDataParallel sees one forward pass a step."""

    def __init__(self, model: nn.Module, objective: Any) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Any, ctx: Any) -> Any:
        return self.objective(self.model, batch, ctx)


class _Split:
    """See `Processes.split`. Rows are picked before they are read where the loader's batches are lists of indices."""

    def __init__(self, loader: Any, processes: Processes) -> None:
        self.processes, self.length = processes, len(loader)
        self.shares: deque[Share] = deque()
        batches = _index_batches(loader)
        self.inner = loader if batches is None else _with_batches(loader, _Picked(batches, processes, self.shares))
        self.picked = batches is not None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        self.shares.clear()
        for batch in _begun(self.inner):
            if self.picked:
                self.processes.share = self.shares.popleft()
                yield batch
            else:
                from accelerate.utils import find_batch_size

                whole = find_batch_size(batch)
                if whole is None:
                    raise InputError("loader", f"batches of {type(batch).__name__}", "batches that hold tensors (B, ...)")
                self.processes.share = share = share_of(whole, self.processes.rank, self.processes.count)
                yield tree_map(lambda part, share=share: _rows(part, share), batch)


class _Picked:
    """A batch sampler: this process's part of each batch of indices. `shares` gets what the batches are parts of."""

    def __init__(self, batches: Any, processes: Processes, shares: deque[Share]) -> None:
        self.batches, self.processes, self.shares = batches, processes, shares

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            share = share_of(len(batch), self.processes.rank, self.processes.count)
            self.shares.append(share)
            yield batch[share.start : share.stop]


def _begun(loader: Any) -> Iterator[Any]:
    """`iter(loader)`, drawing the same from the generator of its order whether or not its workers persist.

    Persistent workers keep the seed that other loaders draw anew for each epoch; the order of the next epoch would then
    depend on which process began, so that no training with them could be resumed.
    """
    if isinstance(loader, DataLoader) and loader.persistent_workers and loader._iterator is not None:
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
    return iter(loader)


def _index_batches(loader: Any) -> Any:
    """The batches of indices that a DataLoader reads by, or None if it has none."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is not None:
        return loader.batch_sampler
    return loader.sampler if isinstance(loader.sampler, BatchSampler) else None


def _with_batches(loader: DataLoader[Any], batches: _Picked) -> DataLoader[Any]:
    """The same loader over other batches of indices."""
    options: dict[str, Any] = {
        name: getattr(loader, name)
        for name in (
            "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
            "generator", "persistent_workers",
        )
    }  # fmt: skip
    if loader.num_workers:
        options["prefetch_factor"] = loader.prefetch_factor
    if loader.batch_sampler is None:
        return DataLoader(loader.dataset, sampler=batches, batch_size=None, **options)
    return DataLoader(loader.dataset, batch_sampler=batches, **options)


def _rows(part: Any, share: Share) -> Any:
    whole = isinstance(part, Tensor) and part.dim() > 0 and len(part) == share.whole
    return part[share.start : share.stop] if whole else part


__all__ = ["Processes", "accelerator_of", "launched"]
