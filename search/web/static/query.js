// The uploaded image: dropped, pasted or chosen, shown, and a region drawn on it. It stays in this page's memory.

import * as client from "./client.js";

const $ = (id) => document.getElementById(id);
const SHOWN_BY_BROWSERS = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];

export const held = { file: null, box: null, width: 0, height: 0 };

export function listen({ taken, changed, cleared, failed, collection }) {
  const choose = () => $("file").click();
  $("choose").addEventListener("click", choose);
  $("another").addEventListener("click", choose);
  $("clear").addEventListener("click", cleared);
  $("whole").addEventListener("click", () => setBox(null, changed));
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = "";
    if (file) take(file);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files || [];
    if (file) take(file);
  });
  let depth = 0;
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (carriesFile(event)) $("veil").hidden = !(depth += 1);
  });
  document.addEventListener("dragleave", (event) => {
    if (carriesFile(event)) $("veil").hidden = !(depth = Math.max(0, depth - 1));
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    $("veil").hidden = true;
    const [file] = event.dataTransfer?.files || [];
    if (file) take(file);
  });

  async function take(file) {
    Object.assign(held, { file, box: null, width: 0, height: 0 });
    taken();
    try {
      await show(file, collection());
    } catch (error) {
      failed(error);
    }
  }
  drawing(changed);
}

export function forget() {
  Object.assign(held, { file: null, box: null, width: 0, height: 0 });
  $("frame").hidden = $("region").hidden = $("whole").hidden = true;
  $("invite").hidden = false;
  $("drop").classList.remove("held");
  $("box").hidden = true;
}

async function show(file, collection) {
  let shown = null;
  if (SHOWN_BY_BROWSERS.includes(file.type)) {
    shown = { url: URL.createObjectURL(file) };
    if (!(await loads(shown.url))) shown = null;
  }
  shown ||= await client.preview(file, collection);
  if (file !== held.file || !(await loads(shown.url))) return;
  held.width = shown.width || $("preview").naturalWidth;
  held.height = shown.height || $("preview").naturalHeight;
  $("preview").style.setProperty("--ratio", held.width / held.height); // small images are shown larger
  $("invite").hidden = true;
  $("frame").hidden = $("region").hidden = false;
  $("drop").classList.add("held");
  paint();
}

function loads(url) {
  return new Promise((done) => {
    $("preview").onload = () => done(true);
    $("preview").onerror = () => done(false);
    $("preview").src = url;
  });
}

function drawing(changed) {
  const frame = $("frame");
  let start = null;
  const at = (event) => {
    const area = $("preview").getBoundingClientRect();
    const part = (value, low, length) => Math.min(1, Math.max(0, (value - low) / length));
    return [part(event.clientX, area.left, area.width) * held.width, part(event.clientY, area.top, area.height) * held.height];
  };
  frame.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    start = at(event);
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    if (start) held.box = between(start, at(event));
    if (start) paint();
  });
  frame.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = between(start, at(event));
    start = null;
    setBox(Math.min(box[2], box[3]) < 4 ? null : box, changed);
  });
  frame.addEventListener("pointercancel", () => {
    start = null;
    setBox(null, changed);
  });
  let later = null;
  frame.addEventListener("keydown", (event) => {
    const side = Math.round(Math.min(held.width, held.height) / 3);
    const step = Math.max(1, Math.round(Math.max(held.width, held.height) / 40));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key.toLowerCase() === "r") {
      held.box = [Math.round((held.width - side) / 2), Math.round((held.height - side) / 2), side, side];
    } else if (event.key === "Escape" && held.box) {
      held.box = null;
    } else if (moves[event.key] && held.box) {
      const [right, down] = moves[event.key];
      let [x, y, width, height] = held.box;
      if (event.shiftKey) [width, height] = [width + right, height + down];
      else [x, y] = [x + right, y + down];
      width = Math.min(Math.max(width, 4), held.width);
      height = Math.min(Math.max(height, 4), held.height);
      held.box = [Math.min(Math.max(x, 0), held.width - width), Math.min(Math.max(y, 0), held.height - height), width, height];
    } else return;
    event.preventDefault();
    paint();
    clearTimeout(later);
    later = setTimeout(changed, 250);
  });
  new ResizeObserver(paint).observe(frame);
}

function between([x, y], [otherX, otherY]) {
  const left = Math.floor(Math.min(x, otherX)), top = Math.floor(Math.min(y, otherY));
  return [left, top, Math.floor(Math.max(x, otherX)) - left, Math.floor(Math.max(y, otherY)) - top];
}

function setBox(box, changed) {
  const before = String(held.box);
  held.box = box;
  paint();
  if (box || before !== "null") changed();
}

function paint() {
  $("box").hidden = $("whole").hidden = !held.box;
  if (!held.box) return;
  const picture = $("preview");
  const scale = picture.clientWidth / held.width;
  const [x, y, width, height] = held.box;
  Object.assign($("box").style, {
    left: `${picture.offsetLeft + x * scale}px`, top: `${picture.offsetTop + y * scale}px`,
    width: `${width * scale}px`, height: `${height * scale}px`,
  });
}
