"use strict";
// The address names all that is shown, so that Back, a reload and a link show it again:
// photo=<upload> or like=<path>; part=<upload of its part, or its garment>, box=<the part's edges in percent>;
// category, domain, group, k; is.<column>, from.<column> and to.<column> for the feed's columns.

const $ = id => document.getElementById(id);
const EDGES = ["left", "top", "right", "bottom"];
const PAGE = 24, MOST = 200, LEAST_PART = 5, ENLARGED = 320, SENT_SIDE = 1600, SENT_QUALITY = .92;
const FIRST = ["price", "sale_price", "availability", "brand", "color", "size", "gender"];
const NO_FILTER = ["title", "link", "id", "item_group_id", "gtin", "mpn", "description", "price_currency", "sale_price_currency",
  "product_type", "google_product_category"];

let info = { max_upload: 20e6, chance: null };
let asked = null;  // {photo} or {like}, and {part, box} where only a part is searched with
let wanted = PAGE;
let newest = 0;  // the number of the last thing begun: what is older says nothing any more
let sending = false;
let opened = Promise.resolve();  // until the server is ready, where it said that it is not
const chosen = new Map();  // by an upload's name the address of the photo as it was chosen
const located = new Map();  // by an upload's name the garments in it, the surest first

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const query = values => new URLSearchParams(values).toString();

// What is said, and when something goes wrong

function say(text, bad = false) {
  $("message").textContent = text;
  $("message").className = bad ? "bad" : "";
  $("again").hidden = true;
}

function busy(text) {
  say(text);
  $("refusal").hidden = true;
  $("results").setAttribute("aria-busy", "true");
  $("more").hidden = true;
  return ++newest;
}

function put(results = []) {
  $("results").replaceChildren(...results);
  $("results").removeAttribute("aria-busy");
}

/** Says beside the results what went wrong; `retry` is what "Try again" does. */
function fail(error, retry) {
  put();
  say(error.message, true);
  $("again").hidden = !error.passing;
  $("again").onclick = retry;
}

/** Goes back to the beginning, where the drop zone says what is wrong with the photo. */
function refuse(error, retry, push = true) {
  asked = null;
  sending = false;
  empty();
  $("refusal").hidden = false;
  $("refusal").firstChild.textContent = error.message;
  $("retry").hidden = !error.passing;
  $("retry").onclick = retry;
  if (push) remember();
}

function empty() {
  put();
  say("");
  document.body.dataset.state = "empty";
  document.body.classList.remove("cropping", "filtering");
  $("more").hidden = $("refusal").hidden = true;
  for (const id of ["photo", "thumb"]) $(id).removeAttribute("src");
  setBox();
}

async function ask(url, options) {
  const wrong = (text, status, later = 0) => Object.assign(new Error(text), { status, later, passing: !status || status >= 500 });
  let answer;
  try { answer = await fetch(url, options); } catch { throw wrong("The server does not answer.", 0); }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw wrong(value.error || `The server answers ${answer.status}.`, answer.status, +answer.headers.get("Retry-After"));
  return value;
}

/** Asks until the server is ready: it says after how many seconds to ask again. */
async function patiently(url, first = true) {
  try { return await ask(url); }
  catch (error) {
    if (!error.later) throw error;
    $("waiting").textContent = error.message + " This page goes on by itself.";
    const later = new Promise(done => setTimeout(done, 1000 * error.later)).then(() => patiently(url, false));
    if (first) opened = later.catch(() => {});
    return later;
  }
}

// The address, and searching

function filters() {
  const values = {};
  for (const field of document.querySelectorAll("#filters [name], #category, #domain")) {
    if (field.value && field.checkValidity()) values[field.name || field.id] = field.value;
  }
  if ($("group").value === "0") values.group = "0";
  return values;
}

function remember(replace = false) {
  const address = "?" + query({ ...asked, ...filters(), ...(wanted > PAGE ? { k: wanted } : {}) });
  if (address === (location.search || "?")) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
}

/** The chosen columns as the API's condition. */
function where() {
  const column = name => `"${name}"`, text = value => `'${value.replaceAll("'", "''")}'`;
  return Object.entries(filters()).flatMap(([name, value]) => {
    const [, kind, of] = name.match(/^(is|from|to)\.(.*)$/s) || [];
    if (!kind) return [];
    if (kind !== "is") return [`${column(of)} ${kind === "from" ? ">=" : "<="} ${Number(value)}`];
    return [`${column(of)} = ${info.columns[of].kinds.includes("boolean") ? value : text(value)}`];
  }).join(" and ");
}

