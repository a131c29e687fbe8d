"""Any function of texts as a language model: a program, another library, a stand-in for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tutelage.core.checks import check_callable
from tutelage.core.errors import InputError
from tutelage.models.language.protocol import Backend, Generation, GenRequest, cut_at_stop


class FunctionLM(Backend):
    """A language model that is a function (prompt, sample seed) -> completion.

    function: called once a sample. The prompt is a text; a conversation is passed as its turns, "role: content" a line, if
        `takes_chat`. The seed is an integer from the request's seed, the prompt and the sample's index, 0 when greedy.
    fingerprint: a text that you change when the function changes.

    Example::

        >>> from tutelage.models.language import FunctionLM, GenRequest
        >>> echo = FunctionLM(lambda prompt, seed: prompt.upper(), name="echo", fingerprint="echo-1")
        >>> echo.generate([GenRequest("hello")])[0][0].text
        'HELLO'
    """

    def __init__(self, function: Callable[[str, int], str], *, name: str, fingerprint: str, takes_chat: bool = False) -> None:
        check_callable("function", function, "a function (prompt, seed) -> completion")
        for argument, text in (("name", name), ("fingerprint", fingerprint)):
            if not isinstance(text, str) or not text:
                raise InputError(argument, text, "a text that is not empty")
        self._function, self.name, self._fingerprint = function, name, fingerprint
        self.capabilities = frozenset({"generate", "chat"}) if takes_chat else frozenset({"generate"})

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def _stream(self, requests: list[GenRequest]) -> Iterator[tuple[int, list[Generation]]]:
        for index, request in enumerate(requests):
            prompt = request.prompt
            if not isinstance(prompt, str):
                prompt = "\n".join(f"{message.role}: {message.content}" for message in prompt)
            found = []
            for stream in request.streams():
                text = self._function(prompt, int(stream.integers(2**31)) if request.temperature > 0 else 0)
                if not isinstance(text, str):
                    raise InputError("function", f"an answer of type {type(text).__name__}", "a text")
                found.append(Generation(cut_at_stop(text, request.stop)[0]))
            yield index, found
