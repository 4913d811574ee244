"""The demo as a Space: the runs that it shows, this package, and the few lines that start it."""

from importlib import metadata
from pathlib import Path

from eightball_ppo.errors import InputError
from eightball_ppo.hub.bundles import CHECKPOINT, RECORDS, Bundle
from eightball_ppo.hub.cards import base_model
from eightball_ppo.hub.dataset_cards import space_card
from eightball_ppo.runs import METRICS, read_config, read_results

PACKAGE = Path(__file__).parents[1]
SOURCES = {".py", ".jinja", ".css", ".js", ".svg", ".html"}
SHOWN = (*CHECKPOINT, *RECORDS, METRICS, "before_after.parquet")
_APP = '''"""The eight ball, before and after its training. Made by `eightball push --space`."""

from eightball_ppo.configs import DemoConfig
from eightball_ppo.demo.app import build, launch_options

demo = build(DemoConfig(runs={runs!r}, reward_model_path={reward!r}))

if __name__ == "__main__":
    demo.launch(**launch_options())
'''


def space_bundle(run_dirs: list[Path], repo_id: str) -> Bundle:
    """A Space that asks the policies of `run_dirs`, with their reference and reward model beside them.

    Raises:
        InputError: a run without results or policy, or two of the same name.
    """
    made = Bundle("space")
    names = ["reference"]
    last = read_config(run_dirs[-1])
    reference = Path(last.get("sft_model_path") or run_dirs[-1])
    for directory, name in ((reference, "reference"), *((own, own.resolve().name) for own in run_dirs)):
        results = read_results(directory)
        if results["method"] == "sft" and directory != reference:
            continue  # it is there already
        if not (directory / "model.safetensors").is_file() or results["method"] == "reward":
            raise InputError(f"{directory}: holds no policy to ask; name runs of sft, distill, ppo ...")
        if directory != reference and name in names:
            raise InputError(f"{directory}: a run of the name {name!r} is there already; rename one of them")
        names += [name] if name not in names else []
        made.add(directory, SHOWN, f"runs/{name}/")
    reward = None
    if last.get("grader") == "bert" and not last.get("grade_table"):
        reward = "runs/reward"
        read_results(Path(last["reward_model_path"]))
        made.add(Path(last["reward_model_path"]), (*CHECKPOINT, *RECORDS), "runs/reward/")
    for file in sorted(PACKAGE.rglob("*")):
        if file.suffix in SOURCES and file.is_file():
            made.files[f"{PACKAGE.name}/{file.relative_to(PACKAGE)}"] = file
    app = _APP.format(runs=[f"runs/{name}" for name in names], reward=reward)
    models = [name for name in (base_model(read_config(own)) for own in run_dirs) if name]
    made.files["app.py"] = app.encode()
    made.files["requirements.txt"] = ("\n".join(requirements()) + "\n").encode()
    made.files["README.md"] = space_card(repo_id, metadata.version("gradio"), models).encode()
    return made


def requirements() -> list[str]:
    """What this package needs, as its own metadata say; Spaces bring Gradio themselves."""
    return [line for line in metadata.requires("eightball-ppo") or [] if "extra ==" not in line]