/** What is searched with, as the API calls it. */
const subject = () => asked.like && !asked.part ? { like: asked.like } : { photo: asked.part || asked.photo };

function question() {
  const values = { k: wanted, ...subject() };
  const { category, domain, group } = filters();
  for (const [name, value] of Object.entries({ category, domain, group, where: where() })) if (value) values[name] = value;
  return query(values);
}

async function search({ push = true, more = false } = {}) {
  if (!asked) return;
  if (!more && push) wanted = PAGE;
  if (push) remember(more);
  $("clear").hidden = !Object.keys(filters()).length;
  const turn = busy("Searching …");
  try {
    const { results } = await ask("api/search?" + question());
    if (turn === newest) show(results, more);
  } catch (error) {
    if (turn !== newest) return;
    if (error.status === 404) refuse(error, null, push);
    else fail(error, () => search({ push: false }));
  }
}

// Results

function productLink(hit) {
  try {
    const url = new URL(hit.metadata.link);
    return ["http:", "https:"].includes(url.protocol) ? url.href : "";
  } catch { return ""; }
}

function amount(value, currency) {
  try { return value.toLocaleString("en", { style: "currency", currency, currencyDisplay: "narrowSymbol" }); }
  catch { return `${value.toLocaleString("en")} ${currency || ""}`.trim(); }
}

function price({ price, price_currency, sale_price, sale_price_currency }) {
  const line = element("span", "price");
  if (typeof price !== "number") return line;
  const now = typeof sale_price === "number" && sale_price < price;
  if (now) line.append(amount(sale_price, sale_price_currency || price_currency), " ", element("s", "", amount(price, price_currency)));
  else line.append(amount(price, price_currency));
  return line;
}

function card(hit) {
  const entry = element("li", "card"), link = productLink(hit), data = hit.metadata;
  const title = String(data.title || (hit.item || hit.path).split("/").pop());
  const product = element(link ? "a" : "div", "product"), picture = element("img");
  picture.src = "image?" + query({ path: hit.path });
  picture.alt = "";
  picture.loading = "lazy";
  const name = element("span", "title", title);
  name.title = hit.path;
  const similarity = `Similarity ${hit.score.toFixed(2)}`, known = hit.confidence !== undefined;
  const score = element("span", "score", known ? `${Math.round(100 * hit.confidence)} % sure` : similarity);
  if (known) score.title = similarity;
  product.append(picture, name, price(data), score);
  if (link) Object.assign(product, { href: link, target: "_blank", rel: "noopener" });
  const facts = element("p", "facts"), stock = String(data.availability || "");
  if (stock) facts.append(element("span", stock === "in stock" ? "stock in" : "stock", stock));
  facts.title = hit.category;
  for (const fact of [hit.category, data.brand]) if (fact) facts.append(facts.childNodes.length ? " · " : "", String(fact));
  const foot = element("div", "foot"), alike = element("button", "like", "More like this");
  alike.append(element("span", "unseen", ": " + title));
  alike.onclick = () => like(hit.path);
  const why = element("button", "why", "Why?");
  why.append(element("span", "unseen", " " + title));
  why.onclick = () => explain(hit.path, title);
  foot.append(alike, why);
  entry.append(product, facts, foot);
  entry.path = hit.path;
  return entry;
}

function show(results, more) {
  const before = $("results").querySelectorAll(".card").length;
  const unlike = info.chance === null ? -1 : results.findIndex(hit => hit.score < info.chance);
  const entries = results.map(card);
  if (unlike >= 0) {
    const lead = unlike ? "Less alike from here on" : "Nothing here is much alike";
    entries.splice(unlike, 0, element("li", "cue", `${lead}: one in a hundred pairs of different items is at least as similar.`));
  }
  put(entries);
  const what = $("group").value === "1" ? ["item", "items"] : ["image", "images"];
  // By its name: the buttons may not be there yet.
  const number = asked?.part?.split(".")[1], one = number ? ` for garment ${number}` : "";
  say(results.length ? `${results.length} ${what[+(results.length > 1)]}${one}, the most alike first.` : "Nothing was found. Is the filter too narrow?");
  $("more").hidden = results.length < wanted || wanted >= MOST;
  if (more) $("results").querySelectorAll(".card")[before]?.querySelector("a, button").focus();
}

