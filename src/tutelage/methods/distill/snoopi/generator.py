"""What comes out of a distillation: one call of the network a picture, with negative prompts; saved without its teachers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError
from tutelage.core.files import check_folder, write_json
from tutelage.core.rng import generator, normal
from tutelage.methods.distill.snoopi.nasa import NAG, NASA, negative_attention
from tutelage.methods.distill.snoopi.vsd import check_one_step, one_step
from tutelage.models.diffusion.attention import cross_attentions
from tutelage.models.diffusion.denoiser import Condition, Denoiser
from tutelage.models.diffusion.guidance.classifier_free import cfg
from tutelage.models.diffusion.schedule import to_image
from tutelage.models.guard import evaluating
from tutelage.models.loading import load_weights, save_weights

Mode = Literal["nasa", "nag", "output-cfg", "embedding"]
MODES = ("nasa", "nag", "output-cfg", "embedding")
WEIGHTS, SETTINGS = "generator.safetensors", "generator.json"


class OneStepGenerator:
    """A student as a generator: any Denoiser that is a module and was taught (or trained) to answer in one step.

    student: a Denoiser, such as what `distill_one_step` has taught, or any one-step model; it is put in eval mode for each
    call and handed back as it was. shape: (C, H, W) of x. decode: from x to pictures, [-1, 1] -> [0, 1] by default.
    net: the part that holds the cross-attention layers; the student itself, or its `net`, by default.
    """

    def __init__(
        self,
        student: Denoiser,
        shape: Sequence[int],
        *,
        decode: Callable[[Tensor], Tensor] = to_image,
        net: nn.Module | None = None,
    ) -> None:
        if not isinstance(student, nn.Module) or not isinstance(student, Denoiser):
            raise InputError("student", type(student).__name__, "a Denoiser that is a module, such as a PromptDenoiser")
        if len(shape) != 3 or any(not isinstance(side, int) or side < 1 for side in shape):
            raise InputError("shape", shape, "(C, H, W)")
        check_one_step(student)
        self.student: Any = student
        self.shape, self.decode = tuple(shape), decode
        self.net: nn.Module = net if net is not None else cast(nn.Module, student)

    def generate(
        self,
        cond: Sequence[str] | Condition,
        *,
        negative: str | Sequence[str] | Condition | None = None,
        alpha: float = 0.3,
        seed: int = 0,
        noise: Tensor | None = None,
        mode: Mode = "nasa",
        nag: NAG | None = None,
        batch_size: int = 256,
    ) -> Tensor:
        """Pictures (B, C, H, W) in [0, 1] for B prompts, one call of the network each, also with a negative prompt.

        negative: what must not be there, one for all or one for each. alpha: the strength of the subtraction (7); 0 is the
        plain generator. mode: "nasa" or "nag" (`nag`: its constants). The two baselines: "output-cfg", (1 + alpha) x(cond) -
        alpha x(negative) of what two calls say, and "embedding", tokens of the prompt minus alpha times the mean negative
        token. noise: z (B, C, H, W), otherwise drawn by `seed`.

        Raises InputError for a negative prompt that does nothing: the null prompt; in mode nag and output-cfg one that equals
        the prompt; a network without cross-attention.
        """
        check_choice("mode", mode, MODES)
        check_integer("batch_size", batch_size)
        combine = (nag or NAG()) if mode == "nag" else NASA(alpha)
        with torch.no_grad(), evaluating(self.student):
            condition = cond if isinstance(cond, Condition) else self.student.encode(cond)
            against = None if negative is None else self._negative(condition, negative, mode)
            z = normal((len(condition), *self.shape), generator(seed, "one step")) if noise is None else noise
            if z.shape != (len(condition), *self.shape):
                raise InputError("noise", tuple(z.shape), f"({len(condition)}, {', '.join(map(str, self.shape))})")
            z = z.to(condition.features)
            made = []
            for start in range(0, len(z), batch_size):
                part = slice(start, start + batch_size)
                other = None if against is None else against[part]
                made.append(self._made(z[part], condition[part], other, combine, mode, float(alpha)))
            return self.decode(torch.cat(made))

    def _made(
        self, z: Tensor, condition: Condition, negative: Condition | None, combine: NASA | NAG, mode: Mode, alpha: float
    ) -> Tensor:
        if negative is None:
            return one_step(self.student, z, condition)
        if mode == "output-cfg":
            return cfg(one_step(self.student, z, condition), one_step(self.student, z, negative), 1 + alpha)
        if mode == "embedding":
            count = negative.mask.sum(1).clamp_min(1)[:, None, None]
            mean = (negative.features * negative.mask[..., None]).sum(1, keepdim=True) / count
            return one_step(self.student, z, Condition(condition.features - alpha * mean, condition.mask))
        with negative_attention(self.net, condition, negative, combine) as both:
            return one_step(self.student, z, both)

    def _negative(self, condition: Condition, negative: str | Sequence[str] | Condition, mode: Mode) -> Condition:
        """The negative prompts as many rows as there are prompts; InputError if they could change nothing."""
        given = [negative] if isinstance(negative, str) else negative
        found = given if isinstance(given, Condition) else self.student.encode(given)
        null = self.student.encode([""])
        for row in range(len(found)):
            if found[row : row + 1].same(null):
                raise InputError(
                    "negative", "the null prompt, which forbids nothing", "a prompt that says what must not be there"
                )
        found = found.expand(len(condition))
        if mode in ("nag", "output-cfg"):
            for row in range(len(found)):
                if found[row : row + 1].same(condition[row : row + 1]):
                    raise InputError("negative", "the prompt itself, which changes nothing here", "another prompt than `cond`")
        if mode in ("nasa", "nag") and not cross_attentions(self.net):
            raise InputError("negative", "a network without cross-attention", 'mode="output-cfg", or a network that has it')
        return found

    def save(self, folder: Path | str) -> Path:
        """Write weights and settings; no weight of a teacher is among them. `load` takes them back."""
        folder = Path(folder)
        check_folder(folder, "folder")
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.student, folder / WEIGHTS)
        write_json(folder / SETTINGS, {"shape": list(self.shape), "prediction": self.student.prediction, "format": 1})
        return folder

    @classmethod
    def load(
        cls,
        folder: Path | str,
        student: Denoiser,
        *,
        decode: Callable[[Tensor], Tensor] = to_image,
        net: nn.Module | None = None,
    ) -> OneStepGenerator:
        """The generator whose weights lie in `folder`; student: a model built as it was, whose weights are replaced."""
        file = Path(folder) / SETTINGS
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            shape, prediction = [int(side) for side in settings["shape"]], settings["prediction"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("folder", str(folder), f"a folder that `save` wrote ({error})") from error
        if prediction != student.prediction:
            raise InputError("student", f"a model of {student.prediction}", f"a model of {prediction}, as the saved one is")
        load_weights(cast(nn.Module, student), Path(folder) / WEIGHTS)
        return cls(student, shape, decode=decode, net=net)
