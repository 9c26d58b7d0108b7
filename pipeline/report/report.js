"use strict";
// All that the pages do: every table as CSV, and lists that are sorted and filtered. No network, nothing kept.
(() => {
  const FIGURE = /^([-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?: (\S+(?: \S+)?))?$/;
  const SPAN = /^([-+]?\d[\d,]*(?:\.\d+)?) to ([-+]?\d[\d,]*(?:\.\d+)?)$/;
  const PARTS = ["", "unit", "low", "high", "note"];

  const plain = (text) => text.replace(/\s+/g, " ").trim();
  const digits = (text) => text.replace(/,/g, "").replace(/^\+/, "");

  /** Text that a spreadsheet would take for a formula is kept text. */
  const quoted = (text) => {
    const safe = /^[=+\-@]/.test(text) && !/^-?[\d.]+(?:e[-+]?\d+)?$/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };

  /** A cell's figure, unit, both ends of its interval, and what else is said of it. */
  const partsOf = (cell) => {
    const small = cell.querySelector("small");
    const detail = small ? plain(small.textContent) : "";
    const whole = plain([...cell.childNodes].filter((node) => node !== small).map((node) => node.textContent).join(""));
    const figure = cell.tagName === "TD" && whole.match(FIGURE);
    const ends = detail.match(SPAN);
    return [
      figure ? digits(figure[1]) : whole, (figure && figure[2]) || "",
      ends ? digits(ends[1]) : "", ends ? digits(ends[2]) : "", ends ? "" : detail,
    ];
  };

  /** Rows of lists of parts; a row that spans all titles the rows below it. */
  const bodyOf = (table) => {
    const rows = [];
    let group = "";
    for (const row of table.querySelectorAll("tbody tr")) {
      if (row.hidden) continue;
      if (row.classList.contains("group")) group = plain(row.textContent);
      else rows.push([[group, "", "", "", ""], ...[...row.cells].map(partsOf)]);
    }
    return rows;
  };

  const csvOf = (table) => {
    const heads = ["group", ...[...(table.tHead?.rows[0]?.cells ?? [])].map((cell) => plain(cell.textContent))];
    const rows = bodyOf(table);
    const columns = [];
    for (let at = 0; at < Math.max(heads.length, ...rows.map((row) => row.length)); at += 1) {
      PARTS.forEach((part, which) => {
        const used = rows.some((row) => row[at]?.[which]);
        if (used || (which === 0 && at > 0)) columns.push([at, which, [heads[at] ?? "", part].filter(Boolean).join(", ")]);
      });
    }
    const lines = [columns.map(([, , title]) => quoted(title))];
    for (const row of rows) lines.push(columns.map(([at, which]) => quoted(row[at]?.[which] ?? "")));
    return `\ufeff${lines.map((line) => line.join(",")).join("\r\n")}\r\n`;
  };

  const save = (table, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csvOf(table)], {type: "text/csv;charset=utf-8"}));
    link.download = `${name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80)}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const offerCsv = (table) => {
    const caption = plain(table.caption?.textContent ?? "table");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "csv";
    button.textContent = "CSV";
    button.setAttribute("aria-label", `CSV of: ${caption}`);
    button.addEventListener("click", () => save(table, `${document.title} ${caption}`));
    (table.closest(".scroll") ?? table).after(button);
  };

  const byKey = (index, rising) => (one, other) => {
    const [a, b] = [one, other].map((row) => row.cells[index].dataset.sort ?? plain(row.cells[index].textContent));
    // What is not known stays last, whichever way.
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return rising ? order : -order;
  };

  const makeSortable = (table) => {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const rising = head.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(byKey(index, rising)));
      });
    });
  };

  const makeFilter = (field) => {
    const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
    const count = document.getElementById(field.dataset.count);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => plain(row.textContent).toLowerCase().includes(word));
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
    });
    field.closest("[hidden]").hidden = false;
  };

  document.querySelectorAll("table").forEach(offerCsv);
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll("input[data-filters]").forEach(makeFilter);
})();
