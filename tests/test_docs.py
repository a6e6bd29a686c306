"""The commands of README and docs: the command line takes each, and each runs, small.

`pytest -m docs` runs them, page by page and in the order of the page, on networks that a command
trains for two steps; without it they are parsed, their configs checked, and their files accounted
for.
"""

import fnmatch
import importlib.util
import pydoc
import re
import runpy
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import LITTLE_BPD, ROOT
from PIL import Image
from torch.distributed.run import get_args_parser

from score_sde.commands import cli, compare, recipes
from score_sde.config import presets
from score_sde.config.check import check_config
from score_sde.config.schema import FIELDS
from score_sde.samplers import optimised_grid

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|`([^`]+)`", re.M | re.S)
PROGRAM = re.compile(r"(python main\.py|score-sde|(srun )?torchrun .*main\.py) .*--")
MODULE = re.compile(r"python -m ((?:benchmarks|score_sde)\.[\w.]+)([^`&\n]*)")

PUBLISHED = ("checkpoint_26.pth", "ncsnpp-celebahq-256")
"""What the 2021 release and Hugging Face give, of whichever recipe a command names beside it."""

BROUGHT = (
    *PUBLISHED,
    "weights.pth",  # of Inception
    "posters",
    "horror",  # within them
    "images",
    "drawings",
    "poster.jpg",
    "photo.png",
    "mask.png",
    "patches.npy",
)
"""Files and folders that a reader has: the last part of what pages call them."""

RUNS = {"runs/ve/celebahq": "ve/celebahq_256_ncsnpp_continuous"}
"""Work directories of the reader's own, beside those that recipes have by default."""


@dataclass(frozen=True)
class Line:
    """A command of a page.

    Attributes:
        text: as it stands there, on one line.
        words: what `main.py` is given.
        launcher: what torchrun is given.
    """

    text: str
    words: tuple[str, ...]
    launcher: tuple[str, ...] = ()


def commands(page: Path) -> list[Line]:
    """Those in its code blocks and between its backticks, in their order."""
    found = []
    for language, block, inline in BLOCK.findall(page.read_text("utf-8")):
        lines = block.replace("\\\n", " ").splitlines() if language in ("", "bash") else []
        written = [" ".join(inline.split())] if inline else lines
        for text in [part.strip() for line in written for part in line.split(" && ")]:
            if PROGRAM.match(text):
                found.append(line_of(" ".join(text.split())))
    return found


def line_of(text: str) -> Line:
    words = shlex.split(re.sub(r"\$\([^)]*\)", "HOST", text).replace("RECIPE", "vp/digits"))
    if "torchrun" in words:
        start, end = words.index("torchrun") + 1, words.index("main.py")
        return Line(text, tuple(words[end + 1 :]), tuple(words[start:end]))
    return Line(text, tuple(words[1 + (words[0] == "python") :]))


def parsed(words) -> cli.Command | None:
    """None for listings."""
    if set(words) & {"--help", "--help_config"}:
        return None
    return cli.parse(["main.py", *words])


def reads(command: cli.Command) -> list[str]:
    """What the command line names that has to be there."""
    names = ("checkpoint", "upsampler", "base", "init_from", "classifier", "guide", "input")
    given = [command.options.get(name) for name in names]
    given += [run for runs in command.options.get("runs") or [] for run in runs]
    if str(command.options.get("mask") or "").endswith(".png"):
        given += [command.options["mask"]]
    fields = ("data.root", "eval.inception_path", "sampling.guide", "sampling.classifier")
    given += [command.overrides.get(name) for name in fields]
    return list(dict.fromkeys(str(path) for path in given if path))


def makes(command: cli.Command) -> list[str]:
    """Patterns of what later commands may name."""
    made, workdir = [str(command.options.get("output") or "")], str(command.workdir)
    if command.mode == "train":
        step = command.config.training.n_iters
        made += [workdir, f"{workdir}/checkpoints/step_{step:08d}.pt"]
    if command.mode == "train_classifier":
        made += [f"{workdir}/classifier"]
    if command.mode == "ema":
        made += [f"{workdir}/averages/length_{command.config.model.ema_length:g}_step_*.pt"]
    return made


def recipe_of_run(path: str) -> str:
    """The recipe that trained the run which a path belongs to; empty where it is no run."""
    workdir = path.partition("/checkpoints/")[0]
    recipe = RUNS.get(workdir) or workdir.removeprefix("runs/")
    return recipe if (recipes.FOLDER / f"{recipe}.py").is_file() else ""


IDS = [page.name for page in PAGES if commands(page)]
with_commands = pytest.mark.parametrize("name", IDS)


def page_of(name: str) -> Path:
    return next(page for page in PAGES if page.name == name)


def test_enough_commands_are_found():
    assert sum(len(commands(page)) for page in PAGES) > 80
    assert len(IDS) > 7


