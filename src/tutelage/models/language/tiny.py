"""A small GPT that is made and trained here: the offline stand-in wherever a method wants a causal language model.

It is a Llama of transformers with a tokenizer of single characters, so everything that takes an `HFCausalLM` takes it, peft
adapters and all. Training is `teaching`'s: the net is `lm.model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage.core.checks import check_integer
from tutelage.core.errors import InputError
from tutelage.core.rng import seeded
from tutelage.models.language.causal import HFCausalLM
from tutelage.models.language.extras import extra

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


class TinyGPT(HFCausalLM):
    """A Llama of a few layers over single characters, or any causal configuration of transformers with that tokenizer."""

    @classmethod
    def new(
        cls,
        alphabet: str,
        *,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        context: int = 128,
        config: Any = None,
        seed: int = 0,
        **settings: Any,
    ) -> TinyGPT:
        """Random weights from `seed`. alphabet: the characters it knows; a text with another one is refused.

        layers, width, heads, context: of a Llama with tied embeddings and a four times wider MLP; or `config`, a configuration
            of
        transformers for a causal model, whose vocabulary size is set here. settings: those of `HFBackend`. Raises InputError.
        """
        transformers = extra("transformers", "TinyGPT")
        tokenizer = character_tokenizer(alphabet)
        if config is None:
            for name, value in (("layers", layers), ("width", width), ("heads", heads), ("context", context)):
                check_integer(name, value)
            if width % heads or (width // heads) % 2:
                raise InputError("width", width, f"a multiple of 2 * heads = {2 * heads}")
            config = transformers.LlamaConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                max_position_embeddings=context,
                tie_word_embeddings=True,
            )
        config.vocab_size = len(tokenizer)
        config.pad_token_id, config.bos_token_id, config.eos_token_id = (
            tokenizer.pad_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
        )
        with seeded(seed, "tiny-gpt"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        settings.setdefault("name", f"tiny-{config.model_type}")
        return cls(model.eval(), tokenizer, **settings)

    def save(self, folder: Path | str) -> None:
        """Weights (safetensors), configuration and tokenizer; `TinyGPT.load(folder)` or `HFCausalLM.load(folder)` reads
        them.
        """
        self.model.save_pretrained(str(folder), safe_serialization=True)  # type: ignore[operator]
        self.tokenizer.save_pretrained(str(folder))


def character_tokenizer(alphabet: str) -> Any:
    """A tokenizer of transformers with one token a character, BOS before each text, and no token for what is unknown.

    Ids: 0 <pad>, 1 <bos>, 2 <eos>, then the characters in the order of their code points. Raises InputError for an empty
        alphabet.
    """
    if not isinstance(alphabet, str) or not alphabet:
        raise InputError("alphabet", alphabet, "the characters of the texts")
    transformers, tokenizers = extra("transformers", "TinyGPT"), extra("tokenizers", "TinyGPT")
    vocabulary = {token: i for i, token in enumerate([PAD, BOS, EOS, *sorted(set(alphabet))])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))  # there is none: it is an error
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    core.post_processor = tokenizers.processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
