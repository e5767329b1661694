// The view of a latent space: points and background on a canvas, axes and curves as SVG above it, pictures and
// distances beside it. Everything shown is computed in Python; a click only says which points were meant. What part of
// the plane is seen, its window, is known here alone.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 500;
const HEIGHT = 460;
const PLOT = { x: 60, y: 6, width: 432, height: 412 }; // as in explorer.css
const SHADES = [255, 154]; // greys of the least and of the largest value
const PATIENCE = 15000; // milliseconds before a silent kernel is mentioned
const DRAG = 4; // pixels from which on a click is a drag
const ZOOM = [0.02, 2]; // the narrowest and the widest window, as shares of the first
const STEP = 1.4; // by which a key or a button zooms
const PAUSE = 80; // milliseconds over a point before its datum is asked for
const KEYS = "Drag to pan; the wheel, + and − zoom, 0 shows all. Arrow keys and Enter choose points, Escape clears.";

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

// A scene with its points, and the window that shows all of them.
function readScene(model) {
  const scene = model.get("scene");
  const flat = numbers(scene.places, Float32Array);
  const index = bytes(scene.index);
  const points = Array.from(numbers(scene.rows, Int32Array), (row, k) => {
    return { row, at: [flat[2 * k], flat[2 * k + 1]], kind: scene.classes[index[k]] };
  });
  return { ...scene, points };
}

// Where the window puts a place of the plane in the drawing, and the other way.
function place([[left, bottom], [right, top]], [x, y]) {
  return [
    PLOT.x + ((x - left) / (right - left)) * PLOT.width,
    PLOT.y + ((top - y) / (top - bottom)) * PLOT.height,
  ];
}

function placeUnder([[left, bottom], [right, top]], [x, y]) {
  return [
    left + ((x - PLOT.x) / PLOT.width) * (right - left),
    top - ((y - PLOT.y) / PLOT.height) * (top - bottom),
  ];
}

function drawShade(scene) {
  const { side } = scene;
  const image = new ImageData(side, side);
  bytes(scene.shade).forEach((shade, k) => {
    const target = 4 * ((side - 1 - Math.floor(k / side)) * side + (k % side)); // rows go up, pixels go down
    image.data.fill(SHADES[0] + (shade / 255) * (SHADES[1] - SHADES[0]), target, target + 3);
    image.data[target + 3] = 255;
  });
  const canvas = element("canvas", { width: side, height: side });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function drawPoints(canvas, scene, shade, seen) {
  const ratio = 2 * Math.max(1, window.devicePixelRatio || 1);
  canvas.width = PLOT.width * ratio;
  canvas.height = PLOT.height * ratio;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.scale(ratio, ratio);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, PLOT.width, PLOT.height);
  context.translate(-PLOT.x, -PLOT.y);
  const [left, floor] = place(seen, scene.window[0]);
  const [right, roof] = place(seen, scene.window[1]);
  context.drawImage(shade, left, roof, right - left, floor - roof);
  const r = scene.points.length > 1000 ? 2.6 : 3.6;
  context.strokeStyle = "#fff";
  context.lineWidth = 0.6;
  for (const { at, kind } of scene.points) {
    trace(context, kind.marker, ...place(seen, at), r);
    context.fillStyle = kind.colour;
    context.fill();
    context.stroke();
  }
}

