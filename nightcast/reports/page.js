"use strict";
(() => {
  const all = (query, root = document) => Array.from(root.querySelectorAll(query));
  const form = document.getElementById("finder");
  if (form) {
    const find = document.getElementById("find");
    const only = document.getElementById("only");
    const found = document.getElementById("found");
    const unfold = document.getElementById("unfold");
    const cards = all(".card[data-key]");
    const rows = all("#series-table tr[data-key]");
    const folded = all("details.card");
    const apply = () => {
      const part = find.value.trim().toLowerCase();
      const fits = (item, plain) =>
        item.dataset.key.includes(part) && (!only.checked || item.classList.contains(plain));
      for (const item of rows) item.hidden = !fits(item, "is-fallback");
      for (const item of cards) item.hidden = !fits(item, "is-fallback");
      const seen = cards.filter((item) => !item.hidden);
      // A choice from the list, or a search with few answers, opens what it found.
      const exact = seen.filter((item) => item.dataset.key === part);
      if (part && seen.length <= 3) for (const item of seen) if ("open" in item) item.open = true;
      for (const item of exact) if ("open" in item) item.open = true;
      found.textContent = part || only.checked ? `${seen.length} of ${cards.length} charts` : "";
    };
    find.addEventListener("input", apply);
    only.addEventListener("change", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    if (folded.length === 0) unfold.hidden = true;
    unfold.addEventListener("click", () => {
      const open = folded.some((item) => !item.hidden && !item.open);
      for (const item of folded) item.open = open;
      unfold.textContent = open ? "Fold all" : "Unfold all";
    });
    form.hidden = false;
    apply();
  }

  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest("details");
    if (!fold) return;
    fold.hidden = false;
    fold.open = true;
    target.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", reveal);
  reveal();

  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const numeric = head.classList.contains("n");
        const value = (row) => {
          const cell = row.cells[place];
          if (!numeric) return cell.textContent.trim();
          return parseFloat(cell.dataset.sort ?? cell.textContent.replace(/[^0-9.]/g, ""));
        };
        const rows = Array.from(body.rows);
        rows.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (!numeric) return (up ? 1 : -1) * x.localeCompare(y, "en", { numeric: true });
          // Rows without a number stay at the end, whichever way the others run.
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
          return up ? x - y : y - x;
        });
        body.append(...rows);
      });
    });
  }
})();
