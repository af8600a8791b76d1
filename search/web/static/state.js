// What is asked, in the part of the address behind "#", which browsers never send. An uploaded image isn't in it.

const FILTER = "f.";

export function empty() {
  return { collection: null, text: "", like: [], unlike: [], where: {}, sameToo: false, oneEach: false, upload: false };
}

export function read(hash = location.hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = empty();
  state.collection = given.get("collection");
  state.text = given.get("text") || "";
  state.like = ids(given.get("like"));
  state.unlike = ids(given.get("unlike"));
  state.sameToo = given.has("same");
  state.oneEach = given.has("each");
  state.upload = given.has("upload");
  for (const [name, value] of given) {
    if (name.startsWith(FILTER)) (state.where[name.slice(FILTER.length)] ||= []).push(value);
  }
  return state;
}

export function write(state) {
  const given = new URLSearchParams();
  if (state.collection) given.set("collection", state.collection);
  if (state.text) given.set("text", state.text);
  if (state.like.length) given.set("like", state.like.join(" "));
  if (state.unlike.length) given.set("unlike", state.unlike.join(" "));
  for (const [field, values] of Object.entries(state.where)) {
    for (const value of values) given.append(FILTER + field, value);
  }
  if (state.sameToo) given.set("same", "1");
  if (state.oneEach) given.set("each", "1");
  if (state.upload) given.set("upload", "1");
  return `#${given}`;
}

// The conditions of the filter language; a bar inside a value is escaped.
export function conditions(state) {
  return Object.entries(state.where)
    .filter(([, values]) => values.length)
    .map(([field, values]) => `${field}=${values.map((value) => value.replaceAll("|", "\\|")).join("|")}`);
}

const ids = (text) => (text || "").split(" ").filter((id) => /^[0-9a-f-]{36}$/.test(id));
