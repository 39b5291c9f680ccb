/* Charts, drawn by uPlot from the tables in the page. What is picked, by pointer or arrow keys, is read out in the legend.
   Colours are those of the style sheet, resolved for the theme that is on; nothing is written into the page as a style
   attribute or as markup. */
(() => {
  "use strict";
  const drawn = new Map();
  const all = (selector, within) => [...within.querySelectorAll(selector)];

  /* ---- Colours and type --------------------------------------------------------------------------------------------------- */

  const paint = (figure) => {
    const probe = document.createElement("span");
    figure.append(probe);
    const found = {};
    for (const name of ["allowed-fill", "allowed-line", "refused-fill", "refused-bar", "refused-line", "shadow-line", "fault-line", "fault-tint", "line", "line-2", "bg", "text", "text-3"]) {
      probe.style.color = `var(--${name})`;
      found[name] = getComputedStyle(probe).color;
    }
    const size = getComputedStyle(figure).fontSize;
    found.font = `${Math.round(parseFloat(size) * 0.85)}px ${getComputedStyle(document.body).fontFamily}`;
    probe.remove();
    return found;
  };

  const faded = (colour, share) => colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${share})`);

  /* Stripes, so that refused calls do not differ by colour alone. */
  const stripes = (context, colours) => {
    const ratio = devicePixelRatio || 1;
    const tile = document.createElement("canvas");
    tile.width = Math.round(4 * ratio);
    tile.height = Math.round(8 * ratio);
    const brush = tile.getContext("2d");
    brush.fillStyle = colours["refused-fill"];
    brush.fillRect(0, 0, tile.width, tile.height);
    brush.fillStyle = colours["refused-bar"];
    brush.fillRect(0, 0, Math.round(1.75 * ratio), tile.height);
    return context.createPattern(tile, "repeat");
  };

  /* ---- Scales ------------------------------------------------------------------------------------------------------------- */

  const ticks = (most, count) => {
    if (!(most > 0)) return [0, 1];
    const rough = most / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
    return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, position) => position * step);
  };
  const plain = (number) => number.toLocaleString("en", { maximumFractionDigits: number < 1 ? 3 : 1 });
  const percent = (share) => `${plain(share * 100)} %`.replace(/^0 %$/, "0");

  const two = (number) => String(number).padStart(2, "0");
  const clock = (seconds, withDay) => {
    const moment = new Date(seconds * 1000);
    const time = `${two(moment.getUTCHours())}:${two(moment.getUTCMinutes())}`;
    return withDay && time === "00:00" ? moment.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" }) : time;
  };

  /* ---- The data: one row of the table is one bar --------------------------------------------------------------------------- */

  const readRows = (table, { step: stated, end: until }) => {
    const rows = all("tbody tr", table).map((row) => ({
      start: Number(row.dataset.t),
      values: row.dataset.v.split(" ").map(Number),
      cells: [...row.cells].map((cell) => cell.textContent),
    }));
    const step = Number(stated) || (rows.length > 1 ? rows[1].start - rows[0].start : 60);
    const end = Number(until) || rows[rows.length - 1].start + step; /* the last bar may not be over yet */
    return { rows, step, first: rows[0].start, end, middle: (start) => (start + Math.min(start + step, end)) / 2 };
  };
  /* Steps need the end of the last bar as well. */
  const column = (data, read) => [...data.rows.map(read), read(data.rows[data.rows.length - 1])];

  /* ---- What stands over the bars: events and faults ------------------------------------------------------------------------ */

  const drawFaults = (plot, data, position, colours) => {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const row of data.rows) {
      if (!(row.values[position] > 0)) continue;
      const left = plot.valToPos(row.start, "x", true);
      const width = plot.valToPos(Math.min(row.start + data.step, data.end), "x", true) - left;
      ctx.fillStyle = faded(colours["fault-line"], 0.28);
      ctx.fillRect(left, bbox.top, width, bbox.height);
      ctx.fillStyle = colours["fault-line"];
      ctx.fillRect(left, bbox.top, 1, bbox.height);
      ctx.fillRect(left + width - 1, bbox.top, 1, bbox.height);
    }
    ctx.restore();
  };

  const outline = (ctx, kind, x, y, size) => {
    ctx.beginPath();
    if (kind === "override") ctx.arc(x, y, size * 0.94, 0, 2 * Math.PI);
    else if (kind === "key") { ctx.moveTo(x, y - size * 1.05); ctx.lineTo(x + size * 1.05, y); ctx.lineTo(x, y + size * 1.05); ctx.lineTo(x - size * 1.05, y); ctx.closePath(); }
    else if (kind === "fault") { ctx.moveTo(x, y - size); ctx.lineTo(x + size, y + size * 0.85); ctx.lineTo(x - size, y + size * 0.85); ctx.closePath(); }
    else ctx.roundRect(x - size * 0.89, y - size * 0.89, size * 1.78, size * 1.78, size * 0.22);
  };

  const drawStems = (plot, events, colours, top) => {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.lineWidth = ratio;
    ctx.setLineDash([ratio, 3 * ratio]);
    for (const event of events) {
      const x = Math.round(bbox.left + event.at * bbox.width) + 0.5;
      ctx.strokeStyle = colours[event.kind === "fault" ? "fault-line" : "text-3"];
      ctx.beginPath();
      ctx.moveTo(x, top * ratio);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };

  /* Marks that would cover each other stand beside each other. */
  const drawMarks = (plot, events, colours) => {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio || 1;
    const size = 9 * ratio;
    let free = bbox.left + bbox.width + size;
    const placed = [...events].reverse().map((event) => {
      const x = Math.min(bbox.left + event.at * bbox.width, free - 2.2 * size);
      free = x;
      return { ...event, x };
    });
    ctx.save();
    ctx.lineWidth = 1.25 * ratio;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.font = `600 ${10 * ratio}px ${colours.font.replace(/^\S+\s/, "")}`;
    for (const event of placed) {
      const isFault = event.kind === "fault";
      outline(ctx, event.kind, event.x, 11 * ratio, size);
      ctx.fillStyle = colours[isFault ? "fault-tint" : "bg"];
      ctx.fill();
      ctx.strokeStyle = colours[isFault ? "fault-line" : "text-3"];
      ctx.stroke();
      ctx.fillStyle = colours.text;
      ctx.fillText(event.letter, event.x, (isFault ? 13 : 11.5) * ratio);
    }
    ctx.restore();
  };

  /* ---- One figure ---------------------------------------------------------------------------------------------------------- */

  const AXIS = 44;
  const axes = (colours, most, count, write, withTime, data) => {
    const shared = { stroke: colours["text-3"], font: colours.font, ticks: { show: false } };
    const long = data.end - data.first > 2 * 86_400;
    return [
      {
        ...shared,
        size: withTime ? 30 : 0,
        gap: 8,
        space: 64,
        show: true,
        grid: { show: true, stroke: colours.line, width: 1 },
        values: (_, splits) => splits.map((at) => (withTime ? clock(at, long) : "")),
      },
      {
        ...shared,
        size: AXIS,
        gap: 8,
        grid: { show: true, stroke: colours.line, width: 1 },
        splits: () => ticks(most, count),
        values: (_, splits) => splits.map(write),
      },
    ];
  };

  const plotOf = (box, data, options) => {
    const { colours, height, most, count, write, top, withTime, series, values, hooks } = options;
    const scaleTop = ticks(most, count).at(-1);
    return new uPlot({
      width: box.clientWidth,
      height,
      padding: [top, 1, withTime ? 0 : 4, 0],
      pxAlign: 1,
      legend: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: { x: { time: true, range: () => [data.first, data.end] }, y: { range: () => [0, scaleTop] } },
      axes: axes(colours, most, count, write, withTime, data),
      series: [{}, ...series],
      cursor: {
        x: true, y: false, points: { show: false }, drag: { x: false, y: false, setScale: false }, focus: { prox: -1 },
        bind: { dblclick: () => null },
        move: (plot, left, at) => {
          if (left < 0) return [left, at];
          const bar = Math.floor((plot.posToVal(left, "x") - data.first) / data.step);
          const held = Math.max(0, Math.min(data.rows.length - 1, bar));
          return [plot.valToPos(data.middle(data.rows[held].start), "x"), at];
        },
      },
      hooks,
    }, [column(data, (row) => row.start).map((start, at) => (at === data.rows.length ? data.end : start)), ...values], box);
  };

  const steps = () => uPlot.paths.stepped({ align: 1 });
  const area = (label, stroke, fill, width = 1.25) => ({ label, stroke, fill, width, paths: steps(), points: { show: false } });
  const dashed = (label, colours) => ({ label, stroke: colours["shadow-line"], width: 1.5, dash: [4, 3], paths: steps(), points: { show: false } });

  /* Decisions: how many, above; the share refused, below. */
  const decisions = (box, data, events, colours) => {
    const most = Math.max(...data.rows.flatMap((row) => row.values.slice(0, 2)));
    const shadow = (row) => (row.values[0] + row.values[1] ? row.values[3] / (row.values[0] + row.values[1]) : 0);
    const mostShare = Math.min(1, Math.max(...data.rows.map((row) => Math.max(row.values[2], shadow(row)))));
    const striped = (plot) => stripes(plot.ctx, colours);
    return [
      plotOf(box, data, {
        colours, height: 226, most, count: 3, write: plain, top: 28, withTime: false,
        series: [area("allowed", colours["allowed-line"], colours["allowed-fill"]), area("refused", colours["refused-line"], striped)],
        values: [column(data, (row) => row.values[0]), column(data, (row) => row.values[1])],
        hooks: {
          draw: [(plot) => { drawFaults(plot, data, 4, colours); drawStems(plot, events, colours, 20); drawMarks(plot, events, colours); }],
        },
      }),
      plotOf(box, data, {
        colours, height: 126, most: mostShare, count: 2, write: percent, top: 24, withTime: true,
        series: [area("refused", colours["refused-line"], striped), dashed("shadow", colours)],
        values: [column(data, (row) => row.values[2]), column(data, shadow)],
        hooks: {
          draw: [(plot) => {
            const ratio = devicePixelRatio || 1;
            drawFaults(plot, data, 4, colours);
            drawStems(plot, events, colours, 0);
            plot.ctx.save();
            plot.ctx.fillStyle = colours["text-3"];
            plot.ctx.font = `${parseFloat(colours.font) * ratio}px ${colours.font.replace(/^\S+\s/, "")}`;
            plot.ctx.textAlign = "left";
            plot.ctx.fillText("refused, % of decisions", plot.bbox.left, 14 * ratio);
            plot.ctx.restore();
          }],
        },
      }),
    ];
  };

  /* What-if: what was refused, and what would have been, from best to worst. */
  const whatIf = (box, data, events, colours) => {
    const most = Math.max(...data.rows.flatMap((row) => row.values));
    const striped = (plot) => stripes(plot.ctx, colours);
    return [plotOf(box, data, {
      colours, height: 190, most, count: 2, write: plain, top: 24, withTime: true,
      series: [area("refused", colours["refused-line"], striped), dashed("worst", colours), dashed("best", colours)],
      values: [column(data, (row) => row.values[0]), column(data, (row) => row.values[2]), column(data, (row) => row.values[1])],
      hooks: {
        draw: [(plot) => {
          plot.ctx.save();
          plot.ctx.fillStyle = faded(colours["shadow-line"], 0.16);
          for (const row of data.rows) {
            const left = plot.valToPos(row.start, "x", true);
            const top = plot.valToPos(row.values[2], "y", true);
            plot.ctx.fillRect(left, top, plot.valToPos(row.start + data.step, "x", true) - left, plot.valToPos(row.values[1], "y", true) - top);
          }
          plot.ctx.restore();
          drawStems(plot, events, colours, 20);
          drawMarks(plot, events, colours);
        }],
      },
    })];
  };

  const kinds = { decisions, whatif: whatIf };

  const readout = (figure, box, data, plots) => {
    const slots = all("[data-k]", figure);
    const tag = document.createElement("span");
    tag.className = "u-tag";
    plots.at(-1).root.append(tag);
    let at = data.rows.length - 1;
    const show = (index) => {
      at = Math.max(0, Math.min(data.rows.length - 1, index));
      const { cells, start } = data.rows[at];
      for (const slot of slots) slot.textContent = slot.dataset.k === "0" ? `${cells[0]} to ${cells[1]}` : cells[Number(slot.dataset.k)];
      const left = plots[0].valToPos(data.middle(start), "x");
      for (const plot of plots) plot.setCursor({ left, top: 1 }, false);
      tag.textContent = cells[0];
      const half = tag.offsetWidth / 2;
      tag.style.left = `${Math.min(AXIS + left, box.clientWidth - half)}px`;
    };
    const pick = (event) => {
      const bounds = plots[0].over.getBoundingClientRect();
      show(Math.floor((((event.clientX - bounds.left) / bounds.width) * (data.end - data.first)) / data.step));
    };
    for (const plot of plots) {
      plot.over.addEventListener("pointermove", pick);
      plot.over.addEventListener("pointerdown", pick);
      plot.over.addEventListener("mouseleave", () => show(at));
    }
    return { show, current: () => at };
  };

  const draw = (figure) => {
    const table = document.getElementById(figure.dataset.table);
    const box = figure.querySelector("[data-plots]");
    if (!table?.tBodies[0].rows.length || !globalThis.uPlot || !box.clientWidth) return null;
    const data = readRows(table, figure.dataset);
    const colours = paint(figure);
    const events = all("[data-marks] li", figure).map((item) => ({ at: Number(item.dataset.at), kind: item.dataset.kind, letter: item.dataset.letter }));
    box.replaceChildren();
    const plots = kinds[figure.dataset.chart](box, data, events, colours);
    const read = readout(figure, box, data, plots);
    return { plots, read, width: box.clientWidth };
  };

  const redraw = (figure, keep = true) => {
    const before = drawn.get(figure);
    const at = keep ? before?.read.current() : undefined;
    before?.plots.forEach((plot) => plot.destroy());
    const now = draw(figure);
    if (!now) { drawn.delete(figure); return; }
    drawn.set(figure, now);
    requestAnimationFrame(() => now.read.show(at ?? Infinity)); /* uPlot has laid itself out by then */
  };

  const sizes = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const figure = entry.target.closest("[data-chart]");
      if (figure && drawn.get(figure)?.width !== entry.target.clientWidth) redraw(figure);
    }
  });

  const drawAll = (within) => {
    for (const [figure, { plots }] of drawn) if (!figure.isConnected) { plots.forEach((plot) => plot.destroy()); drawn.delete(figure); }
    for (const figure of all("[data-chart]", within)) {
      redraw(figure, false);
      sizes.observe(figure.querySelector("[data-plots]"));
      figure.addEventListener("keydown", (event) => {
        const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
        const read = drawn.get(figure)?.read;
        if (by && read && event.target === figure) { read.show(read.current() + by); event.preventDefault(); }
      });
    }
  };

  const again = () => [...drawn.keys()].forEach((figure) => redraw(figure));
  document.addEventListener("themechange", again);
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", again);
  globalThis.consoleCharts = { draw: drawAll };
})();
