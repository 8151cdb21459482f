"use strict";
// Values under the pointer, and everything unfolded on paper. The page says all it has to say without this.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);

function near(points, step) {
  return points.reduce((best, point) => Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);
}

function told(line, point) {
  const row = document.createElement("div");
  row.className = "who";
  const dot = document.createElement("i");
  dot.className = `dot c${line.run % 8}${line.run >= 8 ? " again" : ""}`;
  row.append(dot, `${line.name}, ${line.split} ${point[1].toPrecision(4)}`);
  const item = document.createElement("div");
  item.append(row);
  return item;
}

for (const chart of document.querySelectorAll(".chart")) {
  const lines = JSON.parse(chart.dataset.lines);
  const [left, right, last] = JSON.parse(chart.dataset.frame);
  const cursor = chart.querySelector(".cursor");
  const steps = lines.flatMap(line => line.points);
  chart.addEventListener("pointermove", event => {
    const box = chart.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
    const step = near(steps, (x - left) / (right - left) * last)[0];
    const at = left + step / last * (right - left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    const head = document.createElement("b");
    head.textContent = `step ${step.toLocaleString("en")}`;
    tip.replaceChildren(head, ...lines.map(line => [line, near(line.points, step)])
      .filter(([, point]) => point[0] === step).map(([line, point]) => told(line, point)));
    tip.hidden = false;
    const width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(event.pageX + 14, scrollX + width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.pageY + 16}px`;
  });
  chart.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.setAttribute("x1", -9);
    cursor.setAttribute("x2", -9);
  });
}

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
});
