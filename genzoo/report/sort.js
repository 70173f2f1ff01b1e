"use strict";
// Tables of class "sortable": a click or Enter on a head sorts by its column, once more turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const key = (row, column) => Number.parseFloat(row.cells[column].dataset.sort);
  const sort = (column, descending) => {
    const known = (row) => !Number.isNaN(key(row, column));
    const rows = [...body.rows].sort(
      (a, b) => known(b) - known(a) || (known(a) ? (key(a, column) - key(b, column)) * (descending ? -1 : 1) : 0),
    );
    body.append(...rows);
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  heads.forEach((head, column) => {
    if (!head.dataset.first) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.type = "button";
    button.title = "Sort by this column";
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now ? now === "ascending" : head.dataset.first === "descending");
    });
  });
}
