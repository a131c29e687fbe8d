"""Common corruptions against imagecorruptions 1.1.2, side by side: seconds a batch, and how close the deterministic ones are.

Needs the peer's environment: python benchmarks/peers.py imagecorruptions. Both sides get the same 8-bit images and the
ImageNet-C constants, the only ones that the peer has. It makes one image a call, from and to 8-bit arrays; ours gets a float
batch. The numbers that count are wanted >= 5 for speed-up = peer / ours on the seven named ones, >= 0.5 on all others.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from pathlib import Path

from common import Outcome, race, report, settings

NAMED = ("zoom_blur", "frost", "snow", "fog", "brightness", "elastic_transform", "glass_blur")
CLOSE = ("brightness", "contrast", "pixelate", "saturate", "jpeg_compression", "defocus_blur", "zoom_blur", "gaussian_blur")


def peer_module():
    """The peer, with what newer numpy and scikit-image have taken from it put back: np.float_ and `multichannel`."""
    import numpy as np

    np.float_ = np.float64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import imagecorruptions
        from imagecorruptions import corruptions
    smooth = corruptions.gaussian
    if "multichannel" not in smooth.__code__.co_varnames:

        def gaussian(image, sigma, multichannel=False, **how):
            return smooth(image, sigma, channel_axis=-1 if multichannel else None, **how)

        corruptions.gaussian = gaussian
    return imagecorruptions


def pictures(size: int, n: int):
    """n smooth colour images with edges, 8 bits, (n, size, size, 3): discs and gradients, made from seeds."""
    import numpy as np

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    images = np.empty((n, size, size, 3))
    for image in images:
        image[:] = (
            rng.uniform(0.2, 0.8, 3) + (rng.uniform(-0.3, 0.3, 3) * x[..., None]) + (rng.uniform(-0.3, 0.3, 3) * y[..., None])
        )
        for _ in range(12):
            inside = (x - rng.uniform()) ** 2 + (y - rng.uniform()) ** 2 < rng.uniform(0.03, 0.25) ** 2
            image[inside] = rng.uniform(0, 1, 3)
    return (images.clip(0, 1) * 255).round().astype(np.uint8)


def main() -> None:
    here = Path(__file__).resolve().parent
    wanted = here / ".venvs" / "imagecorruptions" / "bin" / "python"
    if Path(sys.executable).absolute() != wanted:
        if not wanted.exists():
            print("left out: the environment of imagecorruptions is not there (python benchmarks/peers.py imagecorruptions)")
            return
        os.execv(wanted, [str(wanted), *sys.argv])
    how = settings(
        __doc__,
        ("--sizes", {"type": int, "nargs": "+", "default": [32, 224]}),
        ("--names", {"nargs": "+", "default": []}),
        ("--batch", {"type": int, "default": 0, "help": "images; 0: 64 below 112 px, 8 above"}),
        ("--severity", {"type": int, "default": 3}),
    )
    import numpy as np
    import torch

    from tutelage.core.memory import keep_memory
    from tutelage.threats.corruptions import NAMES, corrupt, frost_source

    keep_memory()
    peer = peer_module()
    severity = how.options.severity
    for size in how.options.sizes:
        n = 4 if how.quick else how.options.batch or (64 if size < 112 else 8)
        images = pictures(size, n)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
        for name in how.options.names or NAMES:

            def ours(name: str = name, x: torch.Tensor = x) -> torch.Tensor:
                return corrupt(x, name, severity, seeds=range(len(x)), constants="imagenet-c")

            def theirs(name: str = name, images: np.ndarray = images) -> np.ndarray:
                with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return np.stack([peer.corrupt(image, corruption_name=name, severity=severity) for image in images])

            notes = {"batch": n, "severity": severity}
            if name == "frost":
                notes["textures"] = frost_source()
            try:
                found = theirs()
            except Exception as error:  # a peer of 2019 on libraries of today: what stops it is a result
                print(f"{name} at {size}: the peer does not run: {type(error).__name__}: {error}", flush=True)
                continue
            if name in CLOSE:
                mine = ours().mul(255).floor().permute(0, 2, 3, 1).numpy()
                off = np.abs(mine - found)
                inner = off[:, 2:-2, 2:-2]
                notes |= {"mean levels off": float(off.mean()), "most levels off": float(off.max())}
                notes |= {"share more than 1 level off": float((off > 1).mean()), "most, border left out": float(inner.max())}
            rounds = [[one["ours"], one["peer"]] for one in race({"ours": ours, "peer": theirs}, how.rounds)]
            report(
                Outcome(
                    name=f"corruptions, {name}, {size} px",
                    group="corruptions",
                    ours="tutelage.threats.corruptions.corrupt",
                    peer="imagecorruptions 1.1.2",
                    rounds=rounds,
                    wanted=f"<= {1 / 5 if name in NAMED else 2:g}",
                    notes=notes,
                ),
                how,
            )


if __name__ == "__main__":
    main()