function drawAxes(group, scene, seen) {
  const [[left, bottom], [right, top]] = seen;
  const floor = PLOT.y + PLOT.height;
  group.replaceChildren(svg("rect", { ...PLOT, class: "lg-axis" }));
  for (const { value, text } of ticks(left, right)) {
    const [x] = place(seen, [value, bottom]);
    group.append(svg("line", { x1: x, x2: x, y1: floor, y2: floor + 4, class: "lg-axis" }));
    group.append(svg("text", { x, y: floor + 17, "text-anchor": "middle" }, text));
  }
  for (const { value, text } of ticks(bottom, top)) {
    const [, y] = place(seen, [left, value]);
    group.append(svg("line", { x1: PLOT.x - 4, x2: PLOT.x, y1: y, y2: y, class: "lg-axis" }));
    group.append(svg("text", { x: PLOT.x - 8, y: y + 4, "text-anchor": "end" }, text));
  }
  const middle = [PLOT.x + PLOT.width / 2, PLOT.y + PLOT.height / 2];
  group.append(axisName(scene.axes[0], { x: middle[0], y: HEIGHT - 6, "text-anchor": "middle" }));
  const turned = { transform: `translate(10 ${middle[1]}) rotate(-90)`, "text-anchor": "middle" };
  group.append(axisName(scene.axes[1], turned));
}

function drawCurves(group, scene, seen, answer, selected) {
  group.replaceChildren();
  const fits = answer.curves && String(answer.pair) === String(selected);
  if (fits) {
    const lines = answer.curves.map((curve) => curve.map((point) => place(seen, point).join(",")).join(" "));
    for (const points of lines) group.append(svg("polyline", { points, class: "lg-casing" }));
    lines.forEach((points, k) => {
      group.append(svg("polyline", { points, class: k === 1 ? "lg-curve lg-dashed" : "lg-curve" }));
    });
  }
  // A chosen row need not be among the points that are drawn, where Python chose it.
  const found = selected.map((row) => scene.points.find((point) => point.row === row));
  const codes = fits ? answer.ends : found.filter(Boolean).map(({ at }) => at);
  codes.forEach((code, k) => {
    const [x, y] = place(seen, fits ? answer.curves[0].at(-k) : code);
    const [x2, y2] = place(seen, code);
    group.append(svg("line", { x1: x, y1: y, x2, y2, class: "lg-leader" })); // a curve ends near the code, not at it
    group.append(svg("circle", { cx: x, cy: y, r: 8, class: "lg-end" }));
    group.append(svg("text", { x, y: y + 4, class: "lg-number", "text-anchor": "middle" }, String(k + 1)));
  });
}

function paint(context, pixels, [height, width, channels], x, start = 0) {
  const image = new ImageData(width, height);
  for (let p = 0; p < height * width; p += 1) {
    for (let c = 0; c < 3; c += 1) image.data[4 * p + c] = pixels[start + p * channels + (channels === 3 ? c : 0)];
    image.data[4 * p + 3] = 255;
  }
  context.putImageData(image, x, 0);
}

// Images side by side, the first and the last apart where they are the originals.
function strip(pixels, [count, ...shape], first, originals) {
  const [height, width, channels] = shape;
  const gap = Math.max(1, Math.round(width / 28));
  const apart = originals ? Math.round(width / 3) : 0;
  const canvas = element("canvas", { width: count * (width + gap) - gap + 2 * apart, height, role: "img" });
  const context = canvas.getContext("2d");
  for (let k = 0; k < count; k += 1) {
    const x = k * (width + gap) + apart * ((k > 0) + (k === count - 1));
    paint(context, pixels, shape, x, (first + k) * height * width * channels);
  }
  return canvas;
}

function strips(answer) {
  const pixels = bytes(answer.strips);
  const [count] = answer.shape;
  return ["geodesic", "straight line"].map((name, k) => {
    const canvas = strip(pixels, answer.shape, k * count, answer.originals);
    const [what, between] = answer.originals ? [count - 2, ", between the originals"] : [count, ""];
    canvas.setAttribute("aria-label", `${what} images along the ${name}, from ${answer.names.join(" to ")}${between}`);
    const heading = element("div", { class: "lg-name" }, sampleLine(k === 1), `${name}, decoded${between}`);
    return element("figure", { class: "lg-strip" }, heading, canvas);
  });
}

