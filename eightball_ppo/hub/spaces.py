"""The demo as a Space: its runs, this package, and the script that starts it."""

from importlib import metadata, util
from pathlib import Path

from eightball_ppo.config import registry
from eightball_ppo.errors import InputError
from eightball_ppo.hub.bundles import CHECKPOINT, RECORDS, Bundle, full_model
from eightball_ppo.hub.cards import pushed_id
from eightball_ppo.hub.dataset_cards import space_card
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.paths import ADAPTER_WEIGHTS
from eightball_ppo.runtime.run import METRICS, read_config, read_results

REFERENCE, REWARD = "reference", "reward"
PACKAGE = Path(__file__).parents[1]
SOURCES = {".py", ".jinja", ".css", ".js", ".svg", ".html"}
RECORDS_SHOWN = (*RECORDS, METRICS, "before_after.parquet")
WEIGHTS = ("model.safetensors", ADAPTER_WEIGHTS)
_APP = '''"""The Magic 8-Ball before and after its training. Written by `eightball push --space`."""

from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo.app import build, launch_options

demo = build(DemoConfig(runs={runs!r}, reward_model_path={reward!r}))

if __name__ == "__main__":
    demo.launch(**launch_options())
'''


def space_bundle(run_dirs: list[Path], repo_id: str, trust_remote_code: bool = False) -> Bundle:
    """A Space with the demo of `run_dirs`, their reference and their reward model; adapters are merged.

    Raises:
        InputError: A run has no results or no policy, two runs have one name, all runs are references, or Gradio is
            not installed.
    """
    if util.find_spec("gradio") is None:
        raise InputError("--space: needs gradio; pip install 'eightball-ppo[demo]'")
    trained = [run for run in run_dirs if read_results(run)["method"] != registry.REFERENCE]
    if not trained:
        raise InputError(f"{run_dirs[-1]}: is a reference; name a run that was trained from it, e.g. runs/ppo")
    config = read_config(trained[-1])
    runs = {REFERENCE: Path(locate(config.get("sft_model_path") or str(trained[-1]), trained[-1]))}
    for run in trained:
        name = run.resolve().name
        if name in (*runs, REWARD):
            raise InputError(f"{run}: the name {name!r} is taken; rename the directory")
        runs[name] = run
    made = Bundle("space")
    for name, run in runs.items():
        if read_results(run)["method"] == "reward" or not any((run / file).is_file() for file in WEIGHTS):
            raise InputError(f"{run}: holds no policy; name runs of distill, ppo ...")
        made.add(full_model(run, made, trust_remote_code), CHECKPOINT, f"runs/{name}/")
        made.add(run, RECORDS_SHOWN, f"runs/{name}/")
    reward = None
    if config.get("grader") == "bert" and not config.get("grade_table") and not config.get("grader_label_map"):
        reward, source = f"runs/{REWARD}", Path(locate(config["reward_model_path"], trained[-1]))
        read_results(source)
        made.add(source, (*CHECKPOINT, *RECORDS), f"{reward}/")
    for file in sorted(PACKAGE.rglob("*")):
        if file.suffix in SOURCES:
            made.files[f"{PACKAGE.name}/{file.relative_to(PACKAGE)}"] = file
    models = [name for name in map(pushed_id, trained) if name]
    made.files["app.py"] = _APP.format(runs=[f"runs/{name}" for name in runs], reward=reward).encode()
    made.files["requirements.txt"] = ("\n".join(requirements()) + "\n").encode()
    made.files["README.md"] = space_card(repo_id, metadata.version("gradio"), models).encode()
    return made


def requirements() -> list[str]:
    """The requirements in the package's metadata, without extras; a Space provides Gradio."""
    return [line for line in metadata.requires("eightball-ppo") or [] if "extra ==" not in line]
