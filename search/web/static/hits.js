// The grid of hits: each loads by itself, and says by its look whether it is loading, missing, or failed.

import * as client from "./client.js";

export const words = {
  dataset: "Data set", modality: "Modality", anatomic_region: "Region", pathology: "Finding", split: "Split",
  labels: "Labels", primary_label: "First label", kind: "Kind", width: "Width", height: "Height", depth: "Slices",
  age_years: "Age in years", sex: "Sex", view: "View", filepath: "File", patient_id: "Patient", study_id: "Study",
  series_id: "Series", study_date: "Date", sha256: "SHA-256", thumbnail_url: "Thumbnail", extra: "Own columns",
};

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
    else if (name in made && name !== "role") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const title = (record) => record.primary_label || record.labels?.[0] || record.modality || "no label";

// An image in its place; what went wrong is asked once it has.
export function picture(url, alt, into) {
  into.classList.add("loading");
  const image = element("img", { alt, loading: "lazy", decoding: "async" });
  image.addEventListener("load", () => into.classList.remove("loading"));
  image.addEventListener("error", async () => {
    image.remove();
    const error = await client.reason(url);
    into.classList.remove("loading");
    const missing = error && error.status === 404;
    into.classList.add(missing ? "missing" : "failed");
    const why = !error ? "could not be loaded" : missing ? "no image here" : error.message;
    into.append(element("span", { className: "why", title: error?.message || "" }, why));
  });
  image.src = url;
  into.append(image);
}

export function card(hit, answer, { state, mayLook, open, similar, mark }) {
  const record = hit.record;
  const named = `${title(record)}, rank ${hit.rank}`;
  const shown = element("button", {
    className: "open", type: "button", "aria-label": `Open ${named}, score ${hit.score.toFixed(3)}`,
    on: { click: () => open(hit) },
  });
  if (mayLook) picture(client.thumbnail(hit.id, answer.collection), "", shown);
  else shown.append(element("span", { className: "why" }, "your key shows no images"));
  const chosen = state.like.includes(hit.id) ? "like" : state.unlike.includes(hit.id) ? "unlike" : "";
  const button = (kind, sign, text) => element("button", {
    className: kind, type: "button", title: text, "aria-label": `${text}: ${named}`,
    "aria-pressed": String(chosen === kind), on: { click: () => mark(hit.id, kind) },
  }, sign);
  const facts = [record.modality, record.anatomic_region, record.view].filter(Boolean).join(" · ");
  return element("li", {
    className: `hit ${chosen}`, "data-id": hit.id,
    on: { keydown: (event) => keys(event, hit, { open, similar, mark }) },
  },
    element("div", { className: "shot" }, shown,
      element("span", { className: "score" }, hit.score.toFixed(3)),
      element("span", { className: "rank" }, String(hit.rank))),
    element("div", { className: "about" },
      element("p", { className: "label", title: (record.labels || []).join(", ") }, title(record)),
      element("p", { className: "dim", title: facts }, facts || "–"),
      element("p", { className: "dim", title: record.dataset || "" }, record.dataset || "–"),
      hit.possibly_same_patient ? element("p", { className: "same" }, "Possibly the same patient") : null,
      element("div", { className: "acts" },
        element("button", {
          className: "wide", type: "button", "aria-label": `Similar to ${named}`, on: { click: () => similar(hit.id) },
        }, "Similar"),
        button("like", "+", "More like this"), button("unlike", "−", "Less like this"))));
}

function keys(event, hit, { similar, mark }) {
  const calls = { s: () => similar(hit.id), "+": () => mark(hit.id, "like"), "-": () => mark(hit.id, "unlike") };
  const call = !event.ctrlKey && !event.metaKey && !event.altKey && calls[event.key.toLowerCase()];
  if (call) {
    event.preventDefault();
    call();
    return;
  }
  const cards = [...event.currentTarget.parentElement.children];
  const columns = cards.filter((other) => other.offsetTop === cards[0].offsetTop).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const next = cards[cards.indexOf(event.currentTarget) + steps[event.key]];
  if (next) {
    event.preventDefault();
    next.querySelector(".open").focus();
  }
}
