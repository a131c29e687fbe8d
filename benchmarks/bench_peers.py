"""PGD-20 with retirement against torchattacks and foolbox, on an adversarially trained model, at equal robust accuracy.

Ours, ours without retirement, and the peer get the same model, images, budget, step size, number of steps, kind of random
start, batches and threads, in one process and in turns; what is timed ends with knowing which images are broken. The peers
are used as their documentation says: `torchattacks.PGD(L2)`, `foolbox.attacks.LinfPGD / L2PGD` on a `PyTorchModel` with
bounds. The model's parameters need no gradients, which spares foolbox half of a backward pass: its best case. torchattacks has
no measure of success, so one forward pass of its results is part of its time.

Each peer has its own environment (benchmarks/peers.py); without it, its race is left out and says so.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from common import HERE, settings
from peers import missing, python_of

from tutelage.app.demo import ROBUST
from tutelage.claims.recipes import teacher
from tutelage.core.cache import Cache
from tutelage.core.progress import shown
from tutelage.core.rng import derive
from tutelage.data.sets import fashion_mnist_subset
from tutelage.models.loading import save_weights

PEERS = ("foolbox", "torchattacks")


def robust_model(quick: bool) -> torch.nn.Module:
    """The robust teacher of `tutelage demo` (SmallCNN(32), PGD adversarial training), from the same cache."""
    train, validation = fashion_mnist_subset("train").split_off(1500)
    recipe = ROBUST
    if quick:
        train, validation = train.take(slice(0, 256)), validation.take(slice(0, 50))
        recipe = replace(ROBUST, epochs=1, attack_steps=2)
    with shown() as progress:
        return teacher(recipe, train, validation, seed=derive(0, "robust"), cache=Cache.default(), progress=progress)


def main() -> None:
    how = settings(__doc__, ("--peer", {"choices": PEERS, "action": "append", "help": "only this peer; may be repeated"}))
    ready = []
    for peer in how.options.peer or PEERS:
        if reason := missing(peer):
            print(f"left out: {reason}", flush=True)
        else:
            ready.append(peer)
    if not ready:
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_weights(robust_model(how.quick), weights)
        for peer in ready:
            command = [str(python_of(peer)), str(HERE / "peer_race.py"), peer, str(weights)]
            command += ["--rounds", str(how.rounds), "--threads", str(torch.get_num_threads())]
            command += ["--quick"] if how.quick else []
            command += ["--results", str(how.results.resolve())] if how.results else []
            if code := subprocess.run(command, check=False).returncode:
                sys.exit(code)


if __name__ == "__main__":
    main()
