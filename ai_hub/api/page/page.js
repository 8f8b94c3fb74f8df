// Asks the service this page comes from, with the key that is typed in; it stays in this tab.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SIZE = { width: 960, height: 340, left: 64, right: 16, top: 16, bottom: 44 };
const HOUR = 3_600_000;
const NUMBER = /^[-–\d.,]+( %)?$/;
let assets = [];
let tenant = "";

function say(text, refused = false) {
  $("status").textContent = text;
  $("status").classList.toggle("refused", refused);
}

async function ask(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null));
  const key = $("key").value.trim();
  const response = await fetch(`../ai/${path}?${query}`, { headers: key ? { "X-API-Key": key } : {}, cache: "no-store" });
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    throw new Error([body?.message ?? `The service answered ${response.status}.`, body?.hint].filter(Boolean).join("\n"));
  }
  return body;
}

function guard(work) {
  return async (event) => {
    event.preventDefault();
    say("Reading …");
    try {
      await work();
    } catch (error) {
      $("results").hidden = true;
      say(error.message, true);
    }
  };
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

async function listAssets() {
  const named = $("tenant").value.trim();
  const [found, runs] = await Promise.all([
    ask("assets", { tenant_id: named, limit: 1000 }),
    ask("forecasts", { tenant_id: named, limit: 100 }),
  ]);
  tenant = found.tenant_id;
  assets = found.assets.filter((asset) => asset.kind !== "weather");
  const models = [...new Set(runs.forecasts.map((run) => run.metadata.model_name))].sort();
  fill($("asset"), assets.map((asset) => [asset.asset_id, `${asset.asset_id}${asset.kind ? ` (${asset.kind})` : ""}`]));
  fill($("model"), [["", "any"], ...models.map((model) => [model, model])]);
  $("choice").hidden = assets.length === 0;
  say(assets.length ? `${found.total} assets of ${found.tenant_id}.` : "The tenant has no meters.");
  if (assets.length) $("asset").focus();
}

async function show() {
  const asset = assets.find((each) => each.asset_id === $("asset").value);
  const [answer, runs] = await Promise.all([
    ask("forecasts/accuracy", {
      tenant_id: tenant, asset_id: asset.asset_id, model_name: $("model").value, days: $("days").value, lead_hours: $("lead").value,
    }),
    ask("forecasts", { tenant_id: tenant, asset_id: asset.asset_id, limit: 10 }),
  ]);
  const zone = asset.timezone;
  const unit = answer.unit ? ` (${answer.unit})` : "";
  $("title").textContent = `${answer.asset_id}${unit}`;
  $("results").hidden = false;
  drawChart(answer, zone, unit);
  drawTables(answer, runs.forecasts, zone, unit);
  const forecast = answer.hours.filter((hour) => hour.forecast !== null).length;
  say(forecast ? `${forecast} hours with a forecast.` : "No forecast of this asset is in the log yet: `ai-hub forecast run` issues one.");
  $("results").focus();
}

const time = (zone, options) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, ...options });
const number = (value) => (value === null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: 4 }));
const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(0)} %`);

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Points of one line; a gap begins a new one.
function runs(hours, of) {
  const found = [];
  let last = null;
  for (const hour of hours) {
    const values = of(hour);
    if (values.some((value) => value === null)) continue;
    if (last === null || hour.at - last > HOUR) found.push([]);
    found.at(-1).push([hour.at, ...values]);
    last = hour.at;
  }
  return found;
}

function ticks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

function drawChart(answer, zone, unit) {
  const hours = answer.hours.map((hour) => ({ ...hour, at: Date.parse(hour.timestamp) }));
  const values = hours.flatMap((hour) => [hour.actual, hour.forecast, hour.p10, hour.p90]).filter((value) => value !== null);
  $("chart").replaceChildren();
  if (!values.length) {
    $("caption").textContent = "Nothing was measured or forecast at these times.";
    return;
  }
  // of a constant meter, whose means differ by rounding alone, a part of its value
  const spread = Math.max(Math.max(...values) - Math.min(...values), 1e-6 * Math.max(...values.map(Math.abs))) || 1;
  const [low, high] = [Math.min(...values) - 0.05 * spread, Math.max(...values) + 0.05 * spread];
  const [first, last] = [hours[0].at, hours.at(-1).at + HOUR];
  const x = (at) => SIZE.left + ((at - first) / (last - first)) * (SIZE.width - SIZE.left - SIZE.right);
  const y = (value) => SIZE.top + ((high - value) / (high - low)) * (SIZE.height - SIZE.top - SIZE.bottom);
  const point = ([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`;
  const title = `Forecast and actual values of ${answer.asset_id}${unit}`;
  const svg = element("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": title });
  for (const value of ticks(low, high)) {
    svg.append(element("line", { class: "grid", x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: SIZE.left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  const day = time(zone, { weekday: "short", day: "numeric", month: "short" });
  const clock = time(zone, { hour: "numeric", hourCycle: "h23" });
  const midnights = hours.filter((hour) => clock.format(hour.at) === "00");
  const every = Math.ceil(midnights.length / 10);
  midnights.forEach((hour, index) => {
    svg.append(element("line", { class: "grid", x1: x(hour.at), x2: x(hour.at), y1: SIZE.top, y2: SIZE.height - SIZE.bottom }));
    if (index % every === 0) svg.append(element("text", { x: x(hour.at) + 4, y: SIZE.height - SIZE.bottom + 18 }, day.format(hour.at)));
  });
  for (const part of runs(hours, (hour) => [hour.p10, hour.p90])) {
    const lower = part.map(([at, low10]) => point([at, low10]));
    const upper = part.map(([at, , high90]) => point([at, high90])).reverse();
    svg.append(element("polygon", { class: "band", points: [...lower, ...upper].join(" ") }));
  }
  for (const [name, of] of [["actual", (hour) => [hour.actual]], ["forecast", (hour) => [hour.forecast]]]) {
    for (const part of runs(hours, of)) svg.append(element("polyline", { class: name, points: part.map(point).join(" ") }));
  }
  const now = Date.parse(answer.now);
  if (now > first && now < last) svg.append(element("line", { class: "now", x1: x(now), x2: x(now), y1: SIZE.top, y2: SIZE.height - SIZE.bottom }));
  $("chart").append(svg);
  $("caption").textContent = `Solid: actual values. Dashed: forecast, with the band from its 10 % to its 90 % quantile. Dotted: now. Times of ${zone}.`;
}

function table(caption, headings, rows) {
  const made = document.createElement("table");
  made.createCaption().textContent = caption;
  const head = made.createTHead().insertRow();
  headings.forEach((heading, index) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = heading;
    if (index && rows.every((row) => NUMBER.test(row[index]))) cell.className = "number";
    head.append(cell);
  });
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((text, index) => {
      const cell = index ? line.insertCell() : document.createElement("th");
      if (!index) {
        cell.scope = "row";
        line.append(cell);
      } else if (NUMBER.test(text)) cell.className = "number";
      cell.textContent = text;
    });
  }
  return made;
}

function drawTables(answer, issues, zone, unit) {
  const at = time(zone, { dateStyle: "medium", timeStyle: "short" });
  if (!answer.errors_by_lead.length) $("errors").textContent = "No forecast is of an hour that has been measured yet.";
  else $("errors").replaceChildren(
    table(
      `Live forecasts for the days (UTC) shown, as of the last refresh${unit}`,
      ["lead", "model", "hours", "MAE", "MAE / mean", "bias", "within the band"],
      answer.errors_by_lead.map((each) => [
        `${each.of} to ${Number(each.of) + 6} h`, each.model_name, String(each.hours), number(each.mae),
        share(each.mae_over_mean), number(each.bias), share(each.coverage),
      ]),
    ),
  );
  $("issues").replaceChildren(
    table(
      "Newest first",
      ["issued", "model", "version", "hours", "id"],
      issues.map((run) => [
        at.format(Date.parse(run.metadata.issued_at)), run.metadata.model_name, run.metadata.model_version ?? "–",
        String(run.horizon_hours), run.forecast_id,
      ]),
    ),
  );
  $("values").replaceChildren(
    table(
      `Times of ${zone}${unit}`,
      ["hour", "actual", "forecast", "10 %", "90 %", "issued"],
      answer.hours.map((hour) => [
        at.format(Date.parse(hour.timestamp)), number(hour.actual), number(hour.forecast), number(hour.p10), number(hour.p90),
        hour.issued_at ? at.format(Date.parse(hour.issued_at)) : "–",
      ]),
    ),
  );
}

$("access").addEventListener("submit", guard(listAssets));
$("choice").addEventListener("submit", guard(show));
$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("change", () => sessionStorage.setItem("key", $("key").value.trim()));
