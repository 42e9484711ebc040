// Figures as the server writes them (present.py), for what arrives while the page is open.
"use strict";

window.figures = (() => {
  const NANO = 1e9;

  // Four significant digits, and at least two decimals.
  const bare = (nano) => {
    const amount = Number(nano) / NANO;
    if (amount === 0) return "0.00";
    const places = Math.min(9, Math.max(2, 3 - Math.floor(Math.log10(Math.abs(amount)))));
    return amount.toLocaleString("en-US", {
      minimumFractionDigits: places,
      maximumFractionDigits: places,
    });
  };

  const money = (nano, currency) => {
    const text = bare(nano);
    if (currency !== "USD" && currency !== "$") return `${text} ${currency}`;
    return text.startsWith("-") ? `−$${text.slice(1)}` : `$${text}`;
  };

  const three = (value) => {
    const size = Math.abs(value);
    if (size >= 100) return value.toFixed(0);
    if (size >= 10) return value.toFixed(1);
    return size >= 1 ? value.toFixed(2) : String(Number(value.toPrecision(3)));
  };

  const pflop = (value) => {
    if (value === 0) return "0";
    if (value >= 1000) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
    return value >= 0.001 ? three(value) : value.toExponential(1);
  };

  const energy = (joules) => {
    if (joules >= 3.6e5) return `${three(joules / 3.6e6)} kWh`;
    return joules >= 1000 ? `${three(joules / 1000)} kJ` : `${three(joules)} J`;
  };

  const iso = (us) => new Date(us / 1000).toISOString();
  const clock = (us) => iso(us).slice(11, 19);
  const moment = (us) => iso(us).slice(0, 16).replace("T", " ");
  const count = (value) => Number(value).toLocaleString("en-US");

  // An element with text; nothing that arrives is ever read as markup.
  const element = (tag, text = "", classes = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (classes) made.className = classes;
    return made;
  };

  const fetched = async (address) => {
    const response = await fetch(address, { headers: { accept: "application/json" } });
    if (!response.ok) throw new Error(`${response.status} for ${address}`);
    return response.json();
  };

  return { NANO, bare, money, pflop, energy, iso, clock, moment, count, element, fetched };
})();
