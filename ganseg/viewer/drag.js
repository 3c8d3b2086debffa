// A picture under points that can be dragged: each part has a numbered centre, which moves the part, and its points.
// The points are redrawn here at once and follow the pointer whatever the kernel does. ipywidgets keeps one message
// in flight and merges the rest. Each message holds all points, so merging loses nothing.

const CENTER_PX = 11, POINT_PX = 6, REACH_PX = 14; // radii on the screen
const STEP = 1 / 32; // of an arrow key, in units of [-1, 1]. Shift makes it four times as long
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function render({ model, el }) {
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.className = "ganseg-drag";
  canvas.style.touchAction = "none";
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Generated picture with its parts. Tab: next centre or point. Arrow keys: move it. Escape: leave.");
  canvas.setAttribute("data-lm-suppress-shortcuts", "true"); // else Lab takes the keys, and a "b" inserts a cell
  const live = document.createElement("span"); // what a screen reader says
  live.setAttribute("aria-live", "polite");
  live.style.cssText = "position: absolute; left: -9999px";
  el.append(canvas, live);
  const draw = canvas.getContext("2d");
  let bitmap = null, newest = 0;
  let points = [], handle = null, held = false, leaving = false; // handle: [part, point], point -1 is the centre

  const size = () => model.get("size");
  const wide = () => (bitmap ? bitmap.width : size());
  // -1 and 1 lie on the centres of the outermost pixels
  const toScreen = (v) => (((v + 1) / 2) * (wide() - 1) + 0.5) * (size() / wide());
  const fromScreen = (px) => (2 * ((px * wide()) / size() - 0.5)) / (wide() - 1) - 1;
  const clamp = (v) => Math.min(1, Math.max(-1, v));
  const center = (part) => [0, 1].map((axis) => part.reduce((sum, point) => sum + point[axis], 0) / part.length);
  const where = ([k, j]) => (j < 0 ? center(points[k]) : points[k][j]);
  const seen = (one) => where(one).map((v) => toScreen(clamp(v))); // what lies outside is drawn, and grasped, at the border
  const handles = () => model.get("shown").flatMap((k) => [-1, ...points[k].keys()].map((j) => [k, j]));
  const same = (a, b) => a && b && a[0] === b[0] && a[1] === b[1];

  function paint() {
    const scale = window.devicePixelRatio || 1;
    canvas.style.width = canvas.style.height = `${size()}px`;
    canvas.width = canvas.height = size() * scale;
    draw.setTransform(scale, 0, 0, scale, 0, 0);
    draw.imageSmoothingEnabled = false;
    if (bitmap) draw.drawImage(bitmap, 0, 0, size(), size());
    const colors = model.get("colors"), sorted = handles().sort((a, b) => b[1] - a[1]); // centres on top
    for (const one of sorted) {
      const [x, y] = seen(one), isCenter = one[1] < 0;
      draw.beginPath();
      draw.arc(x, y, isCenter ? CENTER_PX : POINT_PX, 0, 2 * Math.PI);
      draw.fillStyle = colors[one[0]];
      draw.fill();
      draw.lineWidth = same(one, handle) ? 4 : 1.5;
      draw.strokeStyle = "black";
      draw.stroke();
      if (same(one, handle)) {
        draw.lineWidth = 1.5;
        draw.strokeStyle = "white";
        draw.stroke();
      }
      if (!isCenter) continue;
      draw.font = "bold 13px sans-serif";
      draw.textAlign = "center";
      draw.textBaseline = "middle";
      draw.lineWidth = 3;
      draw.strokeStyle = "white";
      draw.strokeText(one[0] + 1, x, y);
      draw.fillStyle = "black";
      draw.fillText(one[0] + 1, x, y);
    }
  }

  function choose(one) {
    handle = one;
    if (one) {
      live.textContent = `part ${one[0] + 1}, ${one[1] < 0 ? "centre" : `point ${one[1] + 1}`}`;
      model.set("selected", one[0] + 1);
      model.save_changes();
    }
    paint();
  }

  function move(x, y) {
    const [k, j] = handle, [x0, y0] = where(handle);
    const [dx, dy] = [clamp(x) - x0, clamp(y) - y0];
    points = points.map((part, i) => (i !== k ? part : part.map((p, n) => (j < 0 || n === j ? [p[0] + dx, p[1] + dy] : p))));
    model.set("points", points);
    model.save_changes();
    paint();
  }

  const newGesture = () => model.set("gesture", model.get("gesture") + 1); // undo takes back a whole gesture

  function pointer(event) {
    const box = canvas.getBoundingClientRect(); // smaller than `size` where the page is narrow or zoomed
    return [((event.clientX - box.left) * size()) / box.width, ((event.clientY - box.top) * size()) / box.height];
  }

  function nearest(event) {
    const [x, y] = pointer(event);
    const far = (one) => Math.hypot(...seen(one).map((v, axis) => v - [x, y][axis]));
    const sorted = handles().map((one) => [far(one), one]).sort((a, b) => a[0] - b[0]);
    return sorted.length && sorted[0][0] <= REACH_PX ? sorted[0][1] : null;
  }

  function partAt(event) { // the part that the pixel under the pointer belongs to, from 1; 0 for background
    const labels = model.get("labels"), side = Math.sqrt(labels.byteLength);
    const [column, row] = pointer(event).map((px) => Math.min(side - 1, Math.max(0, Math.floor((px / size()) * side))));
    return side ? labels.getUint8(row * side + column) : 0;
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus();
    const found = nearest(event);
    held = found !== null;
    if (held) {
      canvas.setPointerCapture(event.pointerId);
      newGesture();
    }
    choose(found);
    if (!held && partAt(event)) {
      model.set("selected", partAt(event));
      model.save_changes();
      live.textContent = model.get("names")[partAt(event) - 1];
    }
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held) return move(...pointer(event).map(fromScreen));
    const near = nearest(event), part = near ? near[0] + 1 : partAt(event);
    canvas.style.cursor = near ? "grab" : part ? "pointer" : "default";
    canvas.title = part ? model.get("names")[part - 1] : "";
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (held = false));
  canvas.addEventListener("keydown", (event) => {
    const all = handles(), i = all.findIndex((one) => same(one, handle));
    if (event.key === "Tab") {
      if (leaving) return;
      const next = handle ? i + (event.shiftKey ? -1 : 1) : event.shiftKey ? -1 : 0;
      if (!all[next]) return choose(null); // beyond the last the focus goes on
      choose(all[next]);
    } else if (event.key === "Escape" && handle) {
      leaving = true; // the next Tab
      choose(null);
    } else if (event.key in ARROWS && handle) {
      const [x, y] = where(handle), step = STEP * (event.shiftKey ? 4 : 1);
      if (!event.repeat) newGesture();
      move(x + step * ARROWS[event.key][0], y + step * ARROWS[event.key][1]);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  canvas.addEventListener("blur", () => (leaving = false));

  function undoOrRedo(event) {
    const key = event.key.toLowerCase(), isText = event.target.matches("textarea, input[type=text], input[type=number]");
    if (isText || !(event.ctrlKey || event.metaKey) || !(key === "z" || key === "y")) return;
    model.send(key === "y" || event.shiftKey ? "redo" : "undo");
    event.preventDefault();
    event.stopPropagation();
  }
  let panel = canvas; // then all of the inspector around it, which is there a moment later
  panel.addEventListener("keydown", undoOrRedo);
  const settled = setTimeout(() => {
    panel.removeEventListener("keydown", undoOrRedo);
    panel = canvas.closest(".ganseg-inspector") || canvas;
    panel.addEventListener("keydown", undoOrRedo);
  }, 500);

  async function takePicture() {
    const turn = ++newest, bytes = model.get("png");
    const next = bytes.byteLength ? await createImageBitmap(new Blob([bytes], { type: "image/png" })) : null;
    if (turn !== newest) return; // a newer one came while this was unpacked
    bitmap = next;
    paint();
    canvas.dataset.pictures = Number(canvas.dataset.pictures || 0) + 1; // for tests: how many were shown
  }
  function takePoints() {
    points = model.get("points");
    if (handle && !points[handle[0]]) handle = null;
    paint();
  }
  const listeners = { png: takePicture, points: takePoints, shown: paint, size: paint, colors: paint };
  for (const name in listeners) model.on(`change:${name}`, listeners[name]);
  takePoints();
  takePicture();
  return () => {
    clearTimeout(settled);
    panel.removeEventListener("keydown", undoOrRedo);
    for (const name in listeners) model.off(`change:${name}`, listeners[name]);
  };
}

export default { render };
