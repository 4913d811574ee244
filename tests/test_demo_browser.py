"""The demo as its users meet it: headless Chromium in front of a server on this machine."""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_runs import NASTY, make_runs

from conftest import REPOSITORY
from eightball_ppo import predict
from eightball_ppo.config.stages import PredictConfig
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo import app
from eightball_ppo.demo.session import MAX_QUESTION_LENGTH, DemoSession

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="gradio is not installed")

QUESTION = "Will I win the race?"


@pytest.fixture(scope="module")
def runs(once: Callable[..., Path], sft_run: Path) -> Path:
    return once("demo", lambda directory: make_runs(directory, sft_run))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def config(runs: Path) -> DemoConfig:
    return DemoConfig(runs=[str(runs / name) for name in ("sft", "distill", "ppo")], server_port=free_port())


@pytest.fixture(scope="module")
def address(config: DemoConfig) -> Iterator[str]:
    page = app.build(config)
    place: dict[str, Any] = {"server_name": config.server_name, "server_port": config.server_port}
    page.launch(quiet=True, prevent_thread_lock=True, **place, **app.launch_options())
    yield f"http://{config.server_name}:{config.server_port}"
    page.close(verbose=False)


@contextlib.contextmanager
def opened(browser: Any, address: str, width: int = 1200, **how: Any) -> Iterator[Any]:
    """A page whose console must stay empty, and which must not ask another host."""
    page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce", **how)
    complaints: list[str] = []
    foreign: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())  # type: ignore[func-returns-value]

    def guard(route: Any) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    page.route("**/*", guard)
    page.goto(address)
    page.wait_for_selector("#reply[role=status]", state="attached")
    try:
        yield page
    finally:
        page.close()
    assert not foreign and not complaints, (foreign, complaints)


def ask(page: Any, question: str, enter: bool = True) -> str:
    """Type a question, ask it, and wait for the answer."""
    page.get_by_label("Your question").fill(question)
    if enter:
        page.keyboard.press("Enter")
    else:
        page.get_by_role("button", name="Ask the ball").click()
    page.wait_for_function("text => document.querySelector('#reply .asked')?.textContent === text", arg=question)
    return page.inner_text("#reply .answer")


def meters(page: Any, part: str) -> dict[str, float]:
    """Every bar's name and value in per cent."""
    read = "all => all.map(one => [one.getAttribute('aria-label'), Number(one.getAttribute('aria-valuenow'))])"
    return dict(page.locator(f"{part} [role=meter]").evaluate_all(read))


@pytest.mark.parametrize("enter", [True, False])
def test_page_shows_the_answer_of_predict(enter: bool, browser: Any, address: str, runs: Path) -> None:
    config = PredictConfig(question=QUESTION, model_name_or_path=str(runs / "ppo"))
    [(_, label, probability)] = predict.answers(config)
    with opened(browser, address) as page:
        assert page.get_attribute("html", "lang") == "en" and page.title() == app.TITLE
        assert ask(page, QUESTION, enter) == f"{label}, says PPO, with probability {probability[label]:.1%}."
        assert page.get_by_role("img", name=f"Magic 8-Ball, its window shows: {label}").is_visible()
        found = meters(page, "#answers")
        for name, p in probability.items():
            assert found[f"PPO: {name}"] == pytest.approx(100 * p, abs=0.051)
        assert len(found) == 4 * 3


