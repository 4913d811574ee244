"""The parts of the page as HTML; the templates escape all text of users, models and files."""

import math
import textwrap
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader

from eightball_ppo.config.registry import REFERENCE, title_of
from eightball_ppo.data.pairs import display_text
from eightball_ppo.demo import run_data
from eightball_ppo.demo.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, chart
from eightball_ppo.demo.session import Answer, DemoSession, beta_index, optimum, policy_point
from eightball_ppo.report.pages import jinja_environment, short
from eightball_ppo.report.style import styles

ASSETS = Path(__file__).parent / "assets"
_GRADER_COLOUR = ("#0f766e", "#5eead4")


def title(name: str) -> str:
    """A policy's name as a heading."""
    method, blank, rest = name.partition(" ")
    words = "reference" if method == REFERENCE else title_of(method).removeprefix("the ")
    return f"{words[:1].upper()}{words[1:]}{blank}{rest}"


def beta_text(beta: float) -> str:
    """A beta as text, with what the optimum is at the two ends of the slider."""
    if math.isinf(beta):
        return "infinite: the reference"
    return "0: the grader's best answer" if beta == 0 else f"{beta:g}"


_PAGES = jinja_environment(title=title, beta=beta_text, display=display_text)
_PAGES.loader = FileSystemLoader(ASSETS)


def _render(template: str, **values: Any) -> str:
    return _PAGES.get_template(f"{template}.html.jinja").render(**values)


def window_lines(label: str) -> tuple[list[str], float]:
    """(at most three lines, font size) of an answer in the ball's window."""
    words = short(label)
    lines = textwrap.wrap(words, 11, break_long_words=True)[:3] or [words]
    longest = max(len(line) for line in lines)
    return lines, round(min(34.0, 105 / longest * (1.45 if len(lines) == 1 else 1.2), 62 / len(lines)), 1)


def ball_view(label: str | None, turn: int = 0) -> str:
    """The ball, with an 8 before the first question; a new `turn` restarts its animation."""
    lines, size = ([], 0.0) if label is None else window_lines(label)
    return _render("ball", label=label, lines=lines, size=size, turn=turn)


def answer_view(session: DemoSession, answer: Answer) -> str:
    """The last policy's answer in a sentence, and the question."""
    label, probability = session.top_answer(answer)
    return _render("reply", answer=answer, label=label, probability=probability, who=session.last.name)


def error_view(message: str) -> str:
    """Why the question has no answer."""
    return _render("reply", error=message, answer=None)


def _colours(session: DemoSession) -> dict[str, tuple[str, str]]:
    """(light, dark) of all policies by name; two runs of one method share its colour."""
    methods = styles(policy.method for policy in session.all_policies)
    return {row.name: (methods[row.method].light, methods[row.method].dark) for row in session.all_policies}


def _bars(session: DemoSession, probability_K: Any) -> list[tuple[str, float, bool]]:
    best = max(probability_K)
    return [(name, p, p == best) for name, p in zip(session.labels.names, probability_K, strict=True)]


def answers_view(session: DemoSession, answer: Answer | None) -> str:
    """The probabilities of every policy and of the grader as bars; empty bars without an answer."""
    colours, judge = _colours(session), session.judge
    cards: list[dict[str, Any]] = []
    for policy in session.all_policies:
        note = f"learned from the grader, beta {policy.config['kl_coef']:g}" if cards else "before training on grades"
        cards.append({"name": title(policy.name), "note": note, "colour": colours[policy.name], "called": True})
    called = judge.grader is not None
    cards.append({"name": judge.title.capitalize(), "note": judge.note, "colour": _GRADER_COLOUR, "called": called})
    if answer is not None:
        grader_rows = [] if answer.grader_logp_K is None else [answer.grader_logp_K]
        for card, logp_K in zip(cards, [*answer.logp_PK, *grader_rows], strict=False):
            card["bars"] = _bars(session, logp_K.exp().tolist())
    return _render("answers", cards=cards, labels=session.labels.names)


def beta_view(session: DemoSession, answer: Answer | None, index: float) -> str:
    """The optimum at the slider's beta, beside the KL and expected score of all policies for this question."""
    beta = session.betas[min(max(int(index), 0), len(session.betas) - 1)]
    best, bars, points = None, None, []
    if answer is not None and answer.score_K is not None:
        best = optimum(answer, beta)
        bars = _bars(session, best.probability_K)
        rows = zip(session.all_policies, answer.logp_PK, strict=True)
        points = [(policy.name, policy_point(answer, logp_K)) for policy, logp_K in rows]
    return _render("beta", beta=beta, session=session, best=best, bars=bars, points=points)


def scale_view(session: DemoSession) -> str:
    """The labels under the slider: its ends, and a mark at the beta of the last run."""
    share = beta_index(session.betas, session.beta) / (len(session.betas) - 1)
    texts = [beta_text(beta) for beta in session.betas]
    return _render("scale", share=share, beta=session.beta, who=session.last.name, texts=texts)


def changes_view(session: DemoSession) -> tuple[str, list[str]]:
    """(table of the held-out questions whose answer the last run changed, example questions)."""
    changes, questions = run_data.read_changes(session.last, session.labels)
    shown = changes[: run_data.MAX_CHANGES]
    html = _render("changes", changes=shown, total=len(changes), questions=questions, who=session.last.name)
    return html, run_data.examples(changes, session.labels)


def curves_view(session: DemoSession) -> str:
    """Expected score, KL and share of the optimum over the training of every run."""
    found = run_data.read_curves(session.policies)
    charts = [chart(name, note, found[key]) for key, name, note in run_data.PANELS if key in found]
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM}
    legend = run_data.training_lengths(session.policies)
    return _render("curves", charts=charts, frame=frame, legend=legend, colours=_colours(session))


def numbers_view(session: DemoSession) -> str:
    """The held-out metrics of the runs."""
    return _render("numbers", rows=run_data.heldout_numbers(session.reference, session.policies))


def head_view(session: DemoSession) -> str:
    """The headline of the page."""
    return _render("head", labels=session.labels.names)


def foot_view() -> str:
    """The limits of the demo."""
    return _render("foot")
