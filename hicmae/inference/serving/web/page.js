// Sends one clip, and shows what comes back. All text is set as text; drawings come from this page's own server.
"use strict";
const at = (id) => document.getElementById(id);
const maxMb = Number(document.body.dataset.maxMb);
const maxSeconds = Number(document.body.dataset.maxSeconds);
let busy = false, shownUrl = null, result = null;

function show(id, visible) { at(id).hidden = !visible; }

function say(words, share) {
  show("state", true);
  at("words").textContent = words;
  at("state").classList.toggle("working", share === null);
  at("bar").style.width = share === null ? "" : `${Math.round(100 * share)}%`;
}

function fail(words) {
  show("state", false);
  at("error").textContent = words;
  show("error", true);
}

function start() {
  busy = true;
  for (const id of ["error", "result", "state"]) show(id, false);
  for (const id of ["file", "record"]) at(id).disabled = true;
}

function end() {
  busy = false;
  for (const id of ["file", "record"]) at(id).disabled = false;
  at("file").value = "";
}

function send(clip) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // unlike fetch, it tells how much of an upload is through
    request.open("POST", "/look");
    request.setRequestHeader("X-Hicmae", "1");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    let ticking = null;
    request.upload.onprogress = (event) => say(`Uploading, ${Math.round(event.loaded / 1e5) / 10} MB …`,
      event.lengthComputable ? event.loaded / event.total : null);
    request.upload.onload = () => {
      const begun = Date.now();
      say("Looking at the clip …", null);
      ticking = setInterval(() => {
        const seconds = Math.round((Date.now() - begun) / 1000);
        at("words").textContent = `Looking at the clip, or waiting for its turn: ${seconds} s`;
      }, 1000);
    };
    request.onloadend = () => {
      clearInterval(ticking);
      let answer = null;
      try { answer = JSON.parse(request.responseText); } catch { /* told below */ }
      if (request.status === 200 && answer) resolve(answer);
      else if (answer && answer.error) reject(new Error(answer.error));
      else reject(new Error(request.status
        ? "Something went wrong on the machine this page comes from; its terminal says what."
        : "The machine this page comes from does not answer. Is it still running?"));
    };
    request.send(clip);
  });
}

async function look(clip) {
  if (busy) return;
  start();
  if (clip.size > maxMb * 1e6) {
    fail(`This clip is too large (${(clip.size / 1e6).toFixed(1)} MB). Up to ${maxMb} MB are taken; give a shorter or ` +
      "smaller one.");
    return end();
  }
  say("Uploading …", 0);
  try {
    draw(await send(clip), clip);
  } catch (error) {
    fail(error.message);
  }
  end();
}

// --- the result ---

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function draw(found, clip) {
  result = found;
  show("state", false);
  const count = found.people.length, more = found.left_out ? ` of ${count + found.left_out}` : "";
  at("result-title").textContent = count === 1 ? "One person" : `${count}${more} people`;
  at("remark").textContent = found.note;
  show("remark", Boolean(found.note));
  play(clip);
  at("people").replaceChildren(...found.people.map(personOf));
  const rebuilt = found.reconstruction;
  show("rebuilt", Boolean(rebuilt));
  if (rebuilt) {
    at("rebuilt-note").textContent = rebuilt.note || "";
    show("rebuilt-note", Boolean(rebuilt.note));
    show("rebuilt-figure", Boolean(rebuilt.picture));
    if (rebuilt.picture) at("rebuilt-picture").src = rebuilt.picture;
  }
  show("result", true);
  at("result").focus({preventScroll: true});
  at("result").scrollIntoView({block: "start"});
  follow();
}

