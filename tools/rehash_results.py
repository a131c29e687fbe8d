"""Give recorded results the hash of their own code anew, after the way in which code is hashed has changed.

    python tools/rehash_results.py [--check]

For each of src/tutelage/results/*.json the commit that made it is unpacked. If its own hash of the claim's code is the one that
the result has, the result gets what today's `codehash` says of that same code; else it is left as it is. Whether a result is
stale is then decided as before: by comparing with the code of now.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HASHERS = ("codehash", "parts", "refusals")
ASK = "import sys; from tutelage.claims.codehash import code_sha256; print(code_sha256(sys.argv[1]))"


def unpacked(commit: str, folder: Path) -> Path:
    if not folder.exists():
        folder.mkdir(parents=True)
        packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder / "src"


def asked(source: Path, module: str, cache: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(source), "TUTELAGE_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", ASK, module], capture_output=True, text=True, env=environment)
    return done.stdout.strip()


def main() -> None:
    from tutelage.catalogue.loader import find

    with tempfile.TemporaryDirectory() as place:
        for file in sorted((ROOT / "src" / "tutelage" / "results").glob("*.json")):
            result = json.loads(file.read_text(encoding="utf-8"))
            module = find(result["slug"]).claim_module
            source = unpacked(result["commit"], Path(place) / result["commit"])
            own = source / "tutelage" / "claims"
            before = {name: (own / f"{name}.py").read_text() for name in HASHERS if (own / f"{name}.py").exists()}
            if asked(source, module, Path(place) / "cache") != result["code_sha256"]:
                print(f"{file.name}: left, its commit {result['commit'][:10]} does not have the code it was made with")
                continue
            for name in HASHERS:
                (own / f"{name}.py").write_text((ROOT / "src" / "tutelage" / "claims" / f"{name}.py").read_text())
            new = asked(source, module, Path(place) / "cache-now")
            for name in HASHERS:
                (own / f"{name}.py").unlink()
            for name, text in before.items():
                (own / f"{name}.py").write_text(text)
            if not new:
                sys.exit(f"{file.name}: today's codehash cannot read the code of {result['commit'][:10]}")
            print(f"{file.name}: {result['code_sha256'][:10]} is now {new[:10]}")
            if "--check" not in sys.argv:
                text = file.read_text(encoding="utf-8")
                assert text.count(result["code_sha256"]) == 1
                file.write_text(text.replace(result["code_sha256"], new), encoding="utf-8")


if __name__ == "__main__":
    main()
