"use strict";
for (const address of document.querySelectorAll("[data-url]")) {
  address.textContent = new URL(address.dataset.url, location.href).href; // as the browser sees it, behind any proxy
}
for (const host of document.querySelectorAll("[data-host]")) {
  host.textContent = location.hostname;
}
for (const field of document.querySelectorAll("[data-fragment]")) {
  if (location.hash.length > 1) {
    field.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname); // the code is not left in the address
  }
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