@with_commands
def test_each_command_is_one_that_the_command_line_takes(name):
    made: list[str] = []
    for line in commands(page_of(name)):
        if line.launcher:
            get_args_parser().parse_args([*line.launcher, "main.py"])
        try:
            command = parsed(line.words)
        except ValueError as error:
            pytest.fail(f"{line.text}\n{error}")
        if command is None:
            continue
        for path in reads(command):
            known = any(fnmatch.fnmatch(path, pattern) for pattern in made)
            known = known or Path(path).name in BROUGHT or recipe_of_run(path)
            assert known, f"{line.text}\nnothing on {name} makes {path}"
        made += makes(command)


@with_commands
def test_the_config_of_each_command_can_run(name):
    seen = set()
    for line in commands(page_of(name)):
        command = parsed(line.words)
        if command is None or command.config is None or command.options["print_config"]:
            continue
        config = command.config
        with config.unlocked():
            if config.sampling.guide or config.sampling.classifier:  # whose files are not here
                config.sampling.update(guide="", guidance=1.0, label=-1)
                config.sampling.update(classifier="", classifier_scale=0.0)
            config.training.precision = "tf32"  # some need a GPU
        if (key := config.to_json(default=str)) not in seen:
            seen.add(key)
            try:
                check_config(config)
            except ValueError as error:
                pytest.fail(f"{line.text}\n{error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_script_that_a_page_runs_is_there_with_its_options(page):
    for module, words in MODULE.findall(page.read_text("utf-8").replace("\\\n", " ")):
        spec = importlib.util.find_spec(module)
        assert spec, f"{page.name}: python -m {module}"
        for option in re.findall(r"--(\w+)", words):
            assert option in Path(spec.origin).read_text("utf-8"), f"{module} has no --{option}"


def test_each_name_beside_the_mathematics_exists():
    text = (ROOT / "docs" / "mathematics.md").read_text("utf-8")
    names = set(re.findall(r"`([a-z_]+(?:\.\w+)+)`", text))
    assert len(names) > 80
    for name in names - FIELDS.keys():
        assert pydoc.locate(f"score_sde.{name.removeprefix('score_sde.')}") is not None, name


def test_the_gallery_has_each_picture_and_commands_of_other_pages():
    text = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert f"](pictures/{picture.name})" in text
    others = {line for page in PAGES if page.name != "gallery.md" for line in commands(page)}
    for line in commands(page_of("gallery.md")):
        assert line in others, line.text


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them and the site does."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", prose, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_pages_and_sections_lead_there(page):
    for link in re.findall(r"\]\(([^)\s:]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_the_web_are_whole(page):
    for link in re.findall(r"\]\((\w+:[^)]*)\)", page.read_text("utf-8")):
        assert re.fullmatch(r"https://[\w.-]+(/[^\s]*)?", link), link


# Each command, small


def small(command: cli.Command) -> list[str]:
    """Words that make a command's work small, to stand behind its own."""
    if command.mode in ("prepare", "plot", "recipes") or command.config is None:
        return {"prepare": ["--size=8"]}.get(command.mode, [])
    if command.options["print_config"] or command.options["smoke"]:
        return []
    config, mode = command.config, command.mode
    fields = {"device": "cpu", "model.nf": 8, "model.ch_mult": (1,), "model.num_res_blocks": 1}
    fields |= {"model.attn_resolutions": (), "classifier.nf": 8, "classifier.ch_mult": (1,)}
    fields |= {"training.batch_size": 4, "training.n_iters": 4 if command.options["allow"] else 2}
    fields |= {"training.average_freq": 1, "training.snapshot_sampling": False}
    fields |= {"training.accumulation": 1, "optim.warmup": 0, "data.image_size": 8}
    if config.data.dataset not in ("digits", "colour_digits", "folder", "shards"):
        grey = config.data.num_channels == 1
        fields |= {"data.dataset": "digits" if grey else "colour_digits"}
    if mode == "compare":  # for which the digits bring their features
        fields |= {"data.dataset": "digits", "data.num_channels": 1}
    fields |= {"data.image_size": min(config.data.image_size, 8), "data.image_width": 0}
    fields |= {"eval.num_samples": 24, "eval.enable_sampling": not config.eval.inception_path}
    words = [*LITTLE_BPD, *(f"--config.{name}={value}" for name, value in fields.items())]
    heeds = cli.MODES[mode].heeds or ()
    method = config.sampling.method if "sampling.method" in command.overrides else ""
    # Of a small strength a few steps would be none.
    few = {"num_steps": 10 if mode == "edit" else 3, "batch_size": 8}
    if (method or cli.MODES[mode].method) == "ode":
        few = {"rtol": 0.1, "atol": 0.1, "batch_size": 8}
    few = {f"sampling.{name}": value for name, value in few.items()}
    words += [f"--config.{name}={value}" for name, value in few.items() if name in heeds]
    counts = {"num_samples": 12 if mode == "compare" else 4, "completions": 2, "frames": 3}
    counts |= {"wait": 0.001}
    heeded = {"num_samples"} & {*cli.MODES[mode].options}
    heeded |= {name for name in counts if command.options.get(name)}
    return words + [f"--{name}={counts[name]}" for name in sorted(heeded)]


class Reader:
    """Types a page's commands in the folder that it is in, and has what a reader has."""

    def __init__(self, runs: Path) -> None:
        """`runs` keeps a run of two steps of each recipe, for all pages."""
        self.runs = runs

    def types(self, line: Line, capsys) -> str:
        """Runs a command, in one process whatever its launcher, and gives what went wrong."""
        words = [re.sub(r"(?<![\w.])/(path/to|on/a/shared)/", "given/", w) for w in line.words]
        command, more = parsed(words), []
        if command is not None:
            more = small(command)
            for path in map(Path, reads(command)):
                if not path.exists() or path.name in PUBLISHED:
                    self.brings(path, words)
            wants = "checkpoint" in cli.MODES[command.mode].options
            wants = wants or command.mode in ("ema", "report")
            named = command.options.get("checkpoint") or command.options.get("exact")
            if wants and not named and not (command.workdir / "checkpoints").is_dir():
                self.has_run(words[words.index("--config") + 1], command.workdir)
        code = cli.main(["main.py", *words, *more])
        said = capsys.readouterr().err
        return f"{line.text}\n{said}(with {' '.join(more)})" if code else ""

    def has_run(self, recipe: str, workdir: Path) -> None:
        """A run of the recipe in that work directory."""
        name = recipe.removeprefix("configs/").removesuffix(".py")
        kept = self.runs / name
        if not kept.exists():
            words = ["--config", name, f"--workdir={kept}", "--mode=train"]
            assert cli.main(["main.py", *words, *small(parsed(words))]) == 0
        shutil.copytree(kept, workdir, dirs_exist_ok=True)

    def brings(self, path: Path, words: list[str]) -> None:
        """Makes what a command reads, and no command of the page has made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, rng.integers(0, 256, (40, 8, 8), dtype=np.uint8))
        elif path.suffix in (".png", ".jpg"):
            picture((12, 16), path, masked=path.name == "mask.png")
        elif path.name in ("posters", "horror"):
            folder = path if path.name == "posters" else path.parent
            draw = runpy.run_path(str(ROOT / "examples" / "posters" / "draw.py"))
            draw["draw"](folder, 40)
        elif path.name in ("images", "drawings"):
            path.mkdir()
            for k in range(30 if path.name != "drawings" else 2):
                picture((9, 11), path / f"{k}.png")
        elif path.name in PUBLISHED:
            self.converts(words[words.index("--config") + 1], path)
        elif path.name != "weights.pth":  # of Inception: `small` leaves its figures out
            self.has_step(path)

    def converts(self, recipe: str, path: Path) -> None:
        """A run of the recipe in the release's format, or in Hugging Face's."""
        workdir = Path("published") / recipe
        self.has_run(recipe, workdir)
        (made,) = (workdir / "checkpoints").glob("*.pt")
        path.unlink(missing_ok=True)  # of another recipe
        words = ["--mode=convert", f"--checkpoint={made}", f"--output={path}"]
        assert cli.main(["main.py", *words]) == 0

    def has_step(self, path: Path) -> None:
        """The step that a page names, of a run that was cut to two steps, or a whole run."""
        workdir = path.parents[1] if path.suffix else path
        if not any(workdir.glob("checkpoints/*.pt")):
            self.has_run(recipe_of_run(path.as_posix()), workdir)
        if path.suffix:
            stem = path.stem[: -len("00002000")]
            newest = max(path.parent.glob(f"{stem}*"))
            shutil.copy(newest, path)


rng = np.random.default_rng(0)


def picture(size: tuple[int, int], path: Path, *, masked: bool = False) -> None:
    """Writes a picture of that height and width."""
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels // 128 * 255 if masked else pixels).save(path)


@pytest.fixture(scope="session")
def reader(tmp_path_factory) -> Reader:
    return Reader(tmp_path_factory.mktemp("runs"))


@pytest.mark.docs
@pytest.mark.parametrize("name", [name for name in IDS if name != "gallery.md"])
def test_each_command_runs(name, reader, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "CONVERGED", 1e-2)
    for table, rows in {"BUDGETS": (5,), "SNRS": (0.1,), "SIGMAS": (25.0,)}.items():
        monkeypatch.setattr(presets, table, rows)
    for what, few in {"_TRIES": 3, "_CONVERGED": 10}.items():
        monkeypatch.setattr(optimised_grid, what, few)
    ode = presets._ode
    monkeypatch.setattr(presets, "_ode", lambda tolerance: ode(max(tolerance, 1e-2)))
    failed = []
    for line in commands(page_of(name)):
        # What is installed is used in a folder of its own, beside the checkout.
        folder = tmp_path / ("installed" if line.text.startswith("score-sde") else "checkout")
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        failed.append(reader.types(line, capsys))
    assert not any(failed), "\n\n".join(filter(None, failed))
