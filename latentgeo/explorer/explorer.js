// The view of a latent space: points and background on a canvas, axes and curves as SVG above it, pictures and
// distances beside it. Everything shown is computed in Python; a click only says which points were meant.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 500;
const HEIGHT = 460;
const PLOT = { x: 60, y: 6, width: 432, height: 412 }; // as in explorer.css
const SHADES = [255, 154]; // greys of the least and of the largest value
const PATIENCE = 15000; // milliseconds before a silent kernel is mentioned

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

// Copied, because a typed array of wider numbers must begin at a multiple of their size.
function numbers(view, Type) {
  return new Type(bytes(view).slice().buffer);
}

// A number with a true minus, and none before zero.
function decimal(value, digits) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

function ticks(low, high, wanted = 5) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k += 1) found.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return found.map((value) => ({ value, text: decimal(value, digits) }));
}

function axisName(name, attributes) {
  const text = svg("text", attributes);
  const [base, index] = name.split("_");
  text.append(base);
  if (index) text.append(svg("tspan", { dy: 4, "font-size": 9 }, index));
  return text;
}

function trace(context, marker, x, y, r) {
  context.beginPath();
  if (marker === "s") context.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
  else if (marker === "^") {
    context.moveTo(x, y - 1.2 * r);
    context.lineTo(x + 1.1 * r, y + 0.8 * r);
    context.lineTo(x - 1.1 * r, y + 0.8 * r);
    context.closePath();
  } else context.arc(x, y, r, 0, 2 * Math.PI);
}

function sampleLine(dashed) {
  const line = svg("line", { x1: 0, y1: 4, x2: 28, y2: 4, class: dashed ? "lg-sample lg-dashed" : "lg-sample" });
  return svg("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" }, line);
}

function legendMark({ colour, marker }) {
  const shapes = {
    o: () => svg("circle", { cx: 6, cy: 6, r: 4.5, fill: colour }),
    s: () => svg("rect", { x: 2, y: 2, width: 8, height: 8, fill: colour }),
    "^": () => svg("path", { d: "M6 1 L11 10 L1 10 Z", fill: colour }),
  };
  return svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, shapes[marker]());
}

// A scene with its points in the coordinates of the drawing.
function readScene(model) {
  const scene = model.get("scene");
  const [[left, bottom], [right, top]] = scene.window;
  const place = ([x, y]) => [
    PLOT.x + ((x - left) / (right - left)) * PLOT.width,
    PLOT.y + ((top - y) / (top - bottom)) * PLOT.height,
  ];
  const flat = numbers(scene.places, Float32Array);
  const rows = numbers(scene.rows, Int32Array);
  const index = bytes(scene.index);
  const points = Array.from(rows, (row, k) => {
    const [x, y] = place([flat[2 * k], flat[2 * k + 1]]);
    return { row, x, y, kind: scene.classes[index[k]] };
  });
  return { ...scene, place, points };
}

function drawPoints(canvas, scene) {
  const ratio = 2 * Math.max(1, window.devicePixelRatio || 1);
  canvas.width = PLOT.width * ratio;
  canvas.height = PLOT.height * ratio;
  const context = canvas.getContext("2d");
  const { side } = scene;
  const image = new ImageData(side, side);
  bytes(scene.shade).forEach((shade, k) => {
    const target = 4 * ((side - 1 - Math.floor(k / side)) * side + (k % side)); // rows go up, pixels go down
    image.data.fill(SHADES[0] + (shade / 255) * (SHADES[1] - SHADES[0]), target, target + 3);
    image.data[target + 3] = 255;
  });
  const small = element("canvas", { width: side, height: side });
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.scale(ratio, ratio);
  const r = scene.points.length > 1000 ? 2.6 : 3.6;
  context.strokeStyle = "#fff";
  context.lineWidth = 0.6;
  for (const { x, y, kind } of scene.points) {
    trace(context, kind.marker, x - PLOT.x, y - PLOT.y, r);
    context.fillStyle = kind.colour;
    context.fill();
    context.stroke();
  }
}

function drawAxes(over, scene) {
  const [[left, bottom], [right, top]] = scene.window;
  const floor = PLOT.y + PLOT.height;
  over.append(svg("rect", { ...PLOT, class: "lg-axis" }));
  for (const { value, text } of ticks(left, right)) {
    const [x] = scene.place([value, bottom]);
    over.append(svg("line", { x1: x, x2: x, y1: floor, y2: floor + 4, class: "lg-axis" }));
    over.append(svg("text", { x, y: floor + 17, "text-anchor": "middle" }, text));
  }
  for (const { value, text } of ticks(bottom, top)) {
    const [, y] = scene.place([left, value]);
    over.append(svg("line", { x1: PLOT.x - 4, x2: PLOT.x, y1: y, y2: y, class: "lg-axis" }));
    over.append(svg("text", { x: PLOT.x - 8, y: y + 4, "text-anchor": "end" }, text));
  }
  const middle = [PLOT.x + PLOT.width / 2, PLOT.y + PLOT.height / 2];
  over.append(axisName(scene.axes[0], { x: middle[0], y: HEIGHT - 6, "text-anchor": "middle" }));
  const turned = { transform: `translate(10 ${middle[1]}) rotate(-90)`, "text-anchor": "middle" };
  over.append(axisName(scene.axes[1], turned));
}

