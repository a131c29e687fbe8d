"""What a result was made with: versions, platform, threads, commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("tutelage", "torch", "numpy", "scipy", "scikit-learn", "accelerate", "safetensors", "pyarrow", "pillow")


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment(device: str = "cpu") -> dict[str, Any]:
    """Python, platform, device, threads and package versions, as JSON."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "packages": {package: installed_version(package) for package in PACKAGES},
    }


@cache
def git_state() -> tuple[str, bool]:
    """(commit, dirty) of the checkout this package is imported from; ("", False) if it is none."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "", False
