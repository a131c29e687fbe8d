"""Settings of the claim, and its problems."""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field

from tutelage.claims.claim import ClaimConfig
from tutelage.data.code_problems import CodeProblem, humaneval
from tutelage.data.worlds.functions import FunctionWorld
from tutelage.threats.code.edit import CodeEdit
from tutelage.threats.code.transforms import code_edits, ready
from tutelage.threats.text.lexicon import WORDNET, Lexicon

# synonyms without WordNet, for the smoke scale
TABLE = {
    "return": ["give back"],
    "sum": ["total"],
    "list": ["row"],
    "numbers": ["figures"],
    "letters": ["signs"],
    "find": ["seek"],
}


class Config(ClaimConfig):
    """What `--set` may change."""

    problems: Literal["humaneval", "generated"] = "humaneval"
    seeds: int = Field(5, ge=1, description="of each random transformation")
    synonyms: Literal["wordnet", "table"] = "wordnet"
    masked_lm: str = Field("", description="folder or hub name of a masked language model, for VarRenamerCB; none: not run")
    there: str = Field("", description="folder or hub name of a translator, for BackTranslation; none: not run")
    back: str = Field("", description="the translator back to English")
    small_tasks: int = Field(24, ge=2, description="held-out combinations of the arms small-...; units beyond have none")
    small_models: int = Field(3, ge=1, description="trainings of the arms small-..., each with its own seed")
    small_steps: int = Field(400, ge=1)
    small_batch: int = Field(32, ge=1)
    small_width: int = Field(96, ge=8, multiple_of=8)
    small_layers: int = Field(3, ge=1)
    small_lr: float = Field(0.004, gt=0)
    small_tokens: int = Field(90, ge=1, description="longest completion of the arms small-...")
    small_edit_seeds: int = Field(3, ge=1, description="seeds of each random transformation for the arms small-...")
    model: str = Field("smollm2-135m", description="weights of the arm pretrained: a name of `data get`, a folder, a hub name")
    model_problems: int = Field(24, ge=0, description="problems of the arm pretrained; units beyond have none")
    model_tokens: int = Field(96, ge=1)


def problems_of(config: Config) -> list[CodeProblem]:
    """HumanEval, or held-out functions of the world."""
    return humaneval() if config.problems == "humaneval" else FunctionWorld().problems(164, 0)


def edits_of(config: Config, *, released: bool = False) -> tuple[dict[str, CodeEdit], dict[str, str]]:
    """The transformations that can be made with these settings, and why the others cannot."""
    return _edits(config.synonyms, config.masked_lm, config.there, config.back, released)


@cache
def _edits(synonyms: str, masked_lm: str, there: str, back: str, released: bool) -> tuple[dict[str, CodeEdit], dict[str, str]]:
    namer = translate = None
    if masked_lm:
        import transformers

        from tutelage.threats.code.naming import MaskedNamer

        model = transformers.AutoModelForMaskedLM.from_pretrained(masked_lm)
        namer = MaskedNamer(model.eval(), transformers.AutoTokenizer.from_pretrained(masked_lm))
    if there and back:
        from tutelage.models.language.protocol import GenRequest
        from tutelage.models.language.seq2seq import HFSeq2SeqLM

        ways = [HFSeq2SeqLM.load(name) for name in (there, back)]

        def translate(texts: list[str]) -> list[str]:
            for lm in ways:
                texts = [found[0].text for found in lm.generate([GenRequest(text, max_tokens=512) for text in texts])]
            return texts

    lexicon = WORDNET if synonyms == "wordnet" else Lexicon(TABLE)
    return ready(code_edits(translate=translate, namer=namer, lexicon=lexicon, released=released))