function trends(answer) {
  const box = { x: 44, y: 8, width: 286, height: 172 };
  const every = answer.trends.flatMap(({ values, originals }) => [...values.flat(), ...originals]);
  const all = every.filter((value) => value !== null); // what is not finite leaves a gap
  const low = all.length ? Math.min(...all) : 0;
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
  plot.append(svg("text", { x: box.x, y: floor + 14, "text-anchor": "middle" }, "①"));
  plot.append(svg("text", { x: box.x + box.width, y: floor + 14, "text-anchor": "middle" }, "②"));
  plot.append(svg("text", { x: box.x + box.width / 2, y: floor + 30, "text-anchor": "middle" }, "along the curve"));
  for (const { colour, values, originals } of answer.trends) {
    originals.forEach((value, k) => {
      if (value === null) return;
      plot.append(svg("circle", { cx: box.x + k * box.width, cy: y(value), r: 4, fill: colour, class: "lg-original" }));
    });
    values.forEach((curve, k) => {
      const place = (v, n) => (v === null ? "|" : `${box.x + (n / (curve.length - 1)) * box.width},${y(v)}`);
      const style = `stroke: ${colour}; stroke-width: 2; fill: none`;
      for (const points of curve.map(place).join(" ").split("|")) {
        plot.append(svg("polyline", { points: points.trim(), style, ...(k === 1 && { "stroke-dasharray": "6 4" }) }));
      }
    });
  }
  const keys = answer.trends.map(({ name, colour }) =>
    element("span", {}, element("i", { style: `background: ${colour}` }), name),
  );
  const dots = answer.trends.some(({ originals }) => originals.length) ? [element("span", {}, "● originals")] : [];
  const lines = [sampleLine(false), "geodesic", sampleLine(true), "straight line"];
  const heading = element("div", { class: "lg-name" }, ...lines, ...dots);
  const figure = element("div", { class: "lg-trends" }, plot, element("div", { class: "lg-keys" }, ...keys));
  return [heading, figure];
}

function table(answer) {
  const lines = answer.rows.map(([name, value, unit, note], k) => {
    const mark = element("td", {}, ...(k < 2 ? [sampleLine(k === 1)] : []));
    const warn = k === 0 && !answer.converged ? " lg-warn" : "";
    const last = element("td", { class: `lg-note${warn}` }, note);
    const number = element("td", { class: "lg-value" }, value);
    return element("tr", {}, mark, element("td", {}, name), number, element("td", { class: "lg-unit" }, unit), last);
  });
  return element("table", { class: "lg-table" }, ...lines);
}