function personOf(person) {
  const card = at("person").content.cloneNode(true).firstElementChild;
  const find = (query) => card.querySelector(query);
  const name = person.name.charAt(0).toUpperCase() + person.name.slice(1);
  const picture = find("img");
  if (person.look) { picture.src = person.look; picture.alt = `The face of ${person.name}, as the model saw it`; }
  else picture.remove();
  find("h3").textContent = name;
  const chances = Object.entries(person.probabilities).sort((a, b) => b[1] - a[1]);
  const values = Object.entries(person.values);
  find(".best").textContent = chances.length ? `${chances[0][0]}, ${percent(chances[0][1])}`
    : values.map(([key, value]) => `${key} ${signed(value)}`).join(", ");
  const spans = person.spans.map(([from, to]) => `${clock(from)} to ${clock(to)}`);
  find(".when").textContent = `seen ${spans.slice(0, 3).join(", ")}${spans.length > 3 ? " and later" : ""}`;
  for (const [key, value] of [...chances, ...values]) {
    const row = make("tr"), cell = make("td"), track = make("div", undefined, "track"), bar = make("div");
    row.append(Object.assign(make("th", key), {scope: "row"}), cell,
      make("td", key in person.probabilities ? percent(value) : signed(value), "number"));
    cell.append(track);
    track.append(bar);
    track.setAttribute("aria-hidden", "true");
    bar.style.width = `${100 * Math.min(1, key in person.probabilities ? value : (value + 1) / 2)}%`;
    bar.style.background = person.inks[key];
    find(".bars tbody").append(row);
  }
  find(".timeline").innerHTML = person.lane;
  const lane = find(".lane"), [from, to] = result.span;
  const go = (time) => { at("player").currentTime = Math.min(to, Math.max(from, time)); };
  lane.addEventListener("click", (event) => {
    const box = lane.getBoundingClientRect();
    go(from + (event.clientX - box.left) / box.width * (to - from));
  });
  lane.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -0.5, ArrowRight: 0.5, PageDown: -5, PageUp: 5, Home: -1e9, End: 1e9}[event.key];
    if (step === undefined) return;
    event.preventDefault();
    go(at("player").currentTime + step);
  });
  for (const [key, ink] of Object.entries(person.inks)) {
    const item = make("li"), dot = make("i");
    dot.style.background = ink;
    item.append(dot, key);
    find(".key").append(item);
  }
  const names = Object.keys(person.inks), head = make("tr");
  for (const word of ["from", "to", ...names]) head.append(Object.assign(make("th", word), {scope: "col"}));
  find(".windows thead").append(head);
  for (const window of person.windows) {
    const row = make("tr");
    row.append(make("td", clock(window.start)), make("td", clock(window.end)));
    for (const key of names) {
      const chance = (window.probabilities || {})[key];
      row.append(make("td", chance === undefined ? signed(window.values[key]) : percent(chance)));
    }
    find(".windows tbody").append(row);
  }
  return card;
}

function play(clip) {
  if (shownUrl) URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(clip);  // from this browser's own memory: the server does not have it any more
  const player = at("player");
  player.onerror = () => { show("stage", false); show("unplayable", true); };
  show("stage", true);
  show("unplayable", false);
  player.src = shownUrl;
}

function cornersAt(person, time) {
  const inside = person.spans.find(([from, to]) => from <= time && time < to);
  if (!inside) return null;
  const boxes = person.boxes;
  let i = boxes.findIndex((box) => box.time > time);
  if (i < 0) i = boxes.length;
  const before = boxes[Math.max(0, i - 1)], after = boxes[i];
  if (!before) return null;
  if (i < 1 || !after || after.time >= inside[1]) return before.corners;
  const share = (time - before.time) / (after.time - before.time);
  return before.corners.map((corner, k) => corner.map((x, axis) => x + share * (after.corners[k][axis] - x)));
}

function labelAt(person, time) {
  const here = person.windows.filter((window) => window.start <= time && time < window.end && window.probabilities);
  if (!here.length) return person.name;
  const sums = {};
  for (const window of here) {
    for (const [key, x] of Object.entries(window.probabilities)) sums[key] = (sums[key] || 0) + x / here.length;
  }
  const [key, share] = Object.entries(sums).sort((a, b) => b[1] - a[1])[0];
  return `${key} ${Math.round(100 * share)} %`;
}

