"use strict";
// Adds to a page that can be read without it: values under the pointer, and the slider.

function scale(text) {
  const [low, high, start, end] = text.split(" ").map(Number);
  return { low, high, start, end };
}

// Curves: the nearest step to the pointer, or the next one by the arrow keys.
for (const chart of document.querySelectorAll(".chart")) {
  const lines = JSON.parse(chart.querySelector('script[type="application/json"]').textContent);
  const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const plot = chart.querySelector(".plot");
  const cells = [...chart.querySelectorAll(".legend .value")];
  const last = cells.map((cell) => cell.textContent);
  let chosen = -1;

  function show(index) {
    chosen = index;
    const step = steps[index];
    const places = lines.map((line) => line.x.indexOf(step));
    lines.forEach((line, k) => {
      cells[k].textContent =
        index < 0 ? last[k] : places[k] < 0 ? "–" : `${line.words[places[k]]} at step ${step.toLocaleString("en")}`;
    });
    for (const svg of plot.querySelectorAll("svg")) {
      const x = scale(svg.dataset.x), y = scale(svg.dataset.y);
      const log = svg.classList.contains("log") ? Math.log10 : (value) => value;
      const across = x.start + ((step - x.low) / (x.high - x.low)) * (x.end - x.start);
      const cross = svg.querySelector(".cross");
      cross.style.visibility = index < 0 ? "hidden" : "visible";
      svg.querySelectorAll(".dot").forEach((dot, k) => {
        const known = index >= 0 && places[k] >= 0;
        dot.style.visibility = known ? "visible" : "hidden";
        if (!known) return;
        const share = (log(lines[k].y[places[k]]) - log(y.low)) / (log(y.high) - log(y.low));
        dot.setAttribute("cx", across);
        dot.setAttribute("cy", y.start + share * (y.end - y.start));
      });
      if (index < 0) continue;
      cross.setAttribute("x1", across);
      cross.setAttribute("x2", across);
    }
  }

  function follow(event) {
    const svg = [...plot.querySelectorAll("svg")].find((one) => one.getBoundingClientRect().width);
    const box = svg.getBoundingClientRect(), x = scale(svg.dataset.x);
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const wanted = x.low + ((at - x.start) / (x.end - x.start)) * (x.high - x.low);
    let best = 0;
    steps.forEach((step, k) => {
      if (Math.abs(step - wanted) < Math.abs(steps[best] - wanted)) best = k;
    });
    show(best);
  }

  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", () => show(-1));
  plot.addEventListener("blur", () => show(-1));
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const from = chosen < 0 ? (by > 0 ? -1 : steps.length) : chosen;
    show(Math.max(0, Math.min(steps.length - 1, from + by)));
  });
}

// Samples over training: one frame at a time.
for (const slides of document.querySelectorAll(".slides")) {
  const frames = [...slides.querySelectorAll(".frame")];
  const label = slides.querySelector(".slider");
  const input = label.querySelector("input"), output = label.querySelector("output");

  function turn() {
    frames.forEach((frame, k) => frame.classList.toggle("current", k === Number(input.value)));
    output.textContent = frames[input.value].dataset.at;
    input.setAttribute("aria-valuetext", output.textContent);
  }

  slides.classList.add("live");
  label.hidden = frames.length < 2;
  input.addEventListener("input", turn);
  turn();
}