function nearest(scene, seen, [x, y]) {
  let best = null;
  let least = Infinity;
  for (const point of scene.points) {
    const [px, py] = place(seen, point.at);
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

// A menu for each axis. Both are coordinates, or both are principal axes: one that does not fit makes the other follow.
function menus(model, scene) {
  const { menu } = scene;
  const principal = (k) => menu[k].startsWith("principal");
  if (menu.length === 2) return [];
  return ["horizontal", "vertical"].map((name, side) => {
    const options = menu.map((option, k) => element("option", { value: k }, option.replace("_", "")));
    const select = element("select", { "aria-label": `${name} axis` }, ...options);
    const show = () => {
      select.value = model.get("axes")[side];
    };
    select.addEventListener("change", () => {
      const axes = [...model.get("axes")];
      const [mine, other] = [Number(select.value), axes[1 - side]];
      const before = axes[side];
      axes[side] = mine;
      if (mine === other) axes[1 - side] = before;
      else if (principal(mine) !== principal(other)) {
        axes[1 - side] = menu.findIndex((_, k) => k !== mine && principal(k) === principal(mine));
      }
      model.set("axes", axes);
      model.save_changes();
    });
    model.on("change:axes", show);
    show();
    return element("label", {}, side ? "↑" : "→", select);
  });
}

let views = 0; // in this page, to tell their parts apart

function render({ model, el }) {
  let scene = readScene(model);
  let shade = drawShade(scene);
  let seen = scene.window;
  views += 1;
  const names = { clip: `lg-clip-${views}`, keys: `lg-keys-${views}` };
  const canvas = element("canvas", { class: "lg-points", "aria-hidden": "true" });
  const over = svg("svg", {
    class: "lg-over",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    tabindex: 0,
    role: "application",
    "aria-label": `Latent space, ${scene.points.length} points. Choose two points for the geodesic between them.`,
    "aria-describedby": names.keys,
    "aria-keyshortcuts":
      "ArrowLeft ArrowRight Enter Escape + - 0 Shift+ArrowLeft Shift+ArrowRight Shift+ArrowUp Shift+ArrowDown",
  });
  const axes = svg("g");
  const curves = svg("g");
  const hover = svg("circle", { r: 5.5, class: "lg-hover", visibility: "hidden" });
  const inside = svg("g", { "pointer-events": "none", "clip-path": `url(#${names.clip})` }, curves, hover);
  over.append(svg("clipPath", { id: names.clip }, svg("rect", PLOT)), axes, inside);
  const glance = element("div", { class: "lg-glance", hidden: "" });
  const button = (text, label, action) => {
    const made = element("button", { type: "button", title: label, "aria-label": label }, text);
    made.addEventListener("click", action);
    return made;
  };
  const buttons = element(
    "div",
    { class: "lg-buttons" },
    button("+", "zoom in", () => zoom(1 / STEP)),
    button("−", "zoom out", () => zoom(STEP)),
    button("⤢", "show all", () => show(whole(), "all points")),
  );

  const named = scene.classes.filter(({ name }) => name);
  const legend = named.map((kind) => element("span", {}, legendMark(kind), kind.name));
  const scale = element("div", { class: "lg-scale" });
  const status = element("div", { class: "lg-status", role: "status", "aria-live": "polite" });
  const said = element("div", { class: "lg-said", role: "status", "aria-live": "polite" });
  const results = element("div", { class: "lg-results" });
  const caption = element("div", { class: "lg-caption" });
  const root = element(
    "div",
    { class: "latentgeo-explorer" },
    element(
      "div",
      { class: "lg-map" },
      element("div", { class: "lg-plot" }, canvas, over, buttons, glance),
      element("div", { class: "lg-menus" }, ...menus(model, scene)),
      element("div", { class: "lg-legend" }, ...legend),
      scale,
      element("div", { class: "lg-help", id: names.keys }, KEYS),
    ),
    element("div", { class: "lg-side" }, status, said, results, caption),
  );
  el.append(root);

  let touched = false;
  let waiting = null;
  let asking = null;
  let drawing = null;
  let at = null; // the point under the pointer, or reached by keys
  let drag = null; // where it began, and the window then
  let dragged = false;
  const data = new Map(); // what points showed, by row

  const name = ({ row, kind }) => (kind.name ? `${row} (${kind.name})` : String(row));

  function describe() {
    const digits = Math.max(0, 1 - Math.floor(Math.log10(scene.levels[1] - scene.levels[0] || 1)));
    const [low, high] = scene.levels.map((level) => decimal(level, digits));
    const what = scene.caption.includes("volume element") ? "log volume element" : "log area element";
    scale.replaceChildren(element("span", {}, what), low, element("div", { class: "lg-ramp" }), high);
    caption.textContent = scene.caption;
  }

  function draw() {
    cancelAnimationFrame(drawing);
    drawing = requestAnimationFrame(() => {
      drawPoints(canvas, scene, shade, seen);
      drawAxes(axes, scene, seen);
      drawCurves(curves, scene, seen, model.get("answer"), model.get("selected"));
      mark();
      root.dataset.window = seen.flat().join(","); // what is drawn, for whoever waits for it
    });
  }

  // Show a window of the plane, and say so to those who do not see it.
  function show(window, words) {
    seen = window;
    if (words) said.textContent = words;
    draw();
  }

  // Zoom about a place of the plane, by default the middle; false where the limit is reached.
  function zoom(factor, about) {
    const [[left, bottom], [right, top]] = seen;
    const whole = scene.window[1][0] - scene.window[0][0];
    const share = (right - left) / whole;
    const wanted = Math.min(Math.max(ZOOM[1], share), Math.max(ZOOM[0], share * factor));
    if (wanted === share) return false;
    const by = wanted / share;
    const [x, y] = about || [(left + right) / 2, (bottom + top) / 2];
    const moved = [
      [x + by * (left - x), y + by * (bottom - y)],
      [x + by * (right - x), y + by * (top - y)],
    ];
    show(moved, `${(1 / wanted).toFixed(1)} times as large`);
    return true;
  }

  // All points, and the curves where they leave them.
  const whole = () => (model.get("selected").length === 2 && model.get("answer").window) || scene.window;

  function pan(window, right, up) {
    return window.map(([x, y]) => [
      x + right * (window[1][0] - window[0][0]),
      y + up * (window[1][1] - window[0][1]),
    ]);
  }

  function say() {
    const selected = model.get("selected");
    const answer = model.get("answer");
    const answered = String(answer.pair) === String(selected);
    root.classList.toggle("lg-busy", selected.length < 2 || !answered);
    status.classList.toggle("lg-warn", Boolean(answered && answer.error));
    if (selected.length === 1) {
      const first = scene.points.find(({ row }) => row === selected[0]);
      status.textContent = `from ① ${first ? name(first) : selected[0]} to … click a second point`;
    } else if (selected.length === 0) status.textContent = "click two points";
    else if (!answered) status.textContent = "solving …";
    else if (answer.error) status.textContent = answer.error;
    else {
      const [first, second] = answer.names;
      status.textContent = `from ① ${first} to ② ${second}${touched ? "" : ", for a start: click two points"}`;
    }
  }

  function update() {
    const selected = model.get("selected");
    const answer = model.get("answer");
    draw();
    if (String(answer.pair) === String(selected)) {
      clearTimeout(waiting);
      if (!answer.error) results.replaceChildren(...(answer.strips ? strips(answer) : trends(answer)), table(answer));
      root.dataset.pair = String(answer.pair); // what is drawn, for whoever waits for it
    } else if (selected.length === 0) results.replaceChildren();
    say();
  }

  function turn() {
    scene = readScene(model);
    shade = drawShade(scene);
    look(null);
    describe();
    show(scene.window, scene.axes.join(" and "));
  }

  function choose(point) {
    touched = true;
    const selected = model.get("selected");
    if (selected.length === 1 && selected[0] === point.row) return;
    select(selected.length === 1 ? [selected[0], point.row] : [point.row]);
  }

  function select(next) {
    model.set("selected", next);
    model.save_changes();
    clearTimeout(waiting);
    if (next.length === 2) {
      waiting = setTimeout(() => {
        status.textContent = "no answer; is the kernel running, and idle?";
      }, PATIENCE);
    }
  }

  // Mark the point that is looked at, and put its datum beside it.
  function mark() {
    hover.setAttribute("visibility", at ? "visible" : "hidden");
    glance.hidden = !at;
    if (!at) return;
    const [x, y] = place(seen, at.at);
    hover.setAttribute("cx", x);
    hover.setAttribute("cy", y);
    const [right, low] = [x > WIDTH / 2, y > HEIGHT / 2];
    glance.style.left = `${(100 * x) / WIDTH}%`;
    glance.style.top = `${(100 * y) / HEIGHT}%`;
    glance.style.transform = `translate(${right ? "calc(-100% - 12px)" : "12px"}, ${low ? "calc(-100% - 6px)" : "6px"})`;
    glance.replaceChildren(element("div", { class: "lg-name" }, name(at)), ...(data.get(at.row) || []));
  }

  function look(point) {
    if (point === at) return;
    at = point;
    clearTimeout(asking);
    mark();
    if (point && !data.has(point.row)) asking = setTimeout(() => model.send({ row: point.row }), PAUSE);
  }

  function receive({ row, shape, features }, buffers) {
    if (shape) {
      const picture = element("canvas", { width: shape[1], height: shape[0] });
      paint(picture.getContext("2d"), bytes(buffers[0]), shape, 0);
      data.set(row, [picture]);
    } else {
      const lines = features.map(([feature, value]) =>
        element("tr", {}, element("td", {}, feature), element("td", { class: "lg-value" }, value)),
      );
      data.set(row, [element("table", {}, ...lines)]);
    }
    mark();
  }

  function position(event) {
    const box = over.getBoundingClientRect();
    return [((event.clientX - box.left) * WIDTH) / box.width, ((event.clientY - box.top) * WIDTH) / box.width];
  }

  function drop() {
    drag = null;
    root.classList.remove("lg-dragging");
  }

  const under = (event) => nearest(scene, seen, position(event));

  over.addEventListener("pointerdown", (event) => {
    dragged = false;
    if (event.button === 0) drag = { from: position(event), at: [event.clientX, event.clientY], seen };
  });
  over.addEventListener("pointermove", (event) => {
    if (!(event.buttons & 1)) drop(); // let go elsewhere
    if (drag && Math.hypot(event.clientX - drag.at[0], event.clientY - drag.at[1]) > DRAG) dragged = true;
    if (!drag || !dragged) {
      look(under(event));
      return;
    }
    over.setPointerCapture(event.pointerId);
    root.classList.add("lg-dragging");
    look(null);
    const [x, y] = position(event);
    show(pan(drag.seen, (drag.from[0] - x) / PLOT.width, (y - drag.from[1]) / PLOT.height));
  });
  over.addEventListener("pointerup", drop);
  over.addEventListener("pointercancel", drop);
  over.addEventListener("pointerleave", () => look(null));
  over.addEventListener("click", (event) => {
    if (!dragged) choose(under(event));
  });
  over.addEventListener(
    "wheel",
    (event) => {
      const pixels = event.deltaY * (event.deltaMode ? 16 : 1);
      // Where nothing is left to zoom, the page scrolls.
      if (zoom(1.0015 ** pixels, placeUnder(seen, position(event)))) event.preventDefault();
    },
    { passive: false },
  );
  over.addEventListener("keydown", (event) => {
    const [right, up] = { ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowUp: [0, 1] }[event.key] || [];
    if (right !== undefined && event.shiftKey) show(pan(seen, 0.1 * right, 0.1 * up), "moved");
    else if (right !== undefined) {
      const count = scene.points.length;
      const step = right - up;
      look(scene.points[(scene.points.indexOf(at) + step + count) % count]);
      const [x, y] = at.at;
      const out = x < seen[0][0] || x > seen[1][0] || y < seen[0][1] || y > seen[1][1];
      const middle = [(seen[0][0] + seen[1][0]) / 2, (seen[0][1] + seen[1][1]) / 2];
      if (out) show(seen.map((corner) => [corner[0] + x - middle[0], corner[1] + y - middle[1]]));
      said.textContent = name(at);
    } else if ((event.key === "Enter" || event.key === " ") && at) choose(at);
    else if (event.key === "+" || event.key === "=") zoom(1 / STEP);
    else if (event.key === "-") zoom(STEP);
    else if (event.key === "0") show(whole(), "all points");
    else if (event.key === "Escape") {
      touched = true;
      look(null);
      select([]);
      said.textContent = "cleared";
    } else return;
    event.preventDefault();
    event.stopPropagation(); // the notebook has other plans for these keys
  });
  model.on("change:selected", update);
  model.on("change:answer", update);
  model.on("change:scene", turn);
  model.on("msg:custom", receive);
  describe();
  update();
  return () => {
    clearTimeout(waiting);
    clearTimeout(asking);
    cancelAnimationFrame(drawing);
  };
}

export default { render };