function follow() {  // squares on the player and a line on the timelines, wherever it stands
  const player = at("player"), canvas = at("frame"), pen = canvas.getContext("2d");
  if (!result || at("result").hidden) return;
  const time = player.currentTime, [from, to] = result.span;
  for (const lane of document.querySelectorAll(".lane")) {
    const cursor = lane.querySelector(".cursor"), width = lane.querySelector("svg").viewBox.baseVal.width;
    const x = width * Math.min(1, Math.max(0, (time - from) / Math.max(to - from, 1e-6)));
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    lane.setAttribute("aria-valuenow", time.toFixed(2));
  }
  const box = canvas.getBoundingClientRect(), dense = window.devicePixelRatio || 1;
  if (player.videoWidth && box.width) {
    canvas.width = Math.round(box.width * dense);
    canvas.height = Math.round(box.height * dense);
    const scale = Math.min(canvas.width / player.videoWidth, canvas.height / player.videoHeight);
    const left = (canvas.width - scale * player.videoWidth) / 2, top = (canvas.height - scale * player.videoHeight) / 2;
    for (const person of result.people) {
      const corners = cornersAt(person, time);
      if (!corners) continue;
      const points = corners.map(([x, y]) => [left + scale * x, top + scale * y]);
      pen.lineWidth = 2 * dense;
      pen.strokeStyle = "#fff";
      pen.shadowColor = "#000";
      pen.shadowBlur = 3 * dense;
      pen.beginPath();
      points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.closePath();
      pen.stroke();
      pen.font = `600 ${13 * dense}px system-ui, sans-serif`;
      pen.fillStyle = "#fff";
      const number = result.people.length > 1 ? `${person.name.replace(/\D+/, "")}: ` : "";
      const words = number + labelAt(person, time), x = Math.min(...points.map((p) => p[0]));
      const y = Math.max(16 * dense, Math.min(...points.map((p) => p[1])) - 6 * dense);
      pen.fillText(words, Math.max(4, x), y);
    }
  }
  requestAnimationFrame(follow);
}

// --- giving a clip ---

at("file").addEventListener("change", () => { if (at("file").files.length) look(at("file").files[0]); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) look(event.dataTransfer.files[0]);
  });
}

let recorder = null, stream = null, pieces = [], tick = null;

at("record").addEventListener("click", async () => {
  show("error", false);
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    return fail("This browser lets a page use the camera only on the machine itself (127.0.0.1) or over https.");
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, facingMode: "user"}, audio: true})
      .catch(() => navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}}}));
  } catch (error) {
    return fail(error.name === "NotAllowedError" ? "The camera was not allowed. Nothing was recorded."
      : "No camera was found.");
  }
  at("camera").srcObject = stream;
  at("camera").play();
  show("recorder", true);
  at("recorder").scrollIntoView({block: "nearest"});
  for (const id of ["file", "record"]) at(id).disabled = true;
  const kind = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"].find((k) => MediaRecorder.isTypeSupported(k));
  pieces = [];
  recorder = new MediaRecorder(stream, kind ? {mimeType: kind, videoBitsPerSecond: 2500000} : {});
  recorder.ondataavailable = (event) => { if (event.data.size) pieces.push(event.data); };
  recorder.start(1000);
  const begun = Date.now();
  tick = setInterval(() => {
    const seconds = (Date.now() - begun) / 1000;
    at("clock").textContent = `${Math.floor(seconds)} of ${maxSeconds} s`;
    if (seconds >= maxSeconds - 1) finish(true);
  }, 250);
});

function finish(use) {
  if (!recorder) return;
  const ended = recorder;
  recorder = null;
  clearInterval(tick);
  ended.onstop = () => {
    for (const track of stream.getTracks()) track.stop();
    at("camera").srcObject = null;
    show("recorder", false);
    end();
    const clip = new Blob(pieces, {type: ended.mimeType.split(";")[0]});
    pieces = [];
    if (use) look(clip);
  };
  ended.stop();
}

at("stop").addEventListener("click", () => finish(true));
at("cancel").addEventListener("click", () => finish(false));
