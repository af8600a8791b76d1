// A hit, large, with what is known of it.

import * as client from "./client.js";
import { element, title, words } from "./hits.js";

const $ = (id) => document.getElementById(id);
let current = null;
let terms = null;
let zoom = { scale: 1, x: 0, y: 0 };

export function listen(given) {
  terms = given;
  const viewer = $("viewer");
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => terms.closed(current));
  $("view-similar").addEventListener("click", () => leave(() => terms.similar(current.id)));
  for (const kind of ["like", "unlike"]) {
    $(`view-${kind}`).addEventListener("click", () => leave(() => terms.mark(current.id, kind)));
  }
  viewer.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const by = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
    if (step) move(step);
    else if (by) scaled(by);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  const stage = $("stage");
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    scaled(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  }, { passive: false });
  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    held = [event.clientX - zoom.x, event.clientY - zoom.y];
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (held) [zoom.x, zoom.y] = [event.clientX - held[0], event.clientY - held[1]];
    if (held) apply();
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { held = null; });
  $("large").addEventListener("load", () => { $("stage-note").hidden = true; });
  $("large").addEventListener("error", async () => {
    const error = await client.reason($("large").src);
    note(error ? error.message : "The image could not be loaded.");
  });
}

export function open(hit, hits, collection, state, mayLook) {
  current = hit;
  Object.assign(terms, { hits, collection, state, mayLook });
  show();
  if (!$("viewer").open) $("viewer").showModal();
}

function show() {
  const { record } = current;
  fit();
  $("viewer-title").textContent = title(record);
  $("large").removeAttribute("src");
  $("large").alt = `${title(record)}, rank ${current.rank}`;
  if (terms.mayLook) {
    note("Loading …");
    $("large").src = client.image(current.id, terms.collection);
  } else note("Your key shows no images.");
  for (const kind of ["like", "unlike"]) {
    $(`view-${kind}`).setAttribute("aria-pressed", String(terms.state[kind].includes(current.id)));
  }
  const facts = { Collection: terms.collection, Rank: `${current.rank} of ${terms.hits.length} shown`, Score: current.score.toFixed(4) };
  if (current.possibly_same_patient) facts.Caution = "possibly the same patient";
  for (const [field, value] of Object.entries(record)) {
    const text = Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
    if (text) facts[words[field] || field] = text;
  }
  $("record").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function move(step) {
  const next = terms.hits[terms.hits.indexOf(current) + step];
  if (!next) return;
  current = next;
  show();
}

function leave(call) {
  $("viewer").close();
  call();
}

function note(text) {
  $("stage-note").textContent = text;
  $("stage-note").hidden = false;
}

function scaled(by) {
  zoom.scale = Math.min(12, Math.max(1, zoom.scale * by));
  if (zoom.scale === 1) zoom.x = zoom.y = 0;
  apply();
}

function fit() {
  zoom = { scale: 1, x: 0, y: 0 };
  apply();
}

function apply() {
  $("large").style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
}
