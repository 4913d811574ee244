"""The page of the demo: a Gradio app around a `DemoSession`.

Only `import_gradio` imports Gradio, so that everything else works without the extra `demo`.
"""

import functools
import importlib.util
import itertools
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo import views
from eightball_ppo.demo.address import check_address, url_of
from eightball_ppo.demo.session import MAX_QUESTION_LENGTH, Answer, DemoSession, InvalidQuestion, beta_index
from eightball_ppo.errors import InputError

if TYPE_CHECKING:
    import gradio

TITLE = "Magic 8-Ball"
MAX_CONCURRENT_REQUESTS = 8
MAX_QUEUE_SIZE = 256


def run(config: DemoConfig) -> None:
    """Serves the demo until Ctrl-C and prints its address.

    Raises:
        InputError: Gradio is not installed, the address cannot be used, or a run cannot be shown.
    """
    import_gradio()
    check_address(config.server_name, config.server_port)
    page = build(config)
    # the page itself shows when a question was truncated
    logging.getLogger("eightball_ppo.models.tokenization").setLevel(logging.ERROR)
    address: dict[str, Any] = {"server_name": config.server_name, "server_port": config.server_port}
    page.launch(quiet=True, prevent_thread_lock=True, **address, **launch_options())
    try:
        print(f"eightball demo: {url_of(config.server_name, config.server_port)} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def import_gradio() -> Any:
    """Imports Gradio with its analytics off, which must be set before the import.

    Raises:
        InputError: Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("demo: gradio is not installed; pip install 'eightball-ppo[demo]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    return gradio


def launch_options() -> dict[str, Any]:
    """The arguments of `Blocks.launch` that set the page's look and switch off sharing; without the address."""
    themes = import_gradio().themes
    style, script = ((views.ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    fonts = [themes.Font(name) for name in ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")]
    fonts_mono = [themes.Font(name) for name in ("ui-monospace", "Menlo", "Consolas", "monospace")]
    return {
        "theme": themes.Base(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=fonts_mono),
        "head": f"<style>{style}</style><script>{script}</script>",
        "footer_links": [],
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "max_file_size": "1kb",  # the page has no upload
    }


def build(config: DemoConfig) -> "gradio.Blocks":
    """Loads the models and builds the page, which is not yet served.

    Raises:
        InputError: A run, reward model or record cannot be shown; see `load_policies` and `load_judge`.
    """
    gr = import_gradio()
    session = DemoSession(config)
    changes, examples = views.changes_view(session)
    tabs = {
        "Changes": changes,
        "Training curves": views.curves_view(session),
        "Numbers": views.numbers_view(session),
    }
    start = beta_index(session.betas, session.beta)
    html = functools.partial(gr.HTML, js_on_load=None)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        html(views.head_view(session), elem_id="top")
        answer = gr.State(None)
        with gr.Row(elem_id="hero"):
            with gr.Column(elem_id="left", min_width=240):
                ball = html(views.ball_view(None), elem_id="ball")
            with gr.Column(elem_id="right", min_width=260):
                text = {"label": "Your question", "placeholder": "Will I be successful?", "elem_id": "question"}
                question = gr.Textbox(max_lines=1, max_length=MAX_QUESTION_LENGTH, **text)
                ask = gr.Button("Ask the ball", variant="primary", elem_id="ask")
                reply = html("", elem_id="reply")
                if examples:
                    html("<p class='try'>Or try one of these</p>", elem_id="try")
                with gr.Row(elem_id="examples", visible=bool(examples)):
                    chips = [gr.Button(example, elem_classes="chip", size="sm") for example in examples]
        answers = html(views.answers_view(session, None), elem_id="answers")
        with gr.Column(elem_id="beta"):
            html("<h2>What would the best answer be?</h2>")
            label = "beta (kl_coef), from the reference to the grader's best answer"
            slider = gr.Slider(0, len(session.betas) - 1, start, step=1, label=label, elem_id="slider", buttons=[])
            html(views.scale_view(session), elem_id="scale")
            optimum = html(views.beta_view(session, None, start), elem_id="optimum")
        with gr.Tabs(elem_id="files"):
            for name, content in tabs.items():
                with gr.Tab(name):
                    html(content)
        html(views.foot_view(), elem_id="foot")

        handle, outputs = _question_handler(gr, session), [ball, reply, answers, optimum, answer]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on([question.submit, ask.click], handle, [question, slider], outputs, **quiet)
        for chip in chips:
            chip.click(lambda text: text, chip, question, **quiet).then(handle, [chip, slider], outputs, **quiet)
        move = lambda shown, index: views.beta_view(session, shown, index)  # noqa: E731
        slider.change(move, [answer, slider], optimum, trigger_mode="always_last", **quiet)
        gr.api(_api(session), api_name="answer")
    page.queue(default_concurrency_limit=MAX_CONCURRENT_REQUESTS, max_size=MAX_QUEUE_SIZE)
    return page


def _question_handler(gr: Any, session: DemoSession) -> Callable[[str, float], tuple[Any, ...]]:
    """The event handler of a question; an invalid one changes only the reply."""
    turns = itertools.count(1)

    def handle(text: str, index: float) -> tuple[Any, ...]:
        try:
            answer = session.ask(text)
        except InvalidQuestion as error:
            return gr.skip(), views.error_view(str(error)), gr.skip(), gr.skip(), gr.skip()
        return (
            views.ball_view(session.top_answer(answer)[0], next(turns)),
            views.answer_view(session, answer),
            views.answers_view(session, answer),
            views.beta_view(session, answer, index),
            answer,
        )

    return handle


def _api(session: DemoSession) -> Callable[[str], dict[str, Any]]:
    """The function behind the endpoint `/answer`."""

    def answer(question: str) -> dict[str, Any]:
        """The question, the answer, and every policy's probability of every label; or an `error`."""
        try:
            found: Answer = session.ask(question)
        except InvalidQuestion as error:
            return {"error": str(error)}
        rows = zip(session.all_policies, found.logp_PK.exp().tolist(), strict=True)
        probabilities = {policy.name: dict(zip(session.labels.names, row, strict=True)) for policy, row in rows}
        return {"question": found.question, "answer": session.top_answer(found)[0], "probabilities": probabilities}

    return answer
