"""The options of every stage that asks a grader: who it is, how it is asked, what it may cost."""

from dataclasses import dataclass
from typing import Literal

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.fields import option, require

ApiMode = Literal["auto", "logprobs", "schema", "text", "choice"]
Quantization = Literal["none", "8bit", "4bit"]

# may leave grades out: two runs that differ in them alone are alike if their grades are
GRADE_LIMIT_OPTIONS = ("max_grade_failures", "max_grader_calls", "max_cost", "grading_timeout")


@dataclass
class GraderConfig(RunConfig):
    """A stage that asks a grader."""

    grader: str = option(
        "bert",
        "Who scores answers: bert (the reward model), llm, api, random-head[:SEED], rule:LABEL, noisy:RATE:GRADER, or "
        "several, a,b, which are averaged.",
    )
    grader_weights: list[float] = option([], "Weights of the graders of --grader a,b; by default equal.")
    grader_label_map: list[str] = option(
        [], "GRADER_LABEL=LABEL ...: for a bert grader with other labels; those that share a target are added up."
    )
    reward_model_path: str = option(
        "runs/reward", "Reward model of grader bert; ppo and distill train this default if it does not exist."
    )
    grader_model: str | None = option(
        None, "Grader llm: directory or Hub id. Grader api: the name that the server knows."
    )
    grader_base_url: str | None = option(
        None, "Grader api: address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1."
    )
    grader_prompt: str = option(
        "wanted_answer",
        "Graders llm and api: wanted_answer, optimist, pessimist, hedger, rubric, or a jinja2 file. A prompt that "
        "mentions `answer` rates one answer at a time, 1 to 10.",
    )
    grader_verbalizers: list[str] = option(
        [], "LABEL=word|word ...: the words that count as a label in a judge's reply; by default its name."
    )
    contextual_calibration: bool = option(
        False, "Graders llm and api: subtract the log-probabilities that a question without content gets."
    )
    grader_quantization: Quantization = option("none", "Grader llm: none, 8bit or 4bit (needs bitsandbytes).")
    grader_batch_size: int = option(16, "Grader llm: questions per forward pass.", affects_results=False)
    api_mode: ApiMode = option(
        "auto",
        "Grader api: logprobs (top_logprobs), schema (JSON), text, choice (/systemone); auto: the first of logprobs, "
        "schema and text that the server can do.",
    )
    grader_samples: int = option(1, "Grader api without log-probabilities: replies drawn for each question.")
    grader_temperature: float | None = option(
        None, "Grader api: sampling temperature; by default 0 for one sample, 1 for several."
    )
    max_concurrency: int = option(8, "Grader api: calls in flight at once.", affects_results=False)
    requests_per_minute: int | None = option(
        None, "Grader api: most calls a minute; none: no limit.", affects_results=False
    )
    tokens_per_minute: int | None = option(
        None, "Grader api: most tokens a minute, estimated; none: no limit.", affects_results=False
    )
    timeout: float = option(
        60.0, "Grader api: seconds before one call counts as failed and is retried.", affects_results=False
    )
    max_retries: int = option(
        5,
        "Grader api: retries of one failed call, after growing pauses or those that the server asks for.",
        affects_results=False,
    )
    grading_timeout: float | None = option(None, "Seconds after which no new call is made; none: no limit.")
    grade_store: str = option(
        "runs/grades.sqlite3", "SQLite file that keeps every grade, for all methods and runs.", affects_results=False
    )
    grade_table: str | None = option(None, "Use the grades of this grades.parquet and ask no grader.")
    max_grader_calls: int | None = option(None, "Most calls this run may make; none: no limit.")
    max_cost: float | None = option(None, "Most that this run's calls may cost, in the unit of the price.")
    price_per_1k_tokens: float | None = option(
        None, "Price of 1,000 tokens, prompt and reply alike.", affects_results=False
    )
    max_grade_failures: float = option(0.05, "Share of failed grades above which the run stops with exit code 3.")
    dry_run: bool = option(False, "Print what grading would cost, and stop.", affects_results=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            *("grader_batch_size", "grader_samples", "max_concurrency", "requests_per_minute", "tokens_per_minute"),
            "max_grader_calls",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: at least 1")
        require(self.max_retries >= 0, f"--max_retries {self.max_retries}: at least 0")
        for name in ("timeout", "grading_timeout", "max_cost", "price_per_1k_tokens"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name} {value}: must be above 0")
        require(
            self.grader_temperature is None or self.grader_temperature >= 0,
            f"--grader_temperature {self.grader_temperature}: must not be negative",
        )
        require(0 <= self.max_grade_failures <= 1, f"--max_grade_failures {self.max_grade_failures}: a share, 0 to 1")
        require(
            self.max_cost is None or self.price_per_1k_tokens is not None,
            f"--max_cost {self.max_cost}: needs --price_per_1k_tokens",
        )
