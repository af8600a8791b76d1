// The page: what is asked stands in the address, every change of it asks again, counts come after the hits.

import * as client from "./client.js";
import * as hits from "./hits.js";
import * as query from "./query.js";
import * as states from "./state.js";
import * as viewer from "./viewer.js";

const $ = (id) => document.getElementById(id);
const { element } = hits;
const PAGE = 36;
const FIELDS = ["modality", "anatomic_region", "pathology", "dataset", "split", "sex", "view"];

let who = null;
let known = [];
let state = states.read();
let shown = [];
let running = null;

const collection = () => known.find((item) => item.name === state.collection) || known[0];
const mayLook = () => who.roles.includes("images");
const asks = () => query.held.file || state.text || state.like.length;

function go(changes) {
  const before = states.write(state);
  state = { ...state, ...changes };
  state.upload = Boolean(query.held.file);
  const after = states.write(state);
  if (before !== after) history.pushState(null, "", after);
  refresh();
}

function request(skip) {
  const asked = { collection: collection().name, where: states.conditions(state), k: PAGE, skip };
  asked.exclude_same_patient = !state.sameToo;
  if (state.text) asked.text = state.text;
  asked.like = state.like.map((id) => ({ id }));
  asked.unlike = state.unlike.map((id) => ({ id }));
  if (state.oneEach) asked.group_by = "patient";
  if (query.held.file && query.held.box) asked.box = query.held.box;
  return asked;
}

async function refresh(skip = 0) {
  if (!known.length) return; // `begin` asks when the collections are known
  running?.abort();
  const mine = running = new AbortController();
  controls();
  const focused = document.activeElement?.closest?.(".hit")?.dataset.id;
  $("empty").hidden = Boolean(asks()) || state.upload;
  if (asks()) {
    say("Searching …");
    $("hits").classList.add("old");
    $("hits").setAttribute("aria-busy", "true");
    const began = performance.now();
    try {
      const answer = await client.search(request(skip), query.held.file, mine.signal);
      show(answer, skip, Math.round(performance.now() - began));
      if (focused) $("hits").querySelector(`[data-id="${focused}"] .open`)?.focus();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!skip) clear();
      failed(error);
    }
    $("hits").classList.remove("old");
    $("hits").removeAttribute("aria-busy");
  } else {
    clear();
    say("");
    if (state.upload) caution("The query image isn't here any more: uploads are not kept. Drop it again.");
  }
  if (!skip) await count(mine.signal);
}

function show(answer, skip, ms) {
  shown = skip ? [...shown, ...answer.hits] : answer.hits;
  const terms = { state, mayLook: mayLook(), open: (hit) => viewer.open(hit, shown, answer.collection, state, mayLook()), similar, mark };
  const cards = answer.hits.map((hit) => hits.card(hit, answer, terms));
  if (skip) $("hits").append(...cards);
  else $("hits").replaceChildren(...cards);
  $("cautions").replaceChildren();
  for (const text of [...answer.cautions, ...answer.notes]) caution(text);
  $("more").hidden = answer.hits.length < PAGE;
  const how = { exact: "all compared", graph: "by the graph, checked", approximate: "approximate: neighbours may be missing" };
  $("keys").hidden = !shown.length;
  const count = shown.length === 1 ? "1 hit" : `${shown.length} hits`;
  say(shown.length ? `${count} · ${answer.score} · ${how[answer.way] || answer.way} · ${ms} ms` : "No image passes the filters.");
}

function clear() {
  shown = [];
  $("hits").replaceChildren();
  $("cautions").replaceChildren();
  $("more").hidden = $("keys").hidden = true;
}

function failed(error) {
  if (error.status === 401) return signIn();
  say("");
  const text = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  $("cautions").replaceChildren(element("p", { className: "caution wrong", role: "alert" }, text));
}

const say = (text) => { $("status").textContent = text; };
const caution = (text) => $("cautions").append(element("p", { className: "caution" }, text));

function similar(id) {
  query.forget();
  go({ like: [id], unlike: [], text: "" });
  scrollTo({ top: 0 });
}

function mark(id, kind) {
  const other = kind === "like" ? "unlike" : "like";
  const has = state[kind].includes(id);
  go({
    [kind]: has ? state[kind].filter((item) => item !== id) : [...state[kind], id],
    [other]: state[other].filter((item) => item !== id),
  });
}