def test_blank_long_and_hostile_questions(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        page.get_by_role("button", name="Ask the ball").click()
        page.wait_for_selector("#reply .error")
        assert "needs a question" in page.inner_text("#reply") and page.locator(".waiting").count() == 1
        for question in NASTY:
            ask(page, question)
        assert page.locator("#reply img").count() == 0
        box = page.get_by_label("Your question")
        box.fill("")
        page.keyboard.insert_text("rich " * 20_000)
        assert len(box.input_value()) == MAX_QUESTION_LENGTH
        page.keyboard.press("Enter")
        page.wait_for_selector("#reply .truncated")
        box.evaluate("one => one.removeAttribute('maxlength')")
        box.fill("x" * 100_000)
        page.keyboard.press("Enter")
        page.wait_for_selector("#reply .error")
        assert "100,000 characters" in page.inner_text("#reply")


def test_slider_ends_at_the_reference_and_at_the_favourite(browser: Any, address: str, config: DemoConfig) -> None:
    ball = DemoSession(config)
    requests: list[str] = []
    with opened(browser, address) as page:
        ask(page, QUESTION)
        assert "PPO was trained at this beta" in page.inner_text("#optimum")
        slider = page.get_by_role("slider", name="beta")
        assert slider.get_attribute("aria-valuetext") == "0.5"
        page.on("request", lambda request: requests.append(request.url))
        slider.focus()
        page.keyboard.press("Home")
        page.wait_for_function("document.querySelector('#optimum .now').textContent.includes('infinite')")
        policies = meters(page, "#answers")
        for label, value in meters(page, "#optimum").items():
            assert value == policies[label.replace("The optimum", "Reference")]
        assert page.inner_text("[data-kl=optimum]") == "0.000"
        page.keyboard.press("End")
        page.wait_for_function("document.querySelector('#optimum .now').textContent.includes('best answer')")
        assert slider.get_attribute("aria-valuetext") == "0: the grader's best answer"
        favourite = max(ball.labels.names, key=lambda label: policies[f"Reward model: {label}"])
        assert meters(page, "#optimum")[f"The optimum: {favourite}"] == 100


def test_keyboard_alone_is_enough(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        seen: list[str] = []
        while len(seen) < 20 and "find-change" not in seen:
            page.keyboard.press("Tab")
            seen.append(
                page.evaluate(
                    """() => { const one = document.activeElement, style = getComputedStyle(one);
                    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
                    const name = one.id || one.getAttribute('role') || one.type || one.tagName;
                    return (ring ? '' : 'no ring: ') + name }"""
                )
            )
        assert not [one for one in seen if one.startswith("no ring")], seen
        assert seen.index("text") < seen.index("ask") < seen.index("range_id_0") < seen.index("find-change"), seen
        page.keyboard.type("over")
        page.wait_for_function("document.querySelector('.count').textContent === '1 shown'")
        assert page.locator(".changes tbody tr:visible").count() == 1
        chip = page.locator("#examples button").first
        chip.focus()
        page.keyboard.press("Enter")
        page.wait_for_function(
            "text => document.querySelector('#reply .asked')?.textContent === text", arg=chip.inner_text()
        )
        page.get_by_role("tab", name="Training curves").press("Enter")
        assert page.get_by_role("img", name="Expected score during training").is_visible()
        page.get_by_role("tab", name="Numbers").press("Enter")
        assert page.get_by_role("columnheader", name="gold accuracy").is_visible()


CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => { const f = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]) };
  const faults = [];
  for (const one of document.querySelectorAll('.gradio-container *')) {
    const text = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!text || one.closest('svg, #hero, .unseen, [aria-hidden=true]') || !one.checkVisibility()) continue;
    const back = one => getComputedStyle(one).backgroundColor;
    let under = one;
    while (under !== document.body && (rgb(back(under))[3] ?? 1) === 0) under = under.parentElement;
    const [a, b] = [getComputedStyle(one).color, back(under)].map(c => light(rgb(c)));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) faults.push(`${ratio.toFixed(2)} ${one.outerHTML.slice(0, 120)}`);
  }
  return faults;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_page_fits_the_width_and_has_enough_contrast(width: int, theme: str, browser: Any, address: str) -> None:
    with opened(browser, address, width, color_scheme=theme) as page:
        ask(page, "Will " + "a-very-long-word" * 20 + " fit?")
        for tab in ("Training curves", "Numbers", "Changes"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
            assert page.evaluate(CONTRAST) == []
        assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")


def test_reduced_motion_is_respected(browser: Any, address: str) -> None:
    moves = "document.getAnimations().filter(one => one.effect.target.closest('.ball, .bars')).length"
    with opened(browser, address) as page:
        ask(page, QUESTION)
        assert page.evaluate(moves) == 0
        page.emulate_media(reduced_motion="no-preference")
        ask(page, "Will it shake?")
        assert page.evaluate(moves) > 0


def test_demo_prints_its_address_and_ends_with_ctrl_c(runs: Path) -> None:
    port = free_port()
    code = (
        "from eightball_ppo.demo.app import run\nfrom eightball_ppo.config.tools import DemoConfig\n"
        f"run(DemoConfig(runs=[{str(runs / 'ppo')!r}], server_port={port}))"
    )
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    # a shell's background jobs have Ctrl-C ignored, and these tests may be one
    heeds_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    served = subprocess.Popen([sys.executable, "-c", code], env=environment, preexec_fn=heeds_ctrl_c, **pipes)
    try:
        assert served.stdout is not None
        assert served.stdout.readline() == f"eightball demo: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        with socket.create_connection(("127.0.0.1", port)):
            pass
        served.send_signal(signal.SIGINT)
        assert served.wait(20) == 0 and served.stdout.read() == ""
    finally:
        served.kill()
