"""The demo as a Space: the runs that it shows, this package, and the few lines that start it."""

from importlib import metadata, util
from pathlib import Path

from eightball_ppo.config import registry
from eightball_ppo.errors import InputError
from eightball_ppo.hub.bundles import CHECKPOINT, RECORDS, Bundle
from eightball_ppo.hub.cards import recorded
from eightball_ppo.hub.dataset_cards import space_card
from eightball_ppo.runtime.run import METRICS, read_config, read_results

REFERENCE, REWARD = "reference", "reward"
PACKAGE = Path(__file__).parents[1]
SOURCES = {".py", ".jinja", ".css", ".js", ".svg", ".html"}
SHOWN = (*CHECKPOINT, *RECORDS, METRICS, "before_after.parquet")
_APP = '''"""The eight ball, before and after its training. Made by `eightball push --space`."""

from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo.app import build, launch_options

demo = build(DemoConfig(runs={runs!r}, reward_model_path={reward!r}))

if __name__ == "__main__":
    demo.launch(**launch_options())
'''


def space_bundle(run_dirs: list[Path], repo_id: str) -> Bundle:
    """A Space that asks the policies of `run_dirs`, with their reference and reward model beside them.

    Raises:
        InputError: a run without results or policy, two of the same name, none but a reference, or no Gradio.
    """
    if util.find_spec("gradio") is None:
        raise InputError("--space: needs gradio; pip install 'eightball-ppo[demo]'")
    trained = [
        own for own in run_dirs if read_results(own)["method"] != registry.REFERENCE
    ]  # the reference comes by itself
    if not trained:
        raise InputError(f"{run_dirs[-1]}: is a reference; name what was trained from it, e.g. runs/ppo")
    config = read_config(trained[-1])
    places = {REFERENCE: Path(config.get("sft_model_path") or trained[-1])}
    for own in trained:
        name = own.resolve().name
        if name in (*places, REWARD):
            raise InputError(f"{own}: a run of the name {name!r} is there already; rename one of them")
        places[name] = own
    made = Bundle("space")
    for name, own in places.items():
        if read_results(own)["method"] == "reward" or not (own / "model.safetensors").is_file():
            raise InputError(f"{own}: holds no policy to ask; name runs of distill, ppo ...")
        made.add(own, SHOWN, f"runs/{name}/")
    reward = None
    if config.get("grader") == "bert" and not config.get("grade_table") and not config.get("grader_label_map"):
        reward = f"runs/{REWARD}"
        read_results(Path(config["reward_model_path"]))
        made.add(Path(config["reward_model_path"]), (*CHECKPOINT, *RECORDS), f"{reward}/")
    for file in sorted(PACKAGE.rglob("*")):
        if file.suffix in SOURCES:
            made.files[f"{PACKAGE.name}/{file.relative_to(PACKAGE)}"] = file
    models = [name for name in map(recorded, trained) if name]
    made.files["app.py"] = _APP.format(runs=[f"runs/{name}" for name in places], reward=reward).encode()
    made.files["requirements.txt"] = ("\n".join(requirements()) + "\n").encode()
    made.files["README.md"] = space_card(repo_id, metadata.version("gradio"), models).encode()
    return made


def requirements() -> list[str]:
    """What this package needs, as its own metadata say; Spaces bring Gradio themselves."""
    return [line for line in metadata.requires("eightball-ppo") or [] if "extra ==" not in line]