function controls() {
  const served = collection();
  $("collection").value = served.name;
  const images = served.images.toLocaleString("en");
  $("size").textContent = `${images} ${served.images === 1 ? "image" : "images"} · ${served.encoder}`;
  $("words").hidden = !served.texts;
  $("text").value = state.text;
  $("hide-patient").checked = !state.sameToo;
  $("one-each").checked = state.oneEach;
  $("drop").hidden = !served.takes;
  $("query-tools").hidden = !asks();
  $("another").hidden = !query.held.file;
  $("unfilter").hidden = !Object.keys(state.where).length;
  const list = (kind, heading) => state[kind].length ? [
    element("h3", {}, heading),
    element("ul", {}, ...state[kind].map((id) => {
      const button = element("button", { className: kind, type: "button", "aria-label": `Leave out this example (${heading})`, on: { click: () => mark(id, kind) } });
      if (mayLook()) hits.picture(client.thumbnail(id, served.name), "", button);
      button.append(element("span", { className: "cross", "aria-hidden": "true" }, "✕"));
      return element("li", {}, button);
    })),
  ] : [];
  $("examples").replaceChildren(...list("like", "Like"), ...list("unlike", "Unlike"));
}

async function count(signal) {
  const where = states.conditions(state);
  try {
    const counted = await client.facets({ collection: collection().name, where, fields: FIELDS, limit: 10 }, signal);
    $("passing").textContent = where.length ? `${counted.total.toLocaleString("en")} pass` : "";
    $("facets").replaceChildren(...FIELDS.map((field) => facet(field, counted)).filter(Boolean));
  } catch (error) {
    if (error.name !== "AbortError" && error.status !== 400) failed(error);
  }
}

function facet(field, counted) {
  const chosen = state.where[field] || [];
  const values = { ...counted.fields[field] };
  for (const value of chosen) values[value] ??= 0;
  const names = Object.keys(values);
  if (names.length < 2 && !chosen.length) return null;
  const focused = document.activeElement?.dataset?.facet;
  const made = element("fieldset", {}, element("legend", {}, hits.words[field]), ...names.map((value) => {
    const box = element("input", {
      type: "checkbox", checked: chosen.includes(value), "data-facet": `${field}=${value}`,
      on: { change: () => choose(field, value) },
    });
    if (box.dataset.facet === focused) queueMicrotask(() => box.focus());
    return element("label", { className: "facet" }, box, element("span", { title: value }, value), element("b", {}, values[value].toLocaleString("en")));
  }));
  if (counted.more.includes(field)) made.append(element("p", { className: "hint" }, "the most frequent"));
  return made;
}

function choose(field, value) {
  const chosen = state.where[field] || [];
  const where = { ...state.where, [field]: chosen.includes(value) ? chosen.filter((item) => item !== value) : [...chosen, value] };
  if (!where[field].length) delete where[field];
  go({ where });
}

async function signIn() {
  $("leave").hidden = true;
  if (!$("login").open) $("login").showModal();
}

async function begin() {
  who = await client.whoami();
  $("leave").hidden = !who.keyed || !who.csrf;
  known = await client.collections();
  if (!known.length) throw new Error("Your key shows no collection.");
  $("collection").replaceChildren(...known.map((item) => element("option", { value: item.name }, item.name)));
  await refresh();
}

function listen() {
  query.listen({
    taken: () => go({ text: "", like: [], unlike: [] }),
    changed: () => refresh(),
    cleared: () => { query.forget(); go({ text: "", like: [], unlike: [] }); },
    failed,
    collection: () => collection()?.name || "",
  });
  viewer.listen({ similar, mark, closed: (hit) => $("hits").querySelector(`[data-id="${hit?.id}"] .open`)?.focus() });
  $("collection").addEventListener("change", () => go({ collection: $("collection").value, where: {} }));
  $("words").addEventListener("submit", (event) => { event.preventDefault(); go({ text: $("text").value.trim() }); });
  $("hide-patient").addEventListener("change", () => go({ sameToo: !$("hide-patient").checked }));
  $("one-each").addEventListener("change", () => go({ oneEach: $("one-each").checked }));
  $("unfilter").addEventListener("click", () => go({ where: {} }));
  $("more").addEventListener("click", () => refresh(shown.length));
  $("leave").addEventListener("click", async () => { await client.signOut(); location.hash = ""; location.reload(); });
  $("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await client.signIn($("key").value);
      $("key").value = $("login-error").textContent = "";
      $("login").close();
      await begin();
    } catch (error) {
      $("login-error").textContent = error.message;
    }
  });
  $("login").addEventListener("cancel", (event) => event.preventDefault());
  addEventListener("popstate", () => { state = states.read(); if (!state.upload) query.forget(); refresh(); });
  addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || document.querySelector("dialog[open]");
    if (event.key === "/" && !typing && !$("words").hidden) { event.preventDefault(); $("text").focus(); }
  });
  if (matchMedia("(max-width: 820px)").matches) $("filters").open = false;
  const themed = (theme) => { document.documentElement.dataset.theme = theme; };
  themed(localStorage.getItem("theme") || "dark");
  $("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "light" ? "dark" : "light";
    localStorage.setItem("theme", theme);
    themed(theme);
  });
}

listen();
begin().catch(failed);
