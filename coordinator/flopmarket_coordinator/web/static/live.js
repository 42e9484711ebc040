// What changes while the page is open: trades, spot prices, a job of ours.
"use strict";

(() => {
  const { bare, money, pflop, iso, clock, count, element, fetched } = window.figures;
  const ROWS = { all: 12, one: 20 };
  const SPOT_MS = 10000;
  const JOB_MS = 10000;
  const pulse = document.getElementById("pulse");
  const asOf = document.getElementById("as-of");
  const mode = encodeURIComponent(document.body.dataset.mode || "exact");

  const isLive = (on) => {
    if (pulse) pulse.dataset.live = on ? "on" : "off";
  };
  const tellTime = (us) => {
    if (!asOf || !us) return;
    asOf.textContent = clock(us);
    asOf.dateTime = iso(us);
  };

  // One connection; after `end` (the board let us go, or stops) the browser is not to hurry.
  const follow = (address, handlers, opened = () => {}) => {
    const source = new EventSource(address);
    source.addEventListener("open", () => {
      isLive(true);
      opened();
    });
    source.addEventListener("error", () => isLive(false));
    for (const [name, handler] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handler(JSON.parse(event.data)));
    }
    source.addEventListener("end", () => isLive(false));
    addEventListener("pagehide", () => source.close());
  };

  // --- trades --------------------------------------------------------------------------------------

  const table = document.getElementById("trades");
  if (table) {
    const only = table.dataset.class;
    const cell = (text, classes) => element("td", text, classes);
    const row = (trade, isNew) => {
      const made = element("tr", "", isNew ? "is-new" : "");
      const time = element("time", clock(trade.time_us));
      time.dateTime = iso(trade.time_us);
      const when = cell("");
      when.append(time);
      made.append(when);
      if (!only) {
        const link = element("a");
        const kept = trade.mode === "exact" ? "" : `?mode=${encodeURIComponent(trade.mode)}`;
        link.href = `/class/${encodeURIComponent(trade.work_class)}${kept}`;
        link.append(element("code", trade.work_class));
        const what = cell("");
        what.append(link);
        made.append(what);
      }
      const name = element("bdi", trade.device_name.slice(0, 120), "name");
      const device = cell("");
      device.append(name);
      made.append(cell(pflop(trade.pflop), "number"), cell(bare(trade.unit_nano), "number strong"), device);
      return made;
    };
    follow(`/api/v1/trades?work_class=${encodeURIComponent(only)}&mode=${mode}`, {
      tape: ({ as_of_us: us, begins, trades }) => {
        tellTime(us);
        const body = table.tBodies[0];
        if (begins && trades.length) body.replaceChildren();
        for (const trade of trades) body.prepend(row(trade, !begins));
        while (body.rows.length > (only ? ROWS.one : ROWS.all)) body.lastElementChild.remove();
        if (trades.length) document.getElementById("no-trades").hidden = true;
      },
    });
  }

  // --- spot prices ---------------------------------------------------------------------------------

  const rows = new Map(
    [...document.querySelectorAll("[data-spot]")].map((made) => [made.dataset.spot, made]),
  );
  if (rows.size) {
    const put = (made, field, nano, currency) => {
      const target = made.querySelector(`[data-figure="${field}"]`);
      if (target) target.textContent = nano === null ? "–" : money(nano, currency);
    };
    const refresh = async () => {
      if (document.hidden) return;
      const found = await fetched(`/api/v1/spot.json?mode=${mode}`);
      for (const one of found.classes) {
        const made = rows.get(one.work_class);
        if (!made) continue;
        put(made, "ask", one.ask_nano, found.currency);
        put(made, "mid", one.mid_nano, found.currency);
      }
      tellTime(found.as_of_us);
    };
    setInterval(() => refresh().catch(() => isLive(false)), SPOT_MS);
  }

  // --- a job ---------------------------------------------------------------------------------------

  const job = document.getElementById("job");
  if (job && job.dataset.live === "yes") {
    const address = `/api/v1/jobs/${encodeURIComponent(job.dataset.id)}`;
    const meter = (name, value) => {
      document.getElementById(name).textContent = count(value);
      document.getElementById(`${name}-meter`).value = value;
    };
    const state = document.getElementById("job-state");
    const was = state.textContent;
    const refresh = async () => {
      const found = await fetched(`${address}.json`);
      // Segments, money and reasons are the server's to write: it does when the page is read anew.
      if (found.has_ended || found.state !== was) location.reload();
      meter("step", found.step);
      meter("verified", found.steps_verified);
      const billed = document.getElementById("billed");
      billed.textContent = money(found.billed_nano, found.currency);
      document.getElementById("billed-meter").value = found.billed_nano;
      segments(found);
    };
    const segments = (found) => {
      const body = document.getElementById("segment-rows");
      if (!body) {
        if (found.segments.length) location.reload();
        return;
      }
      body.replaceChildren(
        ...found.segments.map((one) => {
          const made = element("tr");
          const steps = element(
            "th",
            `${count(one.first_step)}–${count(one.first_step + one.steps)}`,
          );
          steps.scope = "row";
          steps.className = "nowrap";
          const tag = element("td");
          const known = /^[a-z]+$/.test(one.state) ? one.state : "";
          tag.append(element("span", one.state, `tag ${known}`));
          if (one.reason) tag.append(element("small", one.reason.slice(0, 120)));
          const device = element("td");
          device.append(element("bdi", one.device_name.slice(0, 120), "name"));
          made.append(steps, tag, device, element("td", money(one.price_nano, found.currency), "number"));
          return made;
        }),
      );
    };
    let pending = 0;
    const soon = () => {
      clearTimeout(pending);
      pending = setTimeout(() => refresh().catch(() => isLive(false)), 1000);
    };
    setInterval(() => document.hidden || soon(), JOB_MS);
    const curve = document.getElementById("curves");
    follow(`${address}/events`, {
      progress: (event) => {
        meter("step", event.step);
        curve.dispatchEvent(new CustomEvent("progress", { detail: event }));
      },
      story: (event) => {
        const line = element("li");
        const time = element("time", clock(event.time_us), "soft");
        time.dateTime = iso(event.time_us);
        line.append(time, element("span", event.kind), element("span", event.text.slice(0, 500)));
        document.getElementById("story").prepend(line);
        soon();
      },
    }, soon);
  }
})();