function drawCurves(group, scene, answer, selected) {
  group.replaceChildren();
  const fits = answer.curves && String(answer.pair) === String(selected);
  if (fits) {
    const lines = answer.curves.map((curve) => curve.map((point) => scene.place(point).join(",")).join(" "));
    for (const points of lines) group.append(svg("polyline", { points, class: "lg-casing" }));
    lines.forEach((points, k) => {
      group.append(svg("polyline", { points, class: k === 1 ? "lg-curve lg-dashed" : "lg-curve" }));
    });
  }
  // A chosen row need not be among the points that are drawn, where Python chose it.
  const ends = fits
    ? answer.ends.map((end) => scene.place(end))
    : scene.points.filter((point) => selected.includes(point.row)).map(({ x, y }) => [x, y]);
  for (const [cx, cy] of ends) group.append(svg("circle", { cx, cy, r: 6, class: "lg-end" }));
}

function strip(pixels, [count, height, width, channels], first) {
  const gap = Math.max(1, Math.round(width / 28));
  const canvas = element("canvas", { width: count * (width + gap) - gap, height, role: "img" });
  const context = canvas.getContext("2d");
  for (let k = 0; k < count; k += 1) {
    const image = new ImageData(width, height);
    const start = (first + k) * height * width * channels;
    for (let p = 0; p < height * width; p += 1) {
      for (let c = 0; c < 3; c += 1) image.data[4 * p + c] = pixels[start + p * channels + (channels === 3 ? c : 0)];
      image.data[4 * p + 3] = 255;
    }
    context.putImageData(image, k * (width + gap), 0);
  }
  return canvas;
}

function strips(answer) {
  const pixels = bytes(answer.strips);
  return ["geodesic", "straight line"].map((name, k) => {
    const canvas = strip(pixels, answer.shape, k * answer.shape[0]);
    canvas.setAttribute("aria-label", `${answer.shape[0]} images along the ${name}, from ${answer.names.join(" to ")}`);
    const heading = element("div", { class: "lg-name" }, sampleLine(k === 1), `${name}, decoded`);
    return element("figure", { class: "lg-strip" }, heading, canvas);
  });
}

