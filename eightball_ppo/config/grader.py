"""The options of every stage that calls a grader: which one, how it is called, what it may cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.fields import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, option, require, run_option

ApiMode = Literal["auto", "logprobs", "schema", "text", "choice"]
Quantization = Literal["none", "8bit", "4bit"]

PROMPTS = "classify, wanted_answer, optimist, pessimist, hedger, rubric"
DEFAULT_PROMPT = "wanted_answer for Yes, No and Maybe, else classify"

# These may leave grades out: runs that differ only in them have the same results if their grades are the same.
GRADE_LIMIT_OPTIONS = ("max_grade_failures", "max_grader_calls", "max_cost", "grading_timeout")


@dataclass
class GraderConfig(RunConfig):
    """Options of every stage that calls a grader."""

    grader: str = option(
        "bert",
        "bert, llm, api, python:FILE.py:NAME, random-head[:SEED], rule:LABEL, rater[:M], noisy:RATE:GRADER; a,b: mean.",
    )
    grader_weights: list[float] = option([], "Weights of the graders of --grader a,b; by default equal.")
    grader_label_map: list[str] = option([], "GRADER_LABEL=LABEL ...: for a bert grader with other labels.")
    reward_model_path: str = option("runs/reward", "Model of grader bert; methods train this default if it is missing.")
    grader_model: str | None = option(None, "llm: directory or Hub id. api: the name that the server knows.")
    grader_base_url: str | None = option(None, "api: an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.")
    grader_prompt: str | None = option(None, f"llm, api: {PROMPTS} or a jinja2 file. Default: {DEFAULT_PROMPT}.")
    label_descriptions: list[str] = option([], "llm, api: LABEL=text ..., or a YAML or JSON file, for prompt classify.")
    grader_verbalizers: list[str] = option([], "LABEL=word|word ...: replies that count as a label; default its name.")
    contextual_calibration: bool = option(False, "llm: subtract the log-probabilities of the question N/A.")
    grader_quantization: Quantization = option("none", "llm: none, 8bit or 4bit (needs bitsandbytes).")
    grader_batch_size: int = run_option(16, "llm: questions per forward pass.", AT_LEAST_1)
    api_mode: ApiMode = option("auto", "api: how a grade is read; auto: logprobs, else schema, else text.")
    grader_samples: int = option(1, "api without log-probabilities: replies drawn for each question.", AT_LEAST_1)
    grader_temperature: float | None = option(None, "api: by default 0 for one sample, 1 for several.", NOT_NEGATIVE)
    max_concurrency: int = run_option(8, "api: calls in flight at once.", AT_LEAST_1)
    requests_per_minute: int | None = run_option(None, "api: limit on calls a minute.", AT_LEAST_1)
    tokens_per_minute: int | None = run_option(None, "api: limit on tokens a minute, estimated.", AT_LEAST_1)
    timeout: float = run_option(60.0, "api: seconds before one call counts as failed and is retried.", POSITIVE)
    max_retries: int = run_option(5, "api: retries of one failed call, with growing pauses.", NOT_NEGATIVE)
    grading_timeout: float | None = option(None, "Seconds after which no new call is made.", POSITIVE)
    grade_store: str = run_option("runs/grades.sqlite3", "SQLite file with every grade, shared by methods and runs.")
    grade_table: str | None = option(None, "Use the grades of this grades.parquet and call no grader.")
    max_grader_calls: int | None = option(None, "Limit on the calls of this run.", AT_LEAST_1)
    max_cost: float | None = option(None, "Limit on the cost of this run, in the unit of the price.", POSITIVE)
    price_per_1k_tokens: float | None = run_option(None, "Price of 1,000 tokens, prompt and reply alike.", POSITIVE)
    max_grade_failures: float = option(0.05, "Share of failed grades above which the run stops with exit 3.", SHARE)
    dry_run: bool = run_option(False, "Print what grading would cost, and stop.")

    def __post_init__(self) -> None:
        if isinstance(self.label_descriptions, Mapping):  # from Python
            self.label_descriptions = [f"{label}={text}" for label, text in self.label_descriptions.items()]
        super().__post_init__()
        priced = self.max_cost is None or self.price_per_1k_tokens is not None
        require(priced, f"--max_cost {self.max_cost}: needs --price_per_1k_tokens")
