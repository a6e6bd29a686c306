"""`--mode report`: the page says what the work directory holds, and a browser shows it."""

import html.parser
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from score_sde.commands import cli
from score_sde.commands.report import album, report
from score_sde.logbook import Logbook
from score_sde.pictures import page
from score_sde.pictures.curves import Line
from score_sde.pictures.page.chart import MOST_POINTS, thinned

EVIL = '</script><img src="http://example.invalid/x.png" onerror="alert(1)">'
"""A name that a user might give, of a metric or a field."""
STEPS = (50, 100, 150)


def figure(value, se, **more):
    return {"value": value, "se": se, "n": 100, **more}


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def picture(path: Path, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (side, side), side).save(path)


def losses() -> list[float]:
    return [10 ** (-k / 1000) * (1 + 0.3 * (-1) ** k) for k in range(2000)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A run with everything that a page shows, and names that are no text to a browser."""
    run = tmp_path_factory.mktemp("run") / "vp" / EVIL.replace("/", "∕")
    with Logbook(run, tensorboard=False, quiet=True) as log:
        for k, loss in enumerate(losses()):
            log.scalars(k + 1, {"loss": loss})
        for step in STEPS:
            parts = {f"loss_by_level/{k}": (k + 1) / step for k in range(5)}
            shares = {f"time/{name}": 0.25 for name in ("data", "step", "logging", "saving")}
            log.scalars(step, {"held_out_loss": 3 / step, "grad_norm": 1.0, **parts, **shares})
            log.scalars(step, {EVIL: -1.0})
        log.say(f"drawing {EVIL}")
    config = {"seed": 7, "training": {"n_iters": 4000}, "data": {"root": EVIL}}
    write(run / "config.json", {"config": config, "torch": "2.14.1", "commit": "0123abc"})
    for step in STEPS:
        picture(run / "samples" / f"step_{step:08d}.png", step)
    picture(run / "samples" / "step_00000150_heun_grid.png", 33)
    frames = [Image.new("L", (20, 20), 80 * k) for k in range(3)]
    frames[0].save(run / "samples" / "step_00000150.gif", save_all=True, append_images=frames[1:])
    for step, value in ((100, 4.0), (150, 2.5)):
        fd = figure(value, 0.25, name="FD-digits", against=300, split="test")
        write(run / "eval" / f"step_{step:08d}.json", {"fd": fd, "left_out": {"is": EVIL}})
    rows = [{"series": EVIL, "at": "5", "nfe": 5.0, "sec_per_image": 0.002, "fd": fd}]
    write(run / "compare" / "few_steps_step_00000150.json", {"preset": "few", "rows": rows})
    psnr = {"task": "inpaint", "figures": {"psnr": figure(21.5, 0.5, unit="dB")}}
    write(run / "samples" / "step_00000150_inpaint.json", psnr)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step_00000150.pt").write_bytes(bytes(2_500_000))
    assert cli.main(["main.py", "--mode=report", f"--workdir={run}"]) == 0
    return run


class Reader(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its text; every element has its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += f"{data}\n"

    def of(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]


@pytest.fixture(scope="module")
def read(workdir) -> Reader:
    return Reader((workdir / "report.html").read_text())


def test_the_page_says_what_there_is_without_a_script(read):
    for words in (
        "2,000 of 4,000, 50\u00a0%",
        "4 \n± 0.25",
        "FD-digits, 100 against test images",
        "21.5",
        "checkpoints/step_00000150.pt",
        "2.50 MB",
        "0123abc",
        "data.root",
        "drawing",
    ):
        assert words.replace("\n", "") in read.text.replace("\n", "")
    assert read.of("html", lang="en")
    assert all(image.get("alt") for image in read.of("img"))
    assert all(svg["aria-label"] for svg in read.of("svg"))
    named = {label["for"] for label in read.of("label") if "for" in label}
    assert {entry["id"] for entry in read.of("input", type="radio")} == named
    assert len(read.of("img")) == 3 + 1 + 1  # snapshots, a film, a sheet


def test_names_of_users_are_text_and_nothing_leaves_the_page(read, workdir):
    assert read.text.count("onerror") >= 5
    for tag, attributes in read.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            place = attributes.get(name, "#")
            assert place.startswith(("#", "data:image/png;base64,", "data:image/gif;base64,")), tag
    assert {tag for tag, _ in read.elements}.isdisjoint({"link", "iframe", "object", "base"})
    (policy,) = read.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy["content"]
    style = (ROOT / "score_sde/pictures/page/page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    script = (ROOT / "score_sde/pictures/page/page.js").read_text()
    for word in ("fetch", "XMLHttp", "import", "innerHTML", "eval("):
        assert word not in script


def points_of(text: str, kind: str) -> list[np.ndarray]:
    """The points of each line of the first chart, of the SVG of a kind."""
    svg = re.search(rf'<svg class="{kind}".*?</svg>', text, re.DOTALL)[0]
    lines = re.findall(r'<polyline points="([^"]*)"', svg)
    return [np.array([list(map(float, p.split(","))) for p in line.split()]) for line in lines]


def test_curves_have_every_point_or_the_extremes_of_many():
    values = losses()
    made = page.chart("Loss", [Line("a", range(100), values[:100])])
    raw, mean = points_of(made, "linear")
    assert (len(raw), len(mean)) == (100, 100)
    # Linear in step and value: affine maps of both, which two points fix.
    for axis, known in ((0, np.arange(100.0)), (1, np.array(values[:100]))):
        fit = np.polyfit(known, raw[:, axis], 1)
        assert np.abs(np.polyval(fit, known) - raw[:, axis]).max() < 0.06  # a tenth is written
    logarithmic = points_of(page.chart("a", [Line("a", range(100), values[:100])]), "log")[0]
    fit = np.polyfit(np.log10(values[:100]), logarithmic[:, 1], 1)
    assert np.abs(np.polyval(fit, np.log10(values[:100])) - logarithmic[:, 1]).max() < 0.06
    kept = thinned(np.array(values), 100)
    assert len(kept) <= 100
    assert {0, 1999, int(np.argmax(values)), int(np.argmin(values))} <= {*kept.tolist()}
    assert thinned(np.array(values[:99]), 100).tolist() == [*range(99)]
    raw, mean = points_of(page.chart("a", [Line("a", range(2000), values)]), "log")
    assert max(len(raw), len(mean)) <= MOST_POINTS < 2000


def test_values_that_no_axis_has_room_for_are_left_out():
    strange = [math.nan, math.inf, 1e308, -1e305, 2.0]
    (line,) = points_of(page.chart("a", [Line("a", range(5), strange)]), "linear")
    assert len(line) == 1
    assert page.chart("a", [Line("a", range(2), [math.nan] * 2)]) == ""
    assert 'class="log"' not in page.chart("a", [Line("a", range(2), [0.0, 1.0])])


def test_an_element_escapes_what_is_no_html():
    made = page.tag("p", "<b>", page.tag("i", "&"), title='"', hidden=True, id=None)
    assert made == '<p title="&quot;" hidden>&lt;b&gt;<i>&amp;</i></p>'


def test_whatever_is_missing_or_damaged_the_rest_is_shown(tmp_path, capsys):
    picture(tmp_path / "samples" / "step_00000001.png", 8)  # samples alone
    (tmp_path / "samples" / "step_00000002.png").write_bytes(b"\x89PNG\r\n")
    report(tmp_path)
    first = Reader((tmp_path / "report.html").read_text())
    assert len(first.of("img")) == 1
    assert "step_00000002.png can't be shown" in first.text
    (tmp_path / "config.json").write_text("[" * 5000)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    write(tmp_path / "eval" / "step_00000001.json", {"fd": {"value": [], "se": {}, "n": "x"}})
    write(tmp_path / "eval" / "step_00000002.json", {"fd": figure(1.5, None)})
    write(tmp_path / "compare" / "a.json", {"rows": [3, {"series": 5, "fd": {"value": 1}}]})
    write(tmp_path / "samples" / "a.json", {"figures": [1]})
    report(tmp_path)  # in the place of the first
    second = Reader((tmp_path / "report.html").read_text())
    assert "config.json cannot be read as JSON" in second.text
    assert "0.5 at step 1" in second.text
    assert "1.5" in second.text


def test_pictures_get_smaller_or_are_left_out_and_named(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (1800, 300), dtype=np.uint8)
    (tmp_path / "samples").mkdir()
    for step in range(1, 40):
        picture(tmp_path / "samples" / f"step_{step:08d}.png", 8)
    Image.fromarray(noise).save(tmp_path / "samples" / "large.png")
    report(tmp_path)
    made = Reader((tmp_path / "report.html").read_text())
    assert len(made.of("div", **{"class": "frame"})) == 24
    assert made.of("div", **{"data-at": "1"})
    assert made.of("div", **{"data-at": "39"})
    assert "24 of 39 snapshots are shown" in made.text
    (large,) = [image for image in made.of("img") if "large.png" in image["alt"]]
    assert (large["width"], large["height"]) == ("267", "1600")
    assert "Smaller here than their files: large.png." in made.text
    monkeypatch.setattr(album, "MOST_BYTES", 2000)
    report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert len(Reader(text).of("img")) == 24
    assert re.search(r"Left out, as a report stays below 0 MB: step_.*, .* and 4 more\.", text)


def test_a_checkpoint_in_shards_is_a_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints" / "step_00000010.dcp"
    folder.mkdir(parents=True)
    (folder / "__0_0.distcp").write_bytes(bytes(1_500_000))
    (folder / "rest.pt").write_bytes(bytes(250_000))
    report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert re.search(r"checkpoints/step_00000010\.dcp</th><td>1\.75 MB", text)


def test_what_differs_from_the_recipe_is_marked(tmp_path):
    words = ["main.py", "--config=vp/digits", f"--workdir={tmp_path}", "--mode=report"]
    config = json.loads(json.dumps(cli.parse(words).config.to_dict(), default=str))
    config["optim"]["lr"], config["mine"] = 0.5, {"x": 1}
    write(tmp_path / "config.json", {"config": config})
    assert cli.main(words) == 0
    text = (tmp_path / "report.html").read_text()
    assert "1 fields differ from the recipe" in text
    assert re.search(r"optim\.lr</th><td>0\.5</td><td>0\.\d+", text)
    assert '<tr class="marked"><th scope="row">optim.lr</th>' in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir={}/none"], "none: it holds no run (no config.json, no metrics.jsonl, no"),
        (["--workdir={}"], "it holds no run"),
        (["--workdir={}/run", "--output={}/a.txt"], "a.txt: name a file that ends in .html"),
        (["--workdir={}/run", "--output={}/mine.html"], "exists and is no report of this mode"),
        (["--workdir={}/run", "--output={}/file/a.html"], "choose another --output"),
        (["--workdir={}/run", "--num_samples=3"], "--num_samples has no use in --mode report"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_a_sentence(tmp_path, capsys, words, message):
    write(tmp_path / "run" / "config.json", {})
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    (tmp_path / "file").touch()
    given = [word.format(tmp_path) for word in words]
    assert cli.main(["main.py", "--mode=report", *given]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"


# In a browser

DRIVER = """<!DOCTYPE html><title>driver</title>
<iframe id="page" width="1000" height="900"></iframe>
<pre id="found"></pre><script>
const frame = document.getElementById("page");
frame.onload = () => {
  const inside = frame.contentDocument, found = {};
  const text = (name) => [...inside.querySelectorAll(name)].map((one) => one.textContent);
  const shown = () => [...inside.querySelectorAll(".slides img")]
    .filter((one) => one.getBoundingClientRect().width && /Samples at/.test(one.alt))
    .map((one) => [one.alt, one.naturalWidth]);
  const visible = (name) => [...inside.querySelectorAll(name)]
    .filter((one) => one.getBoundingClientRect().width).length;
  found.first = shown();
  const slider = inside.querySelector(".slider input");
  found.steps = Number(slider.max) + 1;
  for (const value of [0, 1]) {
    slider.value = value;
    slider.dispatchEvent(new frame.contentWindow.Event("input"));
    found[`at${value}`] = [shown(), text(".slider output")];
  }
  const chart = inside.querySelector(".chart"), plot = chart.querySelector(".plot");
  const legend = () => [...chart.querySelectorAll(".value")].map((one) => one.textContent);
  found.legend = legend();
  const svg = [...plot.querySelectorAll("svg")].find((one) => one.getBoundingClientRect().width);
  const box = svg.getBoundingClientRect(), wide = svg.viewBox.baseVal.width;
  const [low, high, start, end] = svg.dataset.x.split(" ").map(Number);
  const x = box.left + (start + (100 - low) / (high - low) * (end - start)) / wide * box.width;
  plot.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", {clientX: x}));
  found.pointed = legend();
  plot.dispatchEvent(new frame.contentWindow.PointerEvent("pointerleave"));
  found.left = legend();
  plot.dispatchEvent(new frame.contentWindow.KeyboardEvent("keydown", {key: "ArrowRight"}));
  found.key = legend();
  found.log = [visible(".chart svg.linear"), visible(".chart svg.log")];
  for (const one of inside.querySelectorAll(".chart > input.log")) one.checked = true;
  found.switched = [visible(".chart svg.linear"), visible(".chart svg.log")];
  const beyond = (one) => one.scrollWidth - one.clientWidth;
  found.beyond = beyond(inside.documentElement);
  frame.width = 360;
  found.beyond += beyond(inside.documentElement);
  found.broken = [...inside.images].filter((one) => !one.naturalWidth).map((one) => one.alt);
  const loaded = frame.contentWindow.performance.getEntriesByType("resource");
  found.loaded = loaded.map((one) => one.name);
  document.getElementById("found").textContent = JSON.stringify(found);
};
frame.src = "report.html";
</script>"""


def browser() -> str:
    """Chromium; the test skips where there is none, but not where the environment wants it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        assert not os.environ.get("SCORE_SDE_BROWSER"), "SCORE_SDE_BROWSER is set: no chromium"
        pytest.skip("there is no chromium here to open the page in")
    return found


def opened(folder: Path, profile: Path, *words: str) -> str:
    """What the driver found, with nothing on the console."""
    done = subprocess.run(
        [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",  # of which containers have little
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--disable-web-security",  # a page may look into a frame of another file
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            *words,
            f"file://{folder}/driver.html",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    return done.stdout


def test_a_browser_shows_curves_and_samples_and_loads_nothing(workdir, tmp_path):
    shutil.copy(workdir / "report.html", tmp_path)
    (tmp_path / "driver.html").write_text(DRIVER)
    dom = opened(tmp_path, tmp_path / "profile", "--dump-dom")
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom)[1]))
    assert found["first"] == [["Samples at step 150: a sheet of images", 150]]
    assert found["steps"] == 3
    for k, step in enumerate(STEPS[:2]):
        shown, said = found[f"at{k}"]
        assert shown == [[f"Samples at step {step}: a sheet of images", step]]
        assert said == [str(step)]
    values, at = losses(), 100
    assert found["legend"] == [f"{values[-1]:.4g} at step 2,000", "0.02 at step 150"]
    loss, held_out = found["pointed"]
    number, step = re.fullmatch(r"(\S+) at step (\d+)", loss).groups()
    assert abs(int(step) - at) <= 4  # of 2,000 points 600 are there
    assert float(number) == pytest.approx(values[int(step) - 1], rel=1e-3)
    assert held_out in ("–", "0.03 at step 100")
    assert found["left"] == found["legend"]
    assert found["key"][0] == f"{values[0]:.4g} at step 1"
    assert min(found["log"]) > 0
    linear, log = found["switched"]
    assert linear == 1  # the metric below zero
    assert log == sum(found["log"]) - 1
    assert found["beyond"] == 0  # on a phone, too, nothing is pushed sideways
    assert found["broken"] == found["loaded"] == []
