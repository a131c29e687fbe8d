"""Environments of the peers: benchmarks/.venvs/<peer>, one for each requirements file in benchmarks/peers/.

    python benchmarks/peers.py [peer ...]

The race runs in one process, so that a slow moment of the machine hits both sides; ours and the peer must then stand on the
same torch. So a peer's environment has only the peer and its small needs, at pinned versions and with --no-deps; everything
else (torch, numpy, scipy, tutelage itself) is found in the environment that runs this script, through a .pth file. What is
installed here comes first on the path, and the main environment is never changed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = tuple(sorted(path.stem for path in (HERE / "peers").glob("*.txt")))


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, whether it is there or not."""
    return HERE / ".venvs" / peer / "bin" / "python"


def missing(peer: str) -> str:
    """Why a race against `peer` cannot be run now; empty if it can."""
    if not _mark(peer).exists() or _mark(peer).read_text() != _state(peer):
        return f"the environment of {peer} is not there or out of date: python benchmarks/peers.py {peer}"
    return ""


def make(peer: str) -> None:
    """Create or renew the environment of one peer. Raises CalledProcessError when pip fails; nothing half-made counts."""
    folder = python_of(peer).parents[1]
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    requirements = ["--no-deps", "-r", str(_requirements(peer))]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python_of(peer))]
    subprocess.run([*pip, "install", "-q", *requirements], check=True)
    main, own = sysconfig.get_path("purelib"), folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    # addsitedir, and not the bare path: it also reads the main environment's own .pth files, such as tutelage's editable one
    (own / "site-packages" / "main-environment.pth").write_text(f"import site; site.addsitedir({main!r})\n")
    check = f"import sys; sys.path.append({str(HERE)!r}); import stand_ins, {peer}, torch, tutelage"
    subprocess.run([str(python_of(peer)), "-c", check], check=True)
    _mark(peer).write_text(_state(peer))


def inside(peer: str) -> bool:
    """Whether this process runs in the environment of a peer."""
    return Path(sys.executable).absolute() == python_of(peer)


def race_in(peer: str, *arguments: str) -> None:
    """Run this script again in the environment of a peer, or say that it is left out. A race that fails ends this one too."""
    if reason := missing(peer):
        print(f"left out: {reason}", flush=True)
    elif code := subprocess.run([str(python_of(peer)), *sys.argv, *arguments], check=False).returncode:
        sys.exit(code)


def _requirements(peer: str) -> Path:
    return HERE / "peers" / f"{peer}.txt"


def _mark(peer: str) -> Path:
    """Written last: what the environment was made from."""
    return python_of(peer).parents[1] / "made-from"


def _state(peer: str) -> str:
    text = f"{_requirements(peer).read_text()}\n{Path(__file__).read_text()}\n{sys.version}\n{sys.prefix}\n"
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    wanted = sys.argv[1:] or PEERS
    if unknown := [peer for peer in wanted if peer not in PEERS]:
        sys.exit(f"unknown peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    failed = []
    for peer in wanted:
        if missing(peer):
            print(f"making the environment of {peer}", flush=True)
            try:
                make(peer)
            except subprocess.CalledProcessError as error:
                failed.append(f"the environment of {peer} could not be made: {error}")
        else:
            print(f"the environment of {peer} is up to date")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
