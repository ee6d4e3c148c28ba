"use strict";
for (const address of document.querySelectorAll("[data-url]")) {
  address.textContent = new URL(address.dataset.url, location.href).href; // as the browser sees it, behind any proxy
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = document.getElementById(button.dataset.copy);
    let copied = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
const field = document.getElementById("q");
const table = document.getElementById("projects");
if (field && table && !new URLSearchParams(location.search).get("q")) {
  const rows = Array.from(table.tBodies[0].rows, (row) => [row, row.cells[0].firstChild.textContent]);
  const count = document.getElementById("count");
  const all = count.textContent;
  const nothing = document.getElementById("nothing");
  const filter = () => {
    const wanted = field.value.trim().toLowerCase().replace(/[-_.]+/g, "-");
    let shown = 0;
    for (const [row, name] of rows) {
      const fits = name.includes(wanted);
      if (row.hidden === fits) row.hidden = !fits;
      shown += fits;
    }
    count.textContent = wanted ? `${shown} of ${all}` : all;
    nothing.hidden = shown > 0;
    table.hidden = shown === 0;
  };
  let waiting;
  field.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 80); });
  field.form.addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  if (field.value) filter();
}
