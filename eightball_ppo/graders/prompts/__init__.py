"""Prompts of LLM judges: jinja2 files, rendered in a sandbox; the question can only be data, never an instruction.

A prompt has the blocks `system` (the instruction) and `user` (the data), and optionally `reply`, the beginning of the
judge's reply, which grader `llm` puts in front of it. Variables:

    {{ question }}   the question as a JSON string: delimited by quotes that it cannot close, in one line, and without a
                     character that means something to chat templates
    {{ labels }}     the list of label names
    {{ answer }}     one label name; a prompt that uses it rates one answer at a time
    {{ descriptions }}  what `--label_descriptions` says, by label name; empty without the option
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.data.pairs import display_text
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Scale
from eightball_ppo.graders.prompts.descriptions import label_descriptions
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

DIRECTORY = Path(__file__).parent
SUFFIX = ".jinja"
WANTED_ANSWER, CLASSIFY = "wanted_answer", "classify"  # the defaults
CONTENT_FREE = "N/A"  # the question without content of contextual calibration (Zhao et al. 2021, arXiv:2102.09690)
_PROBE = "Is this the question?"  # rendered to see which block it reaches
_VARIABLES = {"question", "labels", "answer", "descriptions"}
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_BLOCKS = {"system", "user", "reply"}
# Written as JSON escapes, so that no text of a question can look like a control token (<|im_start|>, [INST], {{...}}).
_ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>[]{}|"}


def packaged_prompts() -> list[str]:
    """Names of the prompts that come with the package."""
    return sorted(file.stem for file in DIRECTORY.glob(f"*{SUFFIX}"))


class Messages(NamedTuple):
    """A rendered prompt: the instruction, the data, and the beginning of the reply ("" for none)."""

    system: str
    user: str
    reply: str


def quote_question(question: str) -> str:
    """`question` as a JSON string in one line, harmless to chat templates; `json.loads` is the inverse."""
    text = json.dumps(question, ensure_ascii=False)
    text = "".join(_ESCAPED.get(character, character) for character in text)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Prompt:
    """A prompt file.

    Attributes:
        name: As in `--grader_prompt`.
        source: The text of the file.
        descriptions: (label name, description) of the labels that have one.
    """

    name: str
    source: str
    descriptions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, name: str | None, labels: LabelSet, descriptions: Sequence[str] = ()) -> "Prompt":
        """Loads the packaged prompt of that name, or the file at that path, and renders it once.

        Args:
            name: As in `--grader_prompt`; None is `wanted_answer` for Yes, No and Maybe, and `classify` for others.
            labels: The K labels.
            descriptions: As in `--label_descriptions`.

        Raises:
            InputError: No such prompt, or one that cannot be rendered, lacks a block, or uses an unknown variable; or
                a bad description, or a prompt that shows none.
        """
        if name is None:
            name = WANTED_ANSWER if set(labels.names) == set(EIGHTBALL_LABELS) else CLASSIFY
        described = tuple(label_descriptions(descriptions, labels).items())
        try:
            packaged = DIRECTORY / f"{name}{SUFFIX}"
            file = packaged if "/" not in name and packaged.is_file() else Path(name)
            prompt = cls(name, file.read_text(encoding="utf-8"), described)
        except (OSError, ValueError) as error:  # not UTF-8, or a name that no file can have
            known = ", ".join(packaged_prompts())
            raise InputError(f"--grader_prompt {name}: neither a readable file ({error}) nor one of {known}") from None
        try:
            problem = prompt._problem(labels)
        except TemplateSyntaxError as error:
            problem = f"line {error.lineno}: {error.message}"
        except Exception as error:  # a template can raise anything
            problem = f"cannot be rendered ({' '.join(str(error).split()) or type(error).__name__})"
        if problem is not None:
            raise InputError(f"--grader_prompt {name}: {problem}")
        if prompt.descriptions and "descriptions" not in prompt._variables:
            raise InputError(f"--label_descriptions: prompt {name} shows none; pass --grader_prompt {CLASSIFY}")
        return prompt

    @classmethod
    def of(cls, config: GraderConfig, labels: LabelSet) -> "Prompt":
        """The prompt of the grader options; errors as `load`."""
        return cls.load(config.grader_prompt, labels, config.label_descriptions)

    def _problem(self, labels: LabelSet) -> str | None:
        """What is wrong with blocks, variables, or the block that the question reaches; None if nothing is."""
        blocks = set(self._template.blocks)
        if missing := {"system", "user"} - blocks:
            return f"lacks block {min(missing)!r}; system and user are needed"
        if unknown := blocks - _BLOCKS:
            return f"has an unknown block {min(unknown)!r}; known: {sorted(_BLOCKS)}"
        if undefined := self._variables - _VARIABLES:
            return f"undefined variable {min(undefined)!r}; known: {sorted(_VARIABLES)}"
        messages = self.render(_PROBE, labels, labels.names[0])
        if quote_question(_PROBE) not in messages.user:
            return "the question does not reach the block user"
        if _PROBE in messages.system or _PROBE in messages.reply:
            return "the question is in the block system or reply; it is data and belongs to the block user"
        return None

    @cached_property
    def _template(self) -> Template:
        return _ENVIRONMENT.from_string(self.source)

    @cached_property
    def _variables(self) -> set[str]:
        return meta.find_undeclared_variables(_ENVIRONMENT.parse(self.source))

    @property
    def scale(self) -> Scale:
        """The scale "rating" if the prompt uses `answer`, and so asks about one label at a time; else "log_prob"."""
        return "rating" if "answer" in self._variables else "log_prob"

    @property
    def sha(self) -> str:
        """First 16 hex digits of the SHA-256 of the file's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """What a grader records of the prompt; all but the name "prompt" changes its grades."""
        described = {"label_descriptions": dict(self.descriptions)} if self.descriptions else {}
        return {"prompt": self.name, "prompt_sha256": self.sha, **described}

    def render(self, question: str, labels: LabelSet, answer: str | None = None) -> Messages:
        """Renders the prompt for one question and, for a prompt that rates, one answer."""
        values = {
            **{"question": quote_question(display_text(question)), "labels": list(labels.names), "answer": answer},
            "descriptions": dict(self.descriptions),
        }
        context = self._template.new_context(values)
        text = {name: "".join(block(context)).strip() for name, block in self._template.blocks.items()}
        return Messages(text["system"], text["user"], text.get("reply", ""))
