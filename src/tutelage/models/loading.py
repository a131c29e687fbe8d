"""A user's own model: a factory or an address as a string, weights from safetensors. No pickle is read."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import sha256_tensors, write_atomic
from tutelage.core.plugins import find_plugin
from tutelage.models.adapters import Wrapper
from tutelage.models.black_box import BlackBox, Gives
from tutelage.models.checks import wrapper_for
from tutelage.models.remote import Endpoint
from tutelage.models.sharding import gathered, load_gathered

# what holds, or may hold, pickles
PICKLES = (".joblib", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".skops", ".dill")


def is_address(factory: str) -> bool:
    """Whether it is the address of a prediction endpoint."""
    return factory.startswith(("http://", "https://"))


def load_model(factory: str, weights: Path | str | None = None, gives: str = "logits") -> nn.Module:
    """Call `factory` and load `weights` into what it returns; the model comes back in eval mode.

    factory: `package.module:function` (importable, or found from the current folder) or `path/to/file.py:function`;
        the function takes no arguments and returns an `nn.Module`. Or the address of a prediction endpoint,
        `http://127.0.0.1:8000/predict`, which has no weights (`models.remote.Endpoint`). Or the name of a model that a
        plug-in brings (`core.plugins`).
    weights: a `.safetensors` file with exactly the names and shapes of the model's state.
    gives: what an address answers, "logits" or "probabilities"; a factory says so itself.
    Raises InputError or MissingError before anything is computed.
    """
    if not isinstance(factory, str):
        raise InputError("model", type(factory).__name__, "a factory 'package.module:function' or 'file.py:function'")
    if gives not in ("logits", "probabilities"):
        wanted = "logits or probabilities; for labels a factory with Endpoint(url, gives='labels', classes=N)"
        raise InputError("gives", gives, wanted)
    if is_address(factory):
        if weights is not None:
            raise InputError("weights", str(weights), "none with an endpoint, which has its own")
        return Endpoint(factory, gives=cast(Gives, gives)).eval()
    if gives != "logits":
        wanted = "it with an address only: a net goes into LogProbabilities(model), and what only answers says gives= itself"
        raise InputError("gives", f"{gives} with {factory}", wanted)
    if factory.lower().endswith(PICKLES):
        wanted = (
            "a factory 'file.py:function', in which your own code loads it, as in `def build(): return "
            "from_sklearn(joblib.load(...))` (docs/models.md): loading a pickle can run anything, so it is not done here"
        )
        raise InputError("model", factory, wanted)
    target: object
    plugin = find_plugin("models", factory) if ":" not in factory else None
    module_name, _, attribute = factory.rpartition(":")
    if plugin is not None:
        target = plugin.load()
    elif not module_name or not attribute or (module_name.startswith(".") and not module_name.endswith(".py")):
        raise InputError("model", factory, "a factory 'package.module:function' or 'file.py:function'")
    else:
        target = _import(module_name)
        for part in attribute.split("."):
            if not hasattr(target, part):
                raise InputError("model", factory, f"a function that exists: {module_name!r} has no {attribute!r}")
            target = getattr(target, part)
    if isinstance(target, nn.Module):
        model = target
    elif callable(target):
        if needed := _required(target):
            raise InputError("model", f"{factory} with the argument {needed!r}", "a function that needs no arguments")
        try:
            model = target()
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise InputError(
                "model", f"{factory} raising {type(error).__name__}: {error}", "a function that returns"
            ) from error
    else:
        raise InputError("model", factory, "a function that returns an nn.Module")
    if not isinstance(model, nn.Module):
        raise InputError("model", f"{factory} returning {type(model).__name__}", f"an nn.Module{wrapper_for(model)}")
    if weights is not None:
        load_weights(model, Path(weights))
    return model.eval()


def _required(target: Callable[..., object]) -> str:
    """The name of the first argument that a call must give, or nothing."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # builtins do not always tell
        return ""
    open_ones = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return next((p.name for p in parameters if p.default is p.empty and p.kind in open_ones), "")


def _import(name: str) -> object:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise MissingError(f"model: there is no file {name}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        fresh = path.stem not in sys.modules
        sys.modules.setdefault(path.stem, module)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            if fresh:
                del sys.modules[path.stem]
            raise InputError("model", f"{name} raising {type(error).__name__}: {error}", "a file that can be run") from error
        return module
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError("model", name, f"a module that can be imported from here ({error})") from error
    except (Exception, SystemExit) as error:
        raise InputError("model", f"{name} raising {type(error).__name__}: {error}", "a module that can be imported") from error
    finally:
        sys.path.remove(here)


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a safetensors file; names, shapes, types and finiteness are checked before the model is touched.

    A tensor of another floating-point type is taken if its values are the same in the model's type (float16 in a float32
    model); one that would be rounded is refused. A file of the model inside a wrapper of `models.adapters` is taken too.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    if not isinstance(path, str | Path):
        raise InputError("weights", type(path).__name__, "the path of a .safetensors file")
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"weights: there is no file {path}")
    if path.suffix != ".safetensors":
        raise InputError("weights", path.name, "a .safetensors file (pickled checkpoints can run code; convert them once)")
    try:
        given = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError("weights", path.name, f"a readable safetensors file ({error})") from error
    own = model.state_dict()
    while isinstance(model, Wrapper) and given.keys() != own.keys():  # saved before the model was wrapped
        model = model.model
        own = model.state_dict()
    if missing := sorted(own.keys() - given.keys()):
        raise InputError("weights", f"{path.name} without {missing[0]!r} ({len(missing)} missing)", "every tensor of the model")
    if extra := sorted(given.keys() - own.keys()):
        raise InputError("weights", f"{path.name} with {extra[0]!r} ({len(extra)} unknown)", "only tensors of the model")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise InputError("weights", f"{name!r} of shape {tuple(tensor.shape)}", f"shape {tuple(own[name].shape)}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError("weights", f"{name!r} with NaN or infinity", "finite numbers")
        if not _same_in(tensor, own[name].dtype):
            kinds = [str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, own[name].dtype)]
            wanted = f"values that {kinds[1]} can hold: save the weights in the model's type, or convert the model to theirs"
            raise InputError("weights", f"{name!r} in {kinds[0]} for a {kinds[1]} model", wanted)
    load_gathered(model, given)


def _same_in(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether no value changes in `dtype`. Whole numbers and floating-point ones are not taken for each other."""
    if tensor.dtype == dtype:
        return True
    if not (tensor.is_floating_point() and dtype.is_floating_point):
        both_whole = not (tensor.is_floating_point() or tensor.is_complex() or dtype.is_floating_point or dtype.is_complex)
        if not both_whole or torch.bool in (tensor.dtype, dtype):
            return False
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write a model's state as safetensors, whole or not at all. Tensors that share memory are written each.

    A model that is sharded over processes is gathered first: then all of them call this.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in gathered(dict(model.state_dict())).items()}
    write_atomic(Path(path), save(state))


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's state: names, shapes, dtypes and values; where it only answers, what it says of itself."""
    state = gathered(dict(model.state_dict()))
    for name, module in model.named_modules():
        if isinstance(module, BlackBox):
            state[f"{name} identity"] = torch.tensor(list(module.identity().encode()), dtype=torch.uint8)
    return sha256_tensors(state)
