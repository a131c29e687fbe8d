"""Every snippet of the docs is run by a test: here those of the pages that have no test file of their own.

Pages of systems: `test_contract.py`. What is only checked (`test_docs_snippets.py`) stands in `ONLY_CHECKED`, with the reason.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tutelage
from tutelage.app.cli import run
from tutelage.models.loading import save_weights

BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", flags=re.S | re.M)

# page -> the test file that runs its blocks
RUN_IN = {
    "README.md": "test_docs_run.py",
    "docs/attacks.md": "threats/test_attacks_page.py",
    "docs/building-blocks.md": "test_building_blocks.py",
    "docs/compare.md": "app/test_compare_commands.py",
    "docs/corruptions.md": "threats/test_corruptions.py",
    "docs/data.md": "app/test_data_commands.py",
    "docs/emoji.md": "data/test_emoji.py",
    "docs/first-use.md": "app/test_init.py",
    "docs/flags/README.md": "test_docs_run.py",
    "docs/gate.md": "app/test_gate_commands.py",
    "docs/language.md": "models/language/test_language_page.py",
    "docs/models.md": "models/test_models_page.py",
    "docs/plugins.md": "app/test_plugins.py",
    "docs/quickstart.md": "test_docs.py",
    "docs/reliability.md": "auditing/test_state.py",
    "docs/sandbox.md": "core/test_sandbox.py",
    "docs/scale-out.md": "teaching/test_processes.py",
    "docs/site.md": "app/test_site.py",
    "docs/worlds.md": "data/test_language_worlds.py",
    "examples/tutelage-plugin-example/README.md": "app/test_plugins.py",
}
# page -> how its lines begin that no test runs as they stand -> why
ONLY_CHECKED = {
    "README.md": {"make ": "`make test` is what runs this test, and `tests/app/test_cli.py` runs the demo"},
    "docs/data.md": {"tutelage data get": "it fetches; `tests/app/test_data_commands.py` has a host of its own"},
    "docs/emoji.md": {"pip ": "a renderer that is in no extra", "python tools/build_emoji.py": "needs that renderer"},
    "docs/first-use.md": {"python3 -m venv": "a new environment", "pip ": "a new environment"},
    "docs/language.md": {"notest": "weights that have to be fetched"},
    "docs/plugins.md": {"pip ": "`tests/app/test_plugins.py` installs the package in its own way"},
    "examples/tutelage-plugin-example/README.md": {"pip ": "`tests/app/test_plugins.py` installs the package in its own way"},
    "docs/reliability.md": {"python tools/campaign": "minutes; `tests/soak/test_campaign.py` runs parts of it"},
    "docs/scale-out.md": {
        "torchrun --nnodes 2": "two machines",
        "pip ": "a new environment",
        "RAY_ADDRESS": "a cluster; `tests/core/test_on_ray.py` has a local one",
        "tutelage run mtard --scale claim": "hours; `tests/claims` runs claims in small",
        "tutelage sweep": "minutes to hours; `tests/claims/test_sweep.py` runs sweeps in small",
        "tutelage report": "the page of a sweep of minutes",
        "tutelage audit my_net.py:build": "64 workers; `tests/auditing/test_shards.py` has two",
        "torchrun --nproc_per_node 2": "`tests/teaching/test_processes.py` runs the same two scripts in two processes",
        "python train.py": "`tests/teaching/test_processes.py` runs it in two processes",
    },
}  # fmt: skip


def pages(root: Path) -> dict[str, str]:
    """Every page but those of systems, by its place."""
    found = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")]
    places = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in found}
    return {place: text for place, text in places.items() if not place.startswith("docs/systems/")}


def shell_lines(text: str) -> list[str]:
    lines = [
        line.split(" #")[0].strip()
        for language, _, code in BLOCK.findall(text)
        if language in ("sh", "text", "")
        for line in code.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if re.match(r"(\w+=\S+ )?(tutelage|python3?|pip|make|torchrun) ", line)]


def test_every_page_with_code_has_a_test_that_runs_it(root: Path):
    for place, text in pages(root).items():
        blocks = [options for language, options, _ in BLOCK.findall(text) if language == "python"]
        if not blocks and not shell_lines(text):
            continue
        assert place in RUN_IN, f"{place} has code: name the test that runs it"
        test = (root / "tests" / RUN_IN[place]).read_text(encoding="utf-8")
        assert Path(place).parts[-1] in test, place
        assert re.search(r"\bexec\(|\brun\(", test), place
        if any("notest" in options for options in blocks):
            assert "notest" in ONLY_CHECKED.get(place, {}), place


def test_what_is_only_checked_is_still_there(root: Path):
    for place, starts in ONLY_CHECKED.items():
        text = pages(root)[place]
        for start in starts:
            assert any(line.startswith(start) for line in shell_lines(text)) or start == "notest" in text, (place, start)


class Bright(nn.Module):
    """Tells dark pictures from bright ones, with the logits of `classes` classes."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x.flatten(1).mean(1) - 0.5) * self.scale
        return torch.stack([-bright, bright, *[-30 + 0 * bright] * (self.classes - 2)], 1)


def pictures(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n images (n, 3, 8, 8) of one grey each, uint8, and whether they are bright."""
    grey = torch.linspace(20, 235, n).round().to(torch.uint8)
    return grey.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous(), (grey > 127).long()


def folders(place: Path, n: int) -> None:
    for i, (picture, label) in enumerate(zip(*pictures(n), strict=True)):
        folder = place / ("dark", "bright")[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy())).save(folder / f"{i}.png")


def test_the_blocks_of_the_readme_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """With a small model and a few images in the places of the user's own, and one epoch."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "my_module.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))\n"
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():  # as `Bright`; classes of a folder are in the order of the alphabet
        net[1].weight[:] = torch.tensor([[0.1], [-0.1]])
        net[1].bias[:] = torch.tensor([-9.6, 9.6])
    save_weights(net, "model.safetensors")
    folders(tmp_path / "test_images", 6)
    folders(tmp_path / "validation", 6)
    x, y = pictures(6)
    names = {"tutelage": tutelage, "model": Bright(), "data": (x, y)}
    loader = torch.utils.data.DataLoader(list(zip(x.float() / 255, y.tolist(), strict=True)), batch_size=3)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    own = {"student": student, "clean_teacher": Bright(), "robust_teacher": Bright(), "loader": loader}
    ran = 0
    for language, _, code in BLOCK.findall((root / "README.md").read_text()):
        if language == "python":
            known = names | (own if "fit_mtard" in code else {})
            small = re.sub(r"(?m)^[\w, ]+ = \.\.\..*$", "", code).replace("epochs=300", "epochs=1")
            exec(compile(small, "README.md", "exec"), known)
            ran += 1
    for line in shell_lines((root / "README.md").read_text()):
        if line.startswith("tutelage "):
            assert run(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
            ran += 1
    assert ran == 3
    assert (tmp_path / "audit" / "report.html").is_file()
    assert "clean" in capsys.readouterr().out


def test_the_example_of_the_flags_runs_and_finds_some(root: Path, capsys: pytest.CaptureFixture[str]):
    page = (root / "docs" / "flags" / "README.md").read_text()
    (code,) = [code for language, _, code in BLOCK.findall(page) if language == "python"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "docs/flags/README.md", "exec"), {})
    found = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert "chance-accuracy" in found
    assert found <= {path.stem for path in (root / "docs" / "flags").glob("*.md")}