function like(path) {
  asked = { like: path };
  display();
  // Its button is about to go: where the results are told is where they begin.
  $("message").focus({ preventScroll: true });
  search();
  window.scrollTo({ top: 0 });
}

// Why it was found

const ROWS = ["top", "middle", "bottom"], COLUMNS = ["left", "centre", "right"];

/** Where a map is strongest, in words. */
function strongest(map) {
  const values = map.flat(), place = values.indexOf(Math.max(...values)), across = map[0].length;
  const third = (number, count) => Math.floor(3 * (number + .5) / count);
  const words = ROWS[third(Math.floor(place / across), map.length)] + " " + COLUMNS[third(place % across, across)];
  return words === "middle centre" ? "centre" : words;
}

let explaining = 0;  // the number of the last question

async function explain(path, title) {
  const turn = ++explaining;
  $("asking").textContent = "Why " + title + "?";
  $("reason").textContent = "Looking at both photos …";
  $("sides").hidden = true;
  $("why").showModal();
  try {
    const answer = await ask("api/explain?" + query({ ...subject(), path }));
    if (turn !== explaining) return;
    const { query: own, match: other } = answer;
    for (const [id, { picture, map }, what] of [["own", own, "What is searched with"], ["other", other, "What was found"]]) {
      $(id).src = picture;
      $(id).alt = `${what}; the ${strongest(map)} counts most`;
    }
    const counts = `The ${strongest(own.map)} of the one and the ${strongest(other.map)} of the other count most.`;
    $("reason").textContent = `Similarity ${answer.score.toFixed(2)}. ${counts}` + (answer.exact ? "" : " An estimate: this model mixes the places of a photo.");
    $("sides").hidden = false;
  } catch (error) {
    if (turn === explaining) $("reason").textContent = error.message;
  }
}
$("close").onclick = () => $("why").close();
// Beside it.
$("why").onclick = event => { if (event.target === $("why")) $("why").close(); };
$("why").onclose = () => { explaining++; };

// The photo

/** Shows what is searched with. */
function display(source = "") {
  const { photo, like } = asked || {};
  source ||= chosen.get(photo) || "image?" + query(photo ? { photo } : { path: like });
  for (const id of ["photo", "thumb"]) if ($(id).getAttribute("src") !== source) $(id).src = source;
  setBox(asked?.box);
  $("lasting").textContent = photo || asked?.part ? "Links to a photo of your own work until this server restarts." : "";
  document.body.dataset.state = "asked";
}

// A small photo is enlarged, so that garments in it can be told apart and pressed.
$("photo").onload = () => {
  const { naturalWidth, naturalHeight, style } = $("photo"), room = Math.min(ENLARGED, innerHeight / 2);
  const scale = room / Math.max(naturalWidth, naturalHeight);
  style.width = scale > 1 ? naturalWidth * scale + "px" : "";
};

function loaded(source) {
  const image = new Image();
  return new Promise(done => {
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = source;
  });
}

