"""A teacher that is the moving average of its student."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_number
from tutelage.core.errors import InputError
from tutelage.models.copying import copied


class EMATeacher:
    """theta' <- m theta' + (1 - m) theta after every step of the student (mean teacher, arXiv 1703.01780).

    student: any nn.Module; it is copied as it is, mode included. momentum: m, 0 to 1; 1 never changes the teacher, 0 makes it
    the student. Only parameters are averaged: buffers stay as they were copied.

    >>> teacher = EMATeacher(student, 0.999)
    >>> logits = teacher(x)                  # (B, K), without gradients
    >>> teacher.update(student)              # after the optimiser's step
    """

    def __init__(self, student: nn.Module, momentum: float = 0.999) -> None:
        check_number("momentum", momentum, "a number from 0 to 1", low=0, high=1)
        self.momentum = float(momentum)
        self.model = copied(student).requires_grad_(False)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return cast(Tensor, self.model(x))

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the average. Raises InputError if the student is not built as the teacher is."""
        own: list[Tensor] = list(self.model.parameters())
        new: list[Tensor] = list(student.parameters())
        if [p.shape for p in own] != [p.shape for p in new]:
            raise InputError("student", "parameters of other shapes", "the model that the teacher was copied from")
        if self.momentum < 1 and own:
            torch._foreach_lerp_(own, new, 1 - self.momentum)
