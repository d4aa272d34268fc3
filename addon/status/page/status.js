// Keeps the page up to date, and has buttons that copy. Without it the page shows one moment, and is as complete.
"use strict";

const AGAIN = 10000; // ms until the next try when the proxy has refused a stream
const connection = document.getElementById("connection");

// Makes `old` what `fresh` is, and leaves alone what is the same already: focus, scrolling, selections.
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.localName === "details")) old.removeAttribute(name);
  }
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let next = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const same = child.id && named.get(child.id);
    // What has gone since is in between.
    while (same && next && next !== same && !(next.id && fresh.querySelector(`#${CSS.escape(next.id)}`))) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
    if (next && next.nodeName === child.nodeName && (next.id || "") === (child.id || "")) {
      if (next.nodeType === Node.ELEMENT_NODE) morph(next, child);
      else if (next.nodeValue !== child.nodeValue) next.nodeValue = child.nodeValue;
      next = next.nextSibling;
    } else {
      old.insertBefore(same || child, next);
      if (same) morph(same, child);
    }
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

// Only a change of it is worth telling: it is read out.
function tell(text, live) {
  if (connection.textContent !== text) connection.textContent = text;
  connection.classList.toggle("live", live);
  document.documentElement.classList.toggle("is-live", live);
}

let events = null;
let waiting = 0;

function listen() {
  clearTimeout(waiting);
  events?.close();
  events = new EventSource("/events" + location.search);
  events.onopen = () => tell("Live", true);
  events.onerror = () => {
    tell("Not connected, trying again", false);
    if (events.readyState === EventSource.CLOSED) waiting = setTimeout(listen, AGAIN);
  };
  for (const section of document.querySelectorAll("[data-live]")) {
    events.addEventListener(section.id, (event) => {
      const fresh = section.cloneNode(false);
      fresh.innerHTML = event.data;
      morphChildren(section, fresh);
    });
  }
}

// Nobody sees a hidden page: its stream is for somebody else.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(waiting);
    events?.close();
  } else {
    listen();
  }
});

async function copy(lines) {
  // Browsers have a clipboard for https and this machine only.
  if (navigator.clipboard) return navigator.clipboard.writeText(lines.textContent);
  const selection = getSelection();
  selection.selectAllChildren(lines);
  if (!document.execCommand("copy")) throw new Error("the lines are selected, and not copied");
  selection.removeAllRanges();
}

for (const lines of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-describedby", lines.getAttribute("aria-labelledby"));
  button.addEventListener("click", async () => {
    try {
      await copy(lines.firstElementChild);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected: copy it";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  lines.before(button);
}

if (!document.hidden) listen();
