"""Markdown of the docs as HTML: nothing raw comes through, formulas become MathML, code is coloured by classes."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup
from pygments import highlight  # type: ignore[import-untyped]
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]

LANGUAGES = ("python", "sh", "toml", "yaml", "json", "ini", "dockerfile", "make")
_COMMENT = re.compile(r"(?m)^<!--.*?-->[ \t]*\n?", flags=re.S)
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\d)", flags=re.S)


@dataclass(frozen=True)
class Heading:
    level: int
    text: str
    id: str


@dataclass(frozen=True)
class Rendered:
    """A page as HTML. title: its first heading of level 1, which is left out; lead: the words of its first paragraph."""

    title: str
    lead: str
    html: Markup
    headings: tuple[Heading, ...]


Resolve = Callable[[str], str | None]  # target of a link or picture -> address on the site; None: it has no place there
Size = Callable[[str], str]  # address of a picture -> its size as attributes, so that the page keeps room for it


@dataclass
class _Environment:
    resolve: Resolve
    size: Size
    prefix: str
    title: str = ""
    headings: list[Heading] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)


def render(text: str, resolve: Resolve = lambda target: None, size: Size = lambda address: "", *, prefix: str = "") -> Rendered:
    """`text` as HTML. resolve: where links and pictures lead; a link without a place becomes plain text. size: of the picture
    at an address on the site. prefix: of the ids of headings, where several texts stand on one page."""
    environment = _Environment(resolve, size, prefix)
    # comments are marks for tools; those inside code blocks are no line of their own in our docs
    tokens = _PARSER.parse(_COMMENT.sub("", text), {"site": environment})
    tokens = _links(_headings(tokens, environment), environment)
    lead = next((_words(tokens[i + 1]) for i, t in enumerate(tokens) if t.type == "paragraph_open" and t.level == 0), "")
    body = _PARSER.renderer.render(tokens, _PARSER.options, {"site": environment})
    return Rendered(environment.title, lead, Markup(body), tuple(environment.headings))


def slugify(text: str) -> str:
    """The id that a heading gets, by the rule that links between Markdown pages count on."""
    kept = "".join(c for c in text.lower() if c in "-_ " or unicodedata.category(c)[0] in "LN")
    return kept.strip().replace(" ", "-")


def code_html(code: str, language: str = "") -> Markup:
    """A block of code, coloured if the language is one that the docs use."""
    lexer = get_lexer_by_name(language) if language in LANGUAGES else None
    inner = highlight(code, lexer, _FORMATTER) if lexer else html.escape(code)
    label = f"{language} code" if language else "code"
    return Markup(
        f'<pre class="code" tabindex="0" role="region" aria-label="{html.escape(label)}"><code>{inner}</code></pre>\n'
    )


def formula_html(tex: str, *, block: bool) -> Markup:
    """A formula as MathML; as its TeX source where the converter is missing (extra `site`) or does not know it."""
    try:
        made = str(import_module("latex2mathml.converter").convert(tex, display="block" if block else "inline"))
        if 'style="' not in made:  # the page's policy would drop it
            around = ('<div class="formula" tabindex="0" role="group" aria-label="formula">', "</div>")
            return Markup(made.join(around if block else ('<span class="in-line">', "</span>")))
    except Exception:  # the converter raises errors of many kinds for what it cannot read; the source is shown then
        pass
    source = html.escape(tex.strip())
    return Markup(f'<pre class="formula tex" tabindex="0"><code>{source}</code></pre>' if block else f"<code>{source}</code>")


# ------------------------------------------------------------------------------------------------------------- parsing


def _formula(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "$":
        return False
    found = _FORMULA.match(state.src, state.pos)
    if found is None or found.end() > state.posMax:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content = found["block"] or found["inline"]
        token.block = found["block"] is not None
    state.pos = found.end()
    return True


def _headings(tokens: list[Token], environment: _Environment) -> list[Token]:
    """Give headings their ids and take the first of level 1 out: it is the title of the page."""
    kept: list[Token] = []
    skipping = False
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            text, level = _words(tokens[i + 1]), int(token.tag[1])
            if level == 1 and not environment.title:
                environment.title, skipping = text, True
            else:
                name = environment.prefix + slugify(text)
                again = environment.taken.get(name, 0)
                environment.taken[name] = again + 1
                name = f"{name}-{again}" if again else name
                token.attrSet("id", name)
                environment.headings.append(Heading(level, text, name))
        if not skipping:
            kept.append(token)
        if token.type == "heading_close":
            skipping = False
    return kept


def _links(tokens: list[Token], environment: _Environment) -> list[Token]:
    for token in tokens:
        if style := token.attrs.pop("style", None):  # of columns of numbers; the page's policy would drop it
            token.attrSet("class", "r" if "right" in str(style) else "l")
        if not token.children:
            continue
        kept: list[Token] = []
        dropped: list[bool] = []
        for child in token.children:
            if child.type == "link_open":
                target = str(child.attrGet("href") or "")
                outside = target.startswith(("https://", "http://", "mailto:"))
                address = target if outside or target.startswith("#") else environment.resolve(target)
                dropped.append(address is None)
                if address is None:
                    continue
                child.attrSet("href", address)
                if outside:
                    child.attrSet("rel", "noreferrer")
            elif child.type == "link_close" and dropped.pop():
                continue
            elif child.type == "image":
                address = environment.resolve(str(child.attrGet("src") or ""))
                child.attrSet("src", address or "")
                child.meta["missing"] = address is None
            kept.append(child)
        token.children = kept
    return tokens


def _words(token: Token) -> str:
    return "".join(child.content if child.type != "softbreak" else " " for child in token.children or [])


class _Renderer(RendererHTML):
    """HTML as the site wants it: tables that scroll by themselves, coloured code, formulas."""

    def formula(self, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        return str(formula_html(tokens[index].content, block=tokens[index].block))

    def fence(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        return str(code_html(tokens[index].content, (tokens[index].info.split() or [""])[0]))

    def code_block(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        return str(code_html(tokens[index].content))

    def image(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        words = html.escape("".join(child.content for child in token.children or []))
        if token.meta.get("missing"):
            return f"<em>{words}</em>"
        source = str(token.attrGet("src"))
        return f'<img src="{html.escape(source)}"{env["site"].size(source)} alt="{words}" loading="lazy">'

    def table_open(self, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        first = next((t for t in tokens[index:] if t.type == "inline" and t.content), None)
        name = html.escape(f"table: {_words(first)}" if first else "table")
        return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>\n'

    def table_close(self, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        return "</table></div>\n"


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    parser.inline.ruler.before("escape", "formula", _formula)
    return parser


_FORMATTER = HtmlFormatter(nowrap=True, classprefix="p-")
_PARSER = _parser()