function trends(answer) {
  const box = { x: 44, y: 8, width: 286, height: 172 };
  const all = answer.trends.flatMap(({ values }) => values.flat());
  const low = Math.min(...all);
  const high = Math.max(...all, low + 1e-9);
  const label = `decoded features along the curves: ${answer.trends.map(({ name }) => name).join(", ")}`;
  const plot = svg("svg", { viewBox: "0 0 340 218", role: "img", "aria-label": label });
  const y = (value) => box.y + (1 - (value - low) / (high - low)) * box.height;
  plot.append(svg("rect", { ...box, class: "lg-axis" }));
  for (const { value, text } of ticks(low, high, 4)) {
    plot.append(svg("line", { x1: box.x - 4, x2: box.x, y1: y(value), y2: y(value), class: "lg-axis" }));
    plot.append(svg("text", { x: box.x - 7, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  const floor = box.y + box.height;
  plot.append(svg("text", { x: box.x, y: floor + 14 }, "first"));
  plot.append(svg("text", { x: box.x + box.width, y: floor + 14, "text-anchor": "end" }, "second"));
  plot.append(svg("text", { x: box.x + box.width / 2, y: floor + 30, "text-anchor": "middle" }, "along the curve"));
  for (const { colour, values } of answer.trends) {
    values.forEach((curve, k) => {
      const points = curve.map((v, n) => `${box.x + (n / (curve.length - 1)) * box.width},${y(v)}`).join(" ");
      const style = `stroke: ${colour}; stroke-width: 2; fill: none`;
      plot.append(svg("polyline", { points, style, ...(k === 1 && { "stroke-dasharray": "6 4" }) }));
    });
  }
  const keys = answer.trends.map(({ name, colour }) =>
    element("span", {}, element("i", { style: `background: ${colour}` }), name),
  );
  const heading = element("div", { class: "lg-name" }, sampleLine(false), "geodesic", sampleLine(true), "straight line");
  const figure = element("div", { class: "lg-trends" }, plot, element("div", { class: "lg-keys" }, ...keys));
  return [heading, figure];
}

function table(answer) {
  const lines = answer.rows.map(([name, value, note], k) => {
    const mark = element("td", {}, ...(k < 2 ? [sampleLine(k === 1)] : []));
    const warn = k === 0 && !answer.converged ? " lg-warn" : "";
    const last = element("td", { class: `lg-note${warn}` }, note);
    return element("tr", {}, mark, element("td", {}, name), element("td", { class: "lg-value" }, value), last);
  });
  return element("table", { class: "lg-table" }, ...lines);
}

function nearest(scene, x, y) {
  let best = null;
  let least = Infinity;
  for (const point of scene.points) {
    const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

function render({ model, el }) {
  const scene = readScene(model);
  const canvas = element("canvas", { class: "lg-points", "aria-hidden": "true" });
  const over = svg("svg", {
    class: "lg-over",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    tabindex: 0,
    role: "application",
    "aria-label":
      `Latent space, ${scene.points.length} points. Click two points for the geodesic between them; ` +
      "or go through the points with the arrow keys and choose with Enter.",
  });
  const curves = svg("g", { "pointer-events": "none", "clip-path": "inset(0)" });
  const hover = svg("circle", { r: 5.5, class: "lg-hover", visibility: "hidden", "pointer-events": "none" });
  drawPoints(canvas, scene);
  drawAxes(over, scene);
  over.append(curves, hover);

  const named = scene.classes.filter(({ name }) => name);
  const legend = named.map((kind) => element("span", {}, legendMark(kind), kind.name));
  const digits = Math.max(0, 1 - Math.floor(Math.log10(scene.levels[1] - scene.levels[0] || 1)));
  const [low, high] = scene.levels.map((level) => decimal(level, digits));
  const what = scene.caption.includes("volume element") ? "log volume element" : "log area element";
  const ramp = element("div", { class: "lg-ramp" });
  const scale = element("div", { class: "lg-scale" }, element("span", {}, what), low, ramp, high);
  const status = element("div", { class: "lg-status", role: "status", "aria-live": "polite" });
  const results = element("div", { class: "lg-results" });
  const caption = element("div", { class: "lg-caption" }, scene.caption);
  const root = element(
    "div",
    { class: "latentgeo-explorer" },
    element(
      "div",
      { class: "lg-map" },
      element("div", { class: "lg-plot" }, canvas, over),
      element("div", { class: "lg-legend" }, ...legend),
      scale,
    ),
    element("div", { class: "lg-side" }, status, results, caption),
  );
  el.append(root);

  let touched = false;
  let waiting = null;
  let at = null; // the point under the pointer, or reached by keys

  const name = ({ row, kind }) => (kind.name ? `${row} (${kind.name})` : String(row));

  function say() {
    const selected = model.get("selected");
    const answer = model.get("answer");
    const answered = String(answer.pair) === String(selected);
    root.classList.toggle("lg-busy", selected.length < 2 || !answered);
    status.classList.toggle("lg-warn", Boolean(answered && answer.error));
    if (selected.length === 1) {
      const first = scene.points.find(({ row }) => row === selected[0]);
      status.textContent = `from ${first ? name(first) : selected[0]} to … click a second point`;
    } else if (selected.length === 0) status.textContent = "click two points";
    else if (!answered) status.textContent = "solving …";
    else if (answer.error) status.textContent = answer.error;
    else status.textContent = `from ${answer.names.join(" to ")}${touched ? "" : ", for a start: click two points"}`;
  }

  function update() {
    const selected = model.get("selected");
    const answer = model.get("answer");
    drawCurves(curves, scene, answer, selected);
    if (String(answer.pair) === String(selected)) {
      clearTimeout(waiting);
      if (!answer.error) results.replaceChildren(...(answer.strips ? strips(answer) : trends(answer)), table(answer));
      root.dataset.pair = String(answer.pair); // what is drawn, for whoever waits for it
    }
    say();
  }

  function choose(point) {
    touched = true;
    const selected = model.get("selected");
    if (selected.length === 1 && selected[0] === point.row) return;
    const next = selected.length === 1 ? [selected[0], point.row] : [point.row];
    model.set("selected", next);
    model.save_changes();
    clearTimeout(waiting);
    if (next.length === 2) {
      waiting = setTimeout(() => {
        status.textContent = "no answer; is the kernel running, and idle?";
      }, PATIENCE);
    }
  }

  function look(point) {
    at = point;
    hover.setAttribute("visibility", point ? "visible" : "hidden");
    if (point) {
      hover.setAttribute("cx", point.x);
      hover.setAttribute("cy", point.y);
    }
    over.firstElementChild.textContent = point ? name(point) : "";
  }

  function under(event) {
    const box = over.getBoundingClientRect();
    const scaled = WIDTH / box.width;
    return nearest(scene, (event.clientX - box.left) * scaled, (event.clientY - box.top) * scaled);
  }

  over.prepend(svg("title")); // the browser's own tooltip
  over.addEventListener("mousemove", (event) => look(under(event)));
  over.addEventListener("mouseleave", () => look(null));
  over.addEventListener("click", (event) => choose(under(event)));
  over.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const count = scene.points.length;
    if (step) {
      look(scene.points[(scene.points.indexOf(at) + step + count) % count]);
      status.textContent = name(at);
    } else if ((event.key === "Enter" || event.key === " ") && at) choose(at);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the notebook has other plans for these keys
  });
  model.on("change:selected", update);
  model.on("change:answer", update);
  update();
  return () => {
    clearTimeout(waiting);
    model.off("change:selected", update);
    model.off("change:answer", update);
  };
}

export default { render };
