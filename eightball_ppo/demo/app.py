"""The page of the demo: a gradio app that asks the ball, moves the price of KL, and shows what the runs have on file.

Gradio is imported here and nowhere else, when a page is built.
"""

import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo.address import check_address, url_of
from eightball_ppo.errors import InputError

if TYPE_CHECKING:
    import gradio

    from eightball_ppo.demo.session import Answer, DemoSession

EIGHT = "Magic 8-Ball"
MAX_CONCURRENT_REQUESTS, MAX_QUEUE_SIZE = (
    8,
    256,
)  # questions that are answered at the same time, and those that may wait


def run(config: DemoConfig) -> None:
    """Serve the demo until Ctrl-C; prints its address.

    Raises:
        InputError: gradio is not installed, the address is no good, or bad runs as in `build`.
    """
    check_gradio()
    check_address(config.server_name, config.server_port)
    page = build(config)
    # the page itself says when a question is too long
    logging.getLogger("eightball_ppo.models.tokenization").setLevel(logging.ERROR)
    page.launch(
        server_name=config.server_name,
        server_port=config.server_port,
        quiet=True,
        prevent_thread_lock=True,
        **launch_options(),
    )
    try:
        print(f"eightball demo: {url_of(config.server_name, config.server_port)} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def check_gradio() -> None:
    """Raises InputError where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("demo: gradio is not installed; pip install 'eightball-ppo[demo]'")


def launch_options() -> dict[str, Any]:
    """What `Blocks.launch` must be given for the page to look and behave as it should; no address."""
    gr = _gradio()
    from eightball_ppo.demo.views import ASSETS

    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    fonts = [gr.themes.Font(name) for name in ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")]
    fixed = [gr.themes.Font(name) for name in ("ui-monospace", "Menlo", "Consolas", "monospace")]
    return {
        "theme": gr.themes.Base(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=fixed),
        "head": f"<style>{style}</style><script>{script}</script>",
        "footer_links": [],
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "max_file_size": "1kb",  # there is nothing to upload
    }


def build(config: DemoConfig) -> "gradio.Blocks":
    """The page, with its models loaded, not yet served.

    Raises:
        InputError: runs, reward model or records that cannot be shown; see `load_policies` and `load_judge`.
    """
    gr = _gradio()
    from eightball_ppo.demo.session import DemoSession, position
    from eightball_ppo.demo.views import foot_view, head_view

    ball = DemoSession(config)
    files = _files(ball)  # before any component, so that a damaged file is said first
    with gr.Blocks(title=EIGHT, analytics_enabled=False) as page:
        gr.HTML(head_view(ball), elem_id="top", js_on_load=None)
        answer = gr.State(None)
        with gr.Row(elem_id="hero"):
            hero = _question_panel(gr, files["examples"])
        voices = gr.HTML(files["voices"], elem_id="voices", js_on_load=None)
        with gr.Column(elem_id="price"):
            gr.HTML("<h2>What would the best answer be?</h2>", js_on_load=None)
            slider = gr.Slider(
                0,
                len(ball.prices) - 1,
                position(ball.prices, ball.beta),
                step=1,
                label="Price of KL, from the reference to the grader's favourite",
                elem_id="slider",
                buttons=[],
            )
            gr.HTML(files["scale"], elem_id="scale", js_on_load=None)
            price = gr.HTML(files["price"], elem_id="optimum", js_on_load=None)
        with gr.Tabs(elem_id="files"):
            for name in ("Flips", "Training curves", "Numbers"):
                with gr.Tab(name):
                    gr.HTML(files[name], js_on_load=None)
        gr.HTML(foot_view(), elem_id="foot", js_on_load=None)
        _bind_events(gr, ball, hero, answer, voices, slider, price)
    page.queue(default_concurrency_limit=MAX_CONCURRENT_REQUESTS, max_size=MAX_QUEUE_SIZE)
    return page


def _gradio() -> Any:
    """Gradio, which must learn before its import that it is not to call home."""
    check_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    return gradio


def _files(ball: "DemoSession") -> dict[str, Any]:
    """All that the page shows before the first question."""
    from eightball_ppo.demo import views
    from eightball_ppo.demo.session import position

    flips, examples = views.changes_view(ball)
    return {
        "Flips": flips,
        "Training curves": views.curves_view(ball),
        "Numbers": views.numbers_view(ball),
        "examples": examples,
        "voices": views.answers_view(ball, None),
        "scale": views.scale_view(ball),
        "price": views.beta_view(ball, None, position(ball.prices, ball.beta)),
    }


def _question_panel(gr: Any, examples: list[str]) -> dict[str, Any]:
    """The ball, and beside it the question, the button, the answer in words and some examples."""
    from eightball_ppo.demo.session import MAX_QUESTION_LENGTH
    from eightball_ppo.demo.views import ball_view

    with gr.Column(elem_id="left", min_width=240):
        ball = gr.HTML(ball_view(None), elem_id="ball", js_on_load=None)
    with gr.Column(elem_id="right", min_width=260):
        question = gr.Textbox(
            label="Your question",
            placeholder="Will I be successful?",
            max_lines=1,
            max_length=MAX_QUESTION_LENGTH,
            elem_id="question",
        )
        ask = gr.Button("Ask the ball", variant="primary", elem_id="ask")
        spoken = gr.HTML("", elem_id="spoken", js_on_load=None)
        chips = []
        if examples:
            gr.HTML("<p class='try'>Or try one of these</p>", elem_id="try", js_on_load=None)
            with gr.Row(elem_id="examples"):
                chips = [gr.Button(text, elem_classes="chip", size="sm") for text in examples]
    return {"ball": ball, "question": question, "ask": ask, "spoken": spoken, "chips": chips}


def _bind_events(
    gr: Any, ball: "DemoSession", hero: dict[str, Any], answer: Any, voices: Any, slider: Any, price: Any
) -> None:
    """The events: a question is asked by Enter, by the button or by an example; the slider asks no model."""
    from eightball_ppo.demo.views import beta_view

    asked, moved = _answer(gr, ball), lambda place, said: beta_view(ball, said, int(place))
    outputs = [hero["ball"], hero["spoken"], voices, price, answer]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([hero["question"].submit, hero["ask"].click], asked, [hero["question"], slider], outputs, **quiet)
    for chip in hero["chips"]:
        chip.click(lambda text: text, chip, hero["question"], **quiet).then(asked, [chip, slider], outputs, **quiet)
    slider.change(moved, [slider, answer], price, trigger_mode="always_last", **quiet)
    gr.api(_api_answer(ball), api_name="answer")


def _answer(gr: Any, ball: "DemoSession") -> Callable[[str, float], tuple[Any, ...]]:
    """What a question does to the page; where there is no answer, only the reason is shown."""
    from eightball_ppo.demo import views
    from eightball_ppo.demo.session import InvalidQuestion

    turns = iter(range(1, 2**62))

    def asked(text: str, place: float) -> tuple[Any, ...]:
        try:
            answer = ball.ask(text)
        except InvalidQuestion as reason:
            return gr.skip(), views.error_view(str(reason)), gr.skip(), gr.skip(), gr.skip()
        return (
            views.ball_view(ball.said(answer)[0], next(turns)),
            views.answer_view(ball, answer),
            views.answers_view(ball, answer),
            views.beta_view(ball, answer, int(place)),
            answer,
        )

    return asked


def _api_answer(ball: "DemoSession") -> Callable[[str], dict[str, Any]]:
    """The ball for programs: `/answer` takes a question."""
    from eightball_ppo.demo.session import InvalidQuestion

    def told(question: str) -> dict[str, Any]:
        """The question, the answer, and every policy's probability of every label; or an `error`."""
        try:
            answer = ball.ask(question)
        except InvalidQuestion as reason:
            return {"error": str(reason)}
        return {
            "question": answer.question,
            "answer": ball.said(answer)[0],
            "probabilities": _probabilities(ball, answer),
        }

    return told


def _probabilities(ball: "DemoSession", answer: "Answer") -> dict[str, dict[str, float]]:
    rows = answer.logp_PK.exp().tolist()
    return {
        policy.name: dict(zip(ball.labels.names, row, strict=True))
        for policy, row in zip(ball.everybody, rows, strict=True)
    }
