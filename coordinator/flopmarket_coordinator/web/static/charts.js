// Charts: TradingView's Lightweight Charts on figures of our own. Every chart has a table beside it.
"use strict";

(() => {
  const L = window.LightweightCharts;
  const { NANO, bare, pflop, energy, iso, moment, count, fetched } = window.figures;
  const REFRESH_MS = 15000;
  const CANDLE_PIXELS = 8;
  const GRID = 240; // columns of a depth chart
  const MAX_GAPS = 4000; // candles that may be missing; more than that and the axis is compressed
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const drawn = []; // [chart, restyle]

  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const clear = "rgba(0, 0, 0, 0)";

  const frame = () => ({
    layout: {
      background: { color: clear },
      textColor: colour("soft"),
      fontFamily: getComputedStyle(document.body).fontFamily,
      fontSize: 12,
      panes: { separatorColor: colour("line") },
    },
    grid: { vertLines: { visible: false }, horzLines: { color: colour("line") } },
    crosshair: {
      mode: 0,
      vertLine: { color: colour("line-strong"), labelBackgroundColor: colour("soft") },
      horzLine: { color: colour("line-strong"), labelBackgroundColor: colour("soft") },
    },
    timeScale: {
      borderColor: colour("line"),
      timeVisible: true,
      secondsVisible: false,
      allowBoldLabels: false,
    },
  });

  // Options that no theme changes. The logo would need an inline style and markup as text, which
  // the page's policy forbids; the foot of every page has the library's notice instead.
  const fixed = {
    autoSize: true,
    layout: { attributionLogo: false, panes: { enableResize: false } },
    rightPriceScale: { borderVisible: false },
    leftPriceScale: { borderVisible: false },
    kineticScroll: { mouse: false, touch: !isCalm },
    handleScroll: { vertTouchDrag: false, mouseWheel: false },
    handleScale: { mouseWheel: false, axisPressedMouseMove: false },
  };

  const keep = (chart, restyle) => {
    drawn.push([chart, restyle]);
    chart.applyOptions(frame());
    restyle();
  };

  const restyleAll = () => {
    for (const [chart, restyle] of drawn) {
      chart.applyOptions(frame());
      restyle();
    }
  };

  const priceFormat = {
    type: "custom",
    minMove: 1 / NANO,
    formatter: (value) => bare(Math.round(value * NANO)),
  };
  const plain = { lastValueVisible: false, priceLineVisible: false };
  const show = (element) => {
    element.dataset.drawn = "yes";
  };

  // A band between two prices: the library has no such series, so this is one in its own plugin
  // interface. Where a candle is missing, the band is interrupted.
  const bandView = () => {
    let data = null;
    const draw = (target, toCoordinate) =>
      target.useBitmapCoordinateSpace((scope) => {
        if (!data || !data.visibleRange) return;
        const { context, horizontalPixelRatio: wide, verticalPixelRatio: tall } = scope;
        context.fillStyle = data.color;
        let piece = [];
        const fill = () => {
          if (piece.length > 1) {
            context.beginPath();
            for (const [x, high] of piece) context.lineTo(x, high);
            for (const [x, , low] of piece.reverse()) context.lineTo(x, low);
            context.fill();
          }
          piece = [];
        };
        for (let i = data.visibleRange.from; i < data.visibleRange.to; i += 1) {
          const bar = data.bars[i];
          if (bar.originalData.low === undefined) {
            fill();
            continue;
          }
          piece.push([
            bar.x * wide,
            toCoordinate(bar.originalData.high) * tall,
            toCoordinate(bar.originalData.low) * tall,
          ]);
        }
        fill();
      });
    return {
      renderer: () => ({ draw }),
      update: (found, options) => {
        data = { ...found, color: options.color };
      },
      priceValueBuilder: (row) => [row.low, row.high],
      isWhitespace: (row) => row.low === undefined,
      defaultOptions: () => ({ color: "" }),
    };
  };

  // --- candles ---------------------------------------------------------------------------------

  const candles = async (element) => {
    const readout = document.getElementById("readout");
    const chart = L.createChart(element, {
      ...fixed,
      handleScale: { mouseWheel: true, pinch: true, axisPressedMouseMove: true },
    });
    const band = chart.addCustomSeries(bandView(), { ...plain, priceFormat });
    const sticks = chart.addSeries(L.CandlestickSeries, { priceFormat, priceLineVisible: false });
    const volume = chart.addSeries(
      L.HistogramSeries,
      { ...plain, priceFormat: { type: "custom", minMove: 1e-6, formatter: pflop } },
      1,
    );
    chart.panes()[0].setStretchFactor(4);
    chart.panes()[1].setStretchFactor(1);
    keep(chart, () => {
      band.applyOptions({ color: colour("band") });
      sticks.applyOptions({
        upColor: colour("bid"),
        downColor: colour("ask"),
        wickUpColor: colour("bid"),
        wickDownColor: colour("ask"),
        borderVisible: false,
      });
      volume.applyOptions({ color: colour("volume") });
    });

    let byTime = new Map();
    const load = async () => {
      const found = await fetched(element.dataset.source);
      const rows = found.candles;
      byTime = new Map(rows.map((row) => [row.start_us / 1e6, row]));
      // A period without a trade keeps its place, so that the axis stays linear in time.
      const step = found.resolution_seconds;
      const first = rows[0].start_us / 1e6;
      const last = rows[rows.length - 1].start_us / 1e6;
      const times = [];
      if ((last - first) / step < rows.length + MAX_GAPS) {
        for (let time = first; time <= last; time += step) times.push(time);
      } else {
        times.push(...byTime.keys());
      }
      const series = (make) =>
        times.map((time) => (byTime.has(time) ? { time, ...make(byTime.get(time)) } : { time }));
      band.setData(
        series((c) => ({ low: c.p10_nano / NANO, high: c.p90_nano / NANO })),
      );
      sticks.setData(
        series((c) => ({
          open: c.open_nano / NANO,
          high: c.high_nano / NANO,
          low: c.low_nano / NANO,
          close: c.close_nano / NANO,
        })),
      );
      volume.setData(series((c) => ({ value: c.pflop })));
      return times.length;
    };

    const scale = chart.timeScale();
    const describe = (parameters) => {
      const row = parameters && byTime.get(parameters.time);
      if (row) {
        const joules = row.joules_measured + row.joules_declared;
        readout.textContent =
          `${moment(row.start_us)} UTC · open ${bare(row.open_nano)} · high ${bare(row.high_nano)}` +
          ` · low ${bare(row.low_nano)} · close ${bare(row.close_nano)} · p10 ${bare(row.p10_nano)}` +
          ` · p50 ${bare(row.p50_nano)} · p90 ${bare(row.p90_nano)} · ${pflop(row.pflop)} PFLOP in ` +
          `${count(row.trades)} trades${joules ? ` · ${energy(joules)}` : ""}`;
        return;
      }
      const range = scale.getVisibleRange();
      if (range) {
        readout.textContent = `${moment(range.from * 1e6)} to ${moment(range.to * 1e6)} UTC`;
      }
    };

    const all = await load();
    // The newest at a size that can be read; the others are a zoom away.
    const shown = Math.min(all, Math.max(40, Math.round(element.clientWidth / CANDLE_PIXELS)));
    scale.setVisibleLogicalRange({ from: all - shown - 0.5, to: all + 0.5 });
    scale.subscribeVisibleLogicalRangeChange(() => describe(null));
    chart.subscribeCrosshairMove(describe);
    describe(null);
    zoomButtons(scale);
    show(element);
    setInterval(() => document.hidden || load().catch(() => {}), REFRESH_MS);
  };

  const zoomButtons = (scale) => {
    const group = document.getElementById("zoom");
    if (!group) return;
    group.hidden = false;
    group.addEventListener("click", (event) => {
      const action = event.target.dataset.zoom;
      const range = scale.getVisibleLogicalRange();
      if (!action || !range) return;
      const width = range.to - range.from;
      const middle = (range.from + range.to) / 2;
      if (action === "all") {
        scale.fitContent();
        return;
      }
      const shift = { left: -width / 4, right: width / 4 }[action] || 0;
      const half = (width / 2) * ({ in: 0.6, out: 1 / 0.6 }[action] || 1);
      scale.setVisibleLogicalRange({
        from: middle + shift - Math.max(half, 2),
        to: middle + shift + Math.max(half, 2),
      });
    });
  };

  // --- depth: linear in price, cumulative from the middle outwards -------------------------------

  const depth = async (element) => {
    const chart = L.createOptionsChart(element, {
      ...fixed,
      leftPriceScale: { borderVisible: false, visible: true },
      localization: { priceFormatter: pflop, precision: 4 },
    });
    const fromZero = (original) => {
      const found = original();
      if (found) found.priceRange.minValue = 0;
      return found;
    };
    const area = {
      ...plain,
      lineWidth: 2,
      lineType: L.LineType.WithSteps,
      autoscaleInfoProvider: fromZero,
    };
    const format = { type: "custom", minMove: 1e-6, formatter: pflop };
    const bids = chart.addSeries(L.AreaSeries, {
      ...area,
      priceFormat: format,
      priceScaleId: "left",
    });
    const asks = chart.addSeries(L.AreaSeries, { ...area, priceFormat: format });
    keep(chart, () => {
      const paint = (series, name) =>
        series.applyOptions({
          lineColor: colour(name),
          topColor: colour(`${name}-fill`),
          bottomColor: colour(`${name}-fill`),
        });
      paint(bids, "bid");
      paint(asks, "ask");
    });
    const load = async () => {
      const book = await fetched(element.dataset.source);
      const best = (book.asks[0] || book.bids[0]).price_nano;
      const lowest = book.bids.length ? book.bids[book.bids.length - 1].price_nano : best;
      const highest = book.asks.length ? book.asks[book.asks.length - 1].price_nano : best;
      // One absurd price far away must not squeeze all the others into a line.
      const from = Math.max(lowest, best * 0.3) * 0.99;
      const to = Math.min(highest, best * 1.8) * 1.01;
      const digits = Math.max(2, 4 - Math.ceil(Math.log10(to / NANO)));
      chart.applyOptions({ localization: { precision: Math.min(digits, 9) } });
      const wanted = [];
      const offered = [];
      for (let column = 0; column <= GRID; column += 1) {
        const nano = from + ((to - from) * column) / GRID;
        const time = Number((nano / NANO).toFixed(12));
        const sum = (levels, field, holds) =>
          levels.filter(holds).reduce((total, level) => total + level[field], 0);
        wanted.push({ time, value: sum(book.bids, "pflop", (level) => level.price_nano >= nano) });
        offered.push({
          time,
          value: sum(book.asks, "pflop_per_hour", (level) => level.price_nano <= nano),
        });
      }
      bids.setData(wanted.map((p) => (p.value ? p : { time: p.time })));
      asks.setData(offered.map((p) => (p.value ? p : { time: p.time })));
    };
    await load();
    // Some room at both ends, or the outermost labels are cut.
    chart.timeScale().setVisibleLogicalRange({ from: -GRID / 14, to: GRID * (1 + 1 / 14) });
    show(element);
    setInterval(() => document.hidden || load().catch(() => {}), REFRESH_MS);
  };

  // --- curves of a job ---------------------------------------------------------------------------

  const HUES = ["link", "ask", "bid", "soft"];

  const curves = async (element) => {
    const chart = L.createOptionsChart(element, {
      ...fixed,
      localization: { precision: 0, priceFormatter: (value) => String(+value.toPrecision(4)) },
    });
    const lines = new Map();
    const last = new Map();
    const readout = document.getElementById("readout");
    const restyle = () => {
      [...lines.values()].forEach((line, index) => {
        line.applyOptions({ color: colour(HUES[index % HUES.length]) });
      });
    };
    keep(chart, restyle);
    const say = () => {
      readout.textContent = [...last]
        .map(([name, [step, value]]) => `${name} ${+value.toPrecision(6)} at step ${count(step)}`)
        .join(" · ");
    };
    const line = (name) => {
      if (!lines.has(name) && lines.size < HUES.length) {
        lines.set(
          name,
          chart.addSeries(L.LineSeries, {
            title: name,
            lineWidth: 2,
            priceLineVisible: false,
            priceFormat: { type: "custom", minMove: 1e-9, formatter: (v) => String(+v.toPrecision(4)) },
          }),
        );
        restyle();
      }
      return lines.get(name);
    };
    const usable = (value) => Number.isFinite(value) && Math.abs(value) < 1e12;
    const found = await fetched(element.dataset.source);
    for (const [name, points] of Object.entries(found.curves)) {
      const kept = points.filter(([, value]) => usable(value));
      if (!kept.length || !line(name)) continue;
      line(name).setData(kept.map(([time, value]) => ({ time, value })));
      last.set(name, kept[kept.length - 1]);
    }
    chart.timeScale().fitContent();
    say();
    show(element);
    element.addEventListener("progress", (event) => {
      const { step, scalars } = event.detail;
      document.getElementById("curve-sheet").hidden = false;
      for (const [name, value] of Object.entries(scalars)) {
        // Steps that a later worker computes again are drawn when the page is loaded anew.
        if (!usable(value) || (last.has(name) && last.get(name)[0] >= step) || !line(name)) continue;
        line(name).update({ time: step, value });
        last.set(name, [step, value]);
      }
      chart.timeScale().fitContent();
      say();
    });
  };

  // --- small ones --------------------------------------------------------------------------------

  const spark = (element) => {
    const points = JSON.parse(element.dataset.points);
    const chart = L.createChart(element, {
      ...fixed,
      rightPriceScale: { visible: false, scaleMargins: { top: 0.12, bottom: 0.12 } },
      timeScale: { visible: false, lockVisibleTimeRangeOnResize: true },
      handleScroll: false,
      handleScale: false,
    });
    const series = chart.addSeries(L.AreaSeries, {
      ...plain,
      lineWidth: 2,
      crosshairMarkerVisible: false,
    });
    keep(chart, () => {
      chart.applyOptions({
        grid: { horzLines: { visible: false } },
        timeScale: { visible: false },
        crosshair: { vertLine: { visible: false }, horzLine: { visible: false } },
      });
      series.applyOptions({
        lineColor: colour("link"),
        topColor: colour("band"),
        bottomColor: clear,
      });
    });
    series.setData(points.map(([time, nano]) => ({ time, value: nano / NANO })));
    chart.timeScale().fitContent();
    show(element);
  };

  const earnings = (element) => {
    const points = JSON.parse(element.dataset.points);
    const chart = L.createChart(element, fixed);
    const bars = { ...plain, priceFormat };
    const gross = chart.addSeries(L.HistogramSeries, bars);
    const net = chart.addSeries(L.HistogramSeries, bars);
    gross.setData(points.map(([time, nano]) => ({ time, value: nano / NANO })));
    keep(chart, () => {
      chart.applyOptions({ timeScale: { timeVisible: false } });
      gross.applyOptions({ color: colour("volume") });
      net.setData(
        points.map(([time, , nano]) =>
          nano === null
            ? { time }
            : { time, value: nano / NANO, color: colour(nano < 0 ? "ask" : "bid") },
        ),
      );
    });
    chart.timeScale().fitContent();
    show(element);
  };

  // -----------------------------------------------------------------------------------------------

  const kinds = { candles, depth, curves, spark, earnings };
  for (const element of document.querySelectorAll("[data-chart]")) {
    Promise.resolve(kinds[element.dataset.chart](element)).catch((error) => {
      element.dataset.drawn = "no";
      element.classList.add("empty");
      element.textContent = "The chart cannot be drawn now; the table has its figures.";
      console.warn(error.message);
    });
  }
  addEventListener("theme", restyleAll);
})();
