"""Everything that the page shows, as HTML; what comes from a user, a model or a file is escaped by the templates."""

import math
import textwrap
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eightball_ppo.config.registry import REFERENCE, title_of
from eightball_ppo.data.pairs import display_text
from eightball_ppo.demo import run_data
from eightball_ppo.demo.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, chart
from eightball_ppo.demo.session import Answer, DemoSession, PolicyPoint, optimum, policy_point, position
from eightball_ppo.report.pages import number, percent, short
from eightball_ppo.report.style import styles

ASSETS = Path(__file__).parent / "assets"


def title(name: str) -> str:
    """A policy's name as a heading."""
    method, blank, rest = name.partition(" ")
    words = "reference" if method == REFERENCE else title_of(method).removeprefix("the ")
    words = words[:1].upper() + words[1:]
    return f"{words}{blank}{rest}"


def beta_text(price: float) -> str:
    """A price of KL in words."""
    if math.isinf(price):
        return "infinite: the reference"
    return "0: the grader's favourite" if price == 0 else f"{price:g}"


_PAGES = Environment(
    loader=FileSystemLoader(ASSETS),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters.update(percent=percent, number=number, title=title, price=beta_text, shown=display_text)


def _render(template: str, **values: Any) -> str:
    return _PAGES.get_template(template).render(**values)


def window_lines(label: str) -> tuple[list[str], float]:
    """(at most three lines, the size of their letters) of an answer in the ball's triangle."""
    words = short(label)
    lines = textwrap.wrap(words, 11, break_long_words=True)[:3] or [words]
    longest = max(len(line) for line in lines)
    return lines, round(min(34.0, 105 / longest * (1.45 if len(lines) == 1 else 1.2), 62 / len(lines)), 1)


def ball_view(label: str | None, turn: int = 0) -> str:
    """The ball: with its 8 before the first question, then with an answer. Another `turn` makes it shake anew."""
    lines, size = ([], 0.0) if label is None else window_lines(label)
    return _render("ball.html.jinja", label=label, lines=lines, size=size, turn=turn)


def answer_view(ball: DemoSession, answer: Answer) -> str:
    """The answer in a sentence, and the question that it belongs to."""
    label, probability = ball.said(answer)
    return _render("spoken.html.jinja", answer=answer, label=label, probability=probability, who=ball.last.name)


def error_view(text: str) -> str:
    """Why there is no answer."""
    return _render("spoken.html.jinja", complaint=text, answer=None)


def _colours(ball: DemoSession) -> dict[str, tuple[str, str]]:
    """(light, dark) of everybody by name; two runs of one method share its colour."""
    methods = styles(policy.method for policy in ball.everybody)
    return {own.name: (methods[own.method].light, methods[own.method].dark) for own in ball.everybody}


def _bars(ball: DemoSession, probability_K: Any) -> list[tuple[str, float, bool]]:
    best = max(probability_K)
    return [(name, p, p == best) for name, p in zip(ball.labels.names, probability_K, strict=True)]


def answers_view(ball: DemoSession, answer: Answer | None) -> str:
    """Every policy's probabilities as bars, and the grader's; without an answer, who will speak here."""
    cards: list[dict[str, Any]] = []
    colours = _colours(ball)
    for place, policy in enumerate(ball.everybody):
        bars = None if answer is None else _bars(ball, answer.logp_PK[place].exp().tolist())
        what = "before any grader: random answers" if place == 0 else _trained(policy.config)
        cards.append({"name": title(policy.name), "note": what, "colour": colours[policy.name], "bars": bars})
    grader = None if answer is None or answer.grader_logp_K is None else answer.grader_logp_K.exp().tolist()
    cards.append(
        {
            "name": ball.judge.title.capitalize(),
            "note": ball.judge.note,
            "colour": ("#0f766e", "#5eead4"),
            "bars": None if grader is None else _bars(ball, grader),
            "silent": ball.judge.grader is None,
        }
    )
    return _render("voices.html.jinja", cards=cards, labels=ball.labels.names, asked=answer is not None)


def _trained(config: dict[str, Any]) -> str:
    return f"learned from the grader, beta {config['kl_coef']:g}"


def beta_view(ball: DemoSession, answer: Answer | None, place: int) -> str:
    """The optimum at the slider's price, beside everybody's KL and expected score for this question."""
    price = ball.prices[min(max(place, 0), len(ball.prices) - 1)]
    rows: list[tuple[str, PolicyPoint]] = []
    best = bars = None
    if answer is not None and answer.score_K is not None:
        best = optimum(answer, price)
        bars = _bars(ball, best.probability_K)
        rows = [
            (own.name, policy_point(answer, logp_K)) for own, logp_K in zip(ball.everybody, answer.logp_PK, strict=True)
        ]
    return _render(
        "price.html.jinja",
        price=price,
        own=price == ball.beta,
        best=best,
        bars=bars,
        rows=rows,
        silent=ball.judge.grader is None,
        note=ball.judge.note,
        score=ball.last.config["score_type"],
        last=ball.last.name,
    )


def scale_view(ball: DemoSession) -> str:
    """What stands under the slider: its two ends, and a mark at the price that the last run was trained at."""
    share = position(ball.prices, ball.beta) / (len(ball.prices) - 1)
    texts = [beta_text(price) for price in ball.prices]
    return _render("scale.html.jinja", share=share, beta=ball.beta, who=ball.last.name, texts=texts)


def changes_view(ball: DemoSession) -> tuple[str, list[str]]:
    """(the table of held-out questions that the last run answers otherwise than the reference, examples to ask)."""
    flips, questions = run_data.read_changes(ball.last, ball.labels)
    html = _render(
        "flips.html.jinja",
        flips=flips[: run_data.MAX_CHANGES],
        total=len(flips),
        questions=questions,
        who=ball.last.name,
    )
    return html, run_data.examples(flips, ball.labels)


def curves_view(ball: DemoSession) -> str:
    """Expected score, KL and share of the optimum over the training of every run."""
    found = run_data.read_curves(ball.policies)
    charts = [chart(name, note, found[key]) for key, name, note in run_data.PANELS if key in found]
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM}
    legend = [(name, words) for name, words in run_data.lengths(ball.policies).items()]
    return _render("curves.html.jinja", charts=charts, frame=frame, legend=legend, colours=_colours(ball))


def numbers_view(ball: DemoSession) -> str:
    """The held-out numbers of the runs."""
    rows = run_data.numbers(ball.reference, ball.policies)
    return _render("numbers.html.jinja", rows=rows)


def head_view(ball: DemoSession) -> str:
    """The headline of the page."""
    return _render("head.html.jinja", labels=ball.labels.names)


def foot_view() -> str:
    """What the page is not."""
    return _render("foot.html.jinja")