/** A part of a picture as a JPEG, its longest side shrunk to what is sent. */
function pixels(picture, [left, top, right, bottom] = [0, 0, 100, 100]) {
  const wide = picture.naturalWidth / 100, high = picture.naturalHeight / 100;
  const width = (right - left) * wide, height = (bottom - top) * high;
  const scale = Math.min(1, SENT_SIDE / Math.max(width, height)), canvas = element("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, left * wide, top * high, width, height, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, "image/jpeg", SENT_QUALITY));
}

async function contents(file, picture) {
  const plain = /^image\/(jpeg|png|gif|bmp)$/.test(file.type) && file.size <= info.max_upload;
  // What this browser cannot show, the server may read.
  if (!picture || (plain && Math.max(picture.naturalWidth, picture.naturalHeight) <= SENT_SIDE)) return file;
  return pixels(picture);
}

async function choose(file) {
  if (!file) return;
  const turn = busy("Looking at the photo …"), source = URL.createObjectURL(file), picture = await loaded(source);
  if (turn !== newest) return;
  asked = null;
  sending = true;
  if (picture) display(source);
  try {
    if ($("waiting").textContent) say("The photo is searched with as soon as the index is open.");
    await opened;
    if (turn !== newest) return;
    const body = await contents(file, picture);
    if (body.size > info.max_upload) throw new Error(`The photo is larger than ${info.max_upload / 1e6} MB.`);
    const { photo, garments, whole } = await ask("api/photo?garments=1", { method: "POST", body });
    if (picture) chosen.set(photo, source);
    located.set(photo, garments);
    if (turn !== newest) return;
    asked = { photo, ...(garments.length && !whole && alone(garments[0])) };
    sending = false;
    display();
    search();
  } catch (error) {
    if (turn === newest) refuse(error, () => choose(file));
  }
}

// The part of the photo

const box = () => EDGES.map(name => +$(name).value);
const entire = edges => edges.join() === "0,0,100,100";

function setBox(edges = [0, 0, 100, 100]) {
  edges = [edges].flat().join().split(",").map(Number);
  for (const [number, name] of EDGES.entries()) $(name).value = edges[number];
  const [left, top, right, bottom] = edges;
  Object.assign($("box").style, { left: left + "%", top: top + "%", width: right - left + "%", height: bottom - top + "%" });
  $("box").hidden = entire(edges);
  $("mark").hidden = !entire(edges);
  $("whole").hidden = entire(edges) && !asked?.part;
  $("go").hidden = entire(edges) || edges.join() === asked?.box;
  outline();
}

async function cut() {
  const edges = box();
  if (!asked || edges.join() === (asked.box || "0,0,100,100")) return;
  if (entire(edges)) return whole();
  const turn = busy("Looking at the part …"), { photo, like } = asked;
  sending = true;
  try {
    const { photo: part } = await ask("api/photo", { method: "POST", body: await pixels($("photo"), edges) });
    if (turn !== newest) return;
    asked = { ...(photo ? { photo } : { like }), part, box: edges.join() };
    sending = false;
    display();
    search();
  } catch (error) {
    if (turn !== newest) return;
    sending = false;
    setBox(asked.box);
    fail(error, () => { setBox(edges); cut(); });
  }
}

function whole() {
  const { photo, like } = asked;
  asked = photo ? { photo } : { like };
  setBox();
  search();
}

// The garments in the photo

/** What is asked of a garment. */
function alone({ photo, box: [left, top, width, height] }) {
  return { part: photo, box: [left, top, left + width, top + height].map(share => within(100 * share)).join() };
}

const pressed = () => $("garments").querySelector("[aria-pressed=true]");

function garmentButton(garment, number, all) {
  const button = element("button"), { box: [left, top, width, height], category, photo } = garment;
  const style = { left, top, width, height };
  for (const side in style) button.style[side] = 100 * style[side] + "%";
  // What lies within another one can be pressed.
  button.style.zIndex = all.filter(other => other.box[2] * other.box[3] > width * height).length + 1;
  button.setAttribute("aria-label", `Garment ${number + 1} of ${all.length}${category ? ", perhaps " + category : ""}`);
  button.append(element("span", "", number + 1));
  button.value = photo;
  button.onclick = () => {
    if (!asked || asked.part === photo) return;
    asked = { photo: asked.photo, ...alone(garment) };
    sending = false;
    setBox(asked.box);
    search();
  };
  return button;
}

/** Offers the garments of the photo that is shown; the buttons stay as long as it does. */
function outline() {
  const photo = asked?.photo || "", garments = located.get(photo) || [], count = garments.length;
  const entries = [...$("garments").children];
  if (entries.map(button => button.value).join() !== garments.map(garment => garment.photo).join()) $("garments").replaceChildren(...garments.map(garmentButton));
  for (const button of $("garments").children) button.setAttribute("aria-pressed", button.value === asked.part);
  const offered = `${count} garment${count > 1 ? "s" : ""}`;
  $("cropping").textContent = count ? offered : "Crop";
  $("which").textContent = pressed()?.getAttribute("aria-label") || (count ? offered + " to choose from" : "");
}

/** Asks for the garments of a photo that a link names. */
async function recall(photo) {
  if (!photo || located.has(photo)) return;
  try {
    located.set(photo, (await ask("api/garments?" + query({ photo }))).garments);
    outline();
  } catch { /* The search says it. */ }
}

for (const [number, name] of EDGES.entries()) $(name).oninput = () => {
  const edges = box(), other = edges[(number + 2) % 4];
  edges[number] = number < 2 ? Math.min(edges[number], other - LEAST_PART) : Math.max(edges[number], other + LEAST_PART);
  setBox(edges);
};

let drag = null;  // {from, edges: the box before, moves: which edges; none of a new box}
let dragged = false;  // whether the last press was a drag, which presses no garment
const within = value => Math.round(Math.min(100, Math.max(0, value)));
const at = event => {
  const frame = $("photo").getBoundingClientRect();
  return [100 * (event.clientX - frame.left) / frame.width, 100 * (event.clientY - frame.top) / frame.height];
};

$("stage").onpointerdown = event => {
  dragged = false;
  const corner = event.target.dataset.edges, inside = event.target === $("box");
  // A finger on the photo itself scrolls the page.
  if (event.button || !asked || (!corner && !inside && event.pointerType === "touch")) return;
  const moves = corner ? corner.split(" ").map(Number) : inside ? [0, 1, 2, 3] : [];
  drag = { from: at(event), edges: box(), moves, begun: false, x: event.clientX, y: event.clientY };
  // A garment's button is not told of a press that the photo takes for itself.
  if (!event.target.closest("button")) $("stage").setPointerCapture(event.pointerId);
  event.preventDefault();
};

$("stage").onpointermove = event => {
  if (drag && !event.buttons) drag = null;
  if (!drag) return;
  // A tap is no drag.
  drag.begun ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4;
  if (!drag.begun) return;
  $("stage").setPointerCapture(event.pointerId);
  const to = at(event), { from, edges, moves } = drag;
  if (!moves.length) return setBox([0, 1].map(axis => within(Math.min(from[axis], to[axis]))).concat([0, 1].map(axis => within(Math.max(from[axis], to[axis])))));
  const moved = [...edges];
  for (const edge of moves) {
    const axis = edge % 2, least = moves.length > 2 ? -edges[axis] : -100, most = moves.length > 2 ? 100 - edges[axis + 2] : 100;
    moved[edge] = within(edges[edge] + Math.min(most, Math.max(least, to[axis] - from[axis])));
  }
  if (moved[2] - moved[0] >= LEAST_PART && moved[3] - moved[1] >= LEAST_PART) setBox(moved);
};

$("stage").onpointerup = () => {
  if (!drag) return;
  dragged = drag.begun;
  const { begun, edges } = drag, [left, top, right, bottom] = box();
  drag = null;
  if (!begun) return;
  if (right - left < LEAST_PART || bottom - top < LEAST_PART) return setBox(edges);
  cut();
};
$("stage").addEventListener("click", event => { if (dragged && event.detail) event.stopPropagation(); }, true);
$("stage").onpointercancel = () => { if (drag) setBox(drag.edges); drag = null; };

$("go").onclick = cut;
$("whole").onclick = () => { if (asked) { if (asked.part) whole(); else setBox(); $("mark").focus(); } };
$("mark").onclick = () => { if (asked) { setBox([15, 15, 85, 85]); $("go").focus(); } };

// Filters

const words = name => (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");

function choice(name, options) {
  const label = element("label", "field", words(name)), select = element("select");
  select.name = "is." + name;
  select.append(new Option("All", ""), ...options.map(([text, value]) => new Option(text, value)));
  label.append(select);
  return label;
}

function range(name, [least, most]) {
  const group = element("fieldset", "range field"), line = element("span");
  const ends = [["from", Math.floor(least)], ["to", Math.ceil(most)]].map(([end, shown]) => {
    const field = element("input");
    Object.assign(field, { type: "number", step: "any", name: `${end}.${name}`, placeholder: shown });
    field.setAttribute("aria-label", `${words(name)} ${end}`);
    return field;
  });
  line.append(ends[0], "to", ends[1]);
  group.append(element("legend", "", words(name)), line);
  return group;
}

/** The field that suits a column, if one does. */
function field([name, { kinds, range: ends, values }]) {
  if (NO_FILTER.includes(name) || kinds.length > 1) return [];
  if (kinds[0] === "boolean") return [choice(name, [["Yes", "true"], ["No", "false"]])];
  if (kinds[0] === "number") return ends[0] < ends[1] ? [range(name, ends)] : [];
  const texts = Object.keys(values || {}), photos = Object.values(values || {}).reduce((sum, count) => sum + count, 0);
  // Texts that hardly ever stand twice are names.
  const suits = texts.length > 1 && photos >= 2 * texts.length && !texts.some(text => /^https?:/.test(text));
  return suits ? [choice(name, texts.map(text => [text, text]))] : [];
}

function offer() {
  for (const name of info.categories) $("category").add(new Option(name, name));
  for (const name of info.domains) $("domain").add(new Option(name, name));
  $("domains").hidden = !info.domains.length;
  const place = ([name]) => (FIRST.indexOf(name) + FIRST.length + 1) % (FIRST.length + 1);
  const columns = Object.entries(info.columns).sort((one, other) => place(one) - place(other));
  $("columns").replaceChildren(...columns.flatMap(field));
}

function setFilters(values) {
  for (const field of document.querySelectorAll("#filters [name], #category, #domain")) field.value = values.get(field.name || field.id) || "";
  $("group").value = values.get("group") === "0" ? "0" : "1";
}

$("filters").onsubmit = event => event.preventDefault();
// A photo on its way is searched with the filters of its arrival.
$("filters").onchange = () => { if (!sending) search(); };
$("clear").onclick = () => { setFilters(new Map()); $("category").focus(); if (!sending) search(); };

// Everything else that can be pressed

for (const button of document.querySelectorAll(".pick")) button.onclick = () => $("file").click();
$("file").onchange = event => { choose(event.target.files[0]); event.target.value = ""; };
$("more").onclick = () => { wanted = Math.min(MOST, wanted + PAGE); search({ more: true }); };
$("skip").onclick = event => { event.preventDefault(); $("message").focus(); };
for (const [id, name] of [["cropping", "cropping"], ["filtering", "filtering"]]) $(id).onclick = () => {
  const open = document.body.classList.toggle(name);
  $(id).setAttribute("aria-expanded", open);
  if (id === "cropping" && open && entire(box()) && !$("garments").children.length) setBox([15, 15, 85, 85]);
};
$("share").onclick = async () => {
  try { await navigator.clipboard.writeText(location.href); say("The link is copied."); }
  catch { say("Copy the link from the address bar: " + location.href); }
};

document.addEventListener("paste", event => {
  const files = [...event.clipboardData.files];
  choose(files.find(file => file.type.startsWith("image/")));
});
for (const name of ["dragenter", "dragover"]) document.addEventListener(name, event => { event.preventDefault(); document.body.classList.add("over"); });
for (const name of ["dragleave", "drop"]) document.addEventListener(name, event => { event.preventDefault(); document.body.classList.remove("over"); });
document.addEventListener("drop", event => choose(event.dataTransfer.files[0]));

/** Shows what the address names. */
function follow() {
  $("why").close();
  const values = new URLSearchParams(location.search);
  setFilters(values);
  wanted = Math.min(MOST, Math.max(PAGE, Math.floor(values.get("k")) || PAGE));
  asked = null;
  sending = false;
  newest++;
  const name = ["photo", "like"].find(name => values.get(name));
  if (!name) return empty();
  asked = { [name]: values.get(name) };
  if (values.get("part") && /^\d+(,\d+){3}$/.test(values.get("box"))) Object.assign(asked, { part: values.get("part"), box: values.get("box") });
  display();
  recall(asked.photo);
  search({ push: false });
}
window.onpopstate = follow;

function begin() {
  patiently("api/info").finally(() => { $("waiting").textContent = ""; }).then(answer => {
    info = answer;
    $("size").textContent = `${info.images.toLocaleString("en")} images`;
    $("formats").textContent = `${info.formats.join(", ")}, up to ${info.max_upload / 1e6} MB`;
    $("samples").replaceChildren(...info.samples.map((path, number) => {
      const button = element("button"), picture = element("img");
      picture.src = "image?" + query({ path });
      picture.alt = `Search with sample ${number + 1}`;
      button.append(picture);
      button.onclick = () => like(path);
      return button;
    }));
    $("trying").hidden = !info.samples.length;
    document.body.classList.toggle("explains", info.explains);
    offer();
    // Who chose a photo before the answer came is not sent back to the beginning.
    if (!newest) follow();
  }).catch(error => refuse(error, begin, false));
}
begin();
