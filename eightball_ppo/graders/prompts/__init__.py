"""Prompts of LLM judges: jinja2 files, rendered in a sandbox, in which a question is data and stays data.

A prompt has two blocks, `system` (the instruction) and `user` (the data), and may have a third, `reply`, the beginning
of the judge's reply, which graders that can (`llm`) put in its mouth. It may use

    {{ question }}   the question as a JSON string: delimited by quotes that it cannot close, in one line, and without a
                     character that chat templates give a meaning to
    {{ labels }}     the list of label names
    {{ answer }}     one label name; a prompt that mentions it rates one answer at a time
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eightball_ppo.data.pairs import display_text
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Scale
from eightball_ppo.labels import LabelSet

DIRECTORY = Path(__file__).parent
SUFFIX = ".jinja"
CONTENT_FREE = "N/A"  # the question without content of contextual calibration (Zhao et al. 2021, arXiv:2102.09690)
_MARK = "Is this the question?"  # put in to see where it comes out
_VARIABLES = {"question", "labels", "answer"}
_BLOCKS = {"system", "user", "reply"}
# Written as JSON escapes, so that no text of a question can look like a control token (<|im_start|>, [INST], {{...}}).
_ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>[]{}|"}


class Messages(NamedTuple):
    """A rendered prompt: the instruction, the data, and the beginning of the reply ("" for none)."""

    system: str
    user: str
    reply: str


def quoted(question: str) -> str:
    """`question` as a JSON string in one line, harmless to chat templates. `json.loads` gives it back."""
    text = json.dumps(question, ensure_ascii=False)
    text = "".join(_ESCAPED.get(character, character) for character in text)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Prompt:
    """A prompt file; `name` as it was asked for, `source` its text."""

    name: str
    source: str

    @classmethod
    def load(cls, name: str, labels: LabelSet) -> "Prompt":
        """The packaged prompt of that name, or the file at that path, rendered once to see that it can be.

        Raises:
            InputError: no such prompt, one that is no jinja2, lacks a block, or uses an unknown variable.
        """
        try:
            packaged = DIRECTORY / f"{name}{SUFFIX}"
            file = packaged if "/" not in name and packaged.is_file() else Path(name)
            prompt = cls(name, file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # not UTF-8, or a name that no file can have
            known = ", ".join(sorted(p.stem for p in DIRECTORY.glob(f"*{SUFFIX}")))
            raise InputError(f"--grader_prompt {name}: neither a readable file ({error}) nor one of {known}") from None
        try:
            prompt._check()
            prompt._check_rendered(prompt.render(_MARK, labels, labels.names[0]))
        except InputError:
            raise
        except TemplateSyntaxError as error:
            raise InputError(f"--grader_prompt {name}: line {error.lineno}: {error.message}") from None
        except Exception as error:  # a template can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"--grader_prompt {name}: cannot be rendered ({reason})") from None
        return prompt

    def _check(self) -> None:
        """Raises InputError for blocks or variables that are not those of the module's docstring."""
        blocks = set(self._template.blocks)
        if wrong := ({"system", "user"} - blocks) or (blocks - _BLOCKS):
            what = "lacks" if wrong - blocks else "has an unknown"
            raise InputError(
                f"--grader_prompt {self.name}: {what} block {sorted(wrong)[0]!r}; system and user are needed"
            )
        used = meta.find_undeclared_variables(_environment().parse(self.source))
        if unknown := used - _VARIABLES:
            raise InputError(
                f"--grader_prompt {self.name}: undefined variable {sorted(unknown)[0]!r}; known: {sorted(_VARIABLES)}"
            )

    def _check_rendered(self, messages: Messages) -> None:
        """Raises InputError unless the question stands among the data, and only there."""
        if quoted(_MARK) not in messages.user:
            raise InputError(f"--grader_prompt {self.name}: the question does not reach the block user")
        if _MARK in messages.system or _MARK in messages.reply:
            raise InputError(
                f"--grader_prompt {self.name}: the question stands in the block system or reply; it is data"
            )

    @cached_property
    def _template(self) -> Template:
        return _environment().from_string(self.source)

    @cached_property
    def scale(self) -> Scale:
        """ "rating" if the prompt mentions `answer`, and so asks about one label at a time."""
        used = meta.find_undeclared_variables(_environment().parse(self.source))
        return "rating" if "answer" in used else "log_prob"

    @property
    def sha(self) -> str:
        """First 16 hex digits of the sha256 of the file's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    def render(self, question: str, labels: LabelSet, answer: str | None = None) -> Messages:
        """The prompt for one question and, for a prompt that rates, one answer."""
        values = {"question": quoted(display_text(question)), "labels": list(labels.names), "answer": answer}
        context = self._template.new_context(values)
        text = {name: "".join(block(context)).strip() for name, block in self._template.blocks.items()}
        return Messages(text["system"], text["user"], text.get("reply", ""))


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
