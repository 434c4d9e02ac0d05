// The page of the inspector. Everything shown comes from clients and processors: it is put into text nodes, never into HTML.

const MOST = 10000;
const ROW = 44;
const PHASES = ['request headers', 'request body', 'request trailers', 'response headers', 'response body', 'response trailers'];
const SVG = 'http://www.w3.org/2000/svg';

const $ = (id) => document.getElementById(id);

/** Makes an element with attributes and children; children that are no nodes become text. */
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(key, visible(String(value)));
  }
  const lines = node.localName === 'pre';
  node.append(...children.filter((child) => child !== null && child !== undefined)
    .map((child) => (child instanceof Node ? child : visible(String(child), lines))));
  return node;
}

/** A text whose characters all have a shape: marks of direction, controls and, outside of a `pre`, line breaks are written out. */
function visible(words, lines = false) {
  return words.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) =>
    (lines && c === '\n' ? c : { '\n': '\\n', '\r': '\\r', '\t': '\\t' }[c] ?? `\\u{${c.codePointAt(0).toString(16)}}`));
}

const ms = (us) => (us / 1000).toFixed(us < 10000 ? 2 : 1);

/** Base64 as text, with bytes that are no UTF-8 shown as replacement characters. */
function text(base64) {
  try {
    return new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));
  } catch {
    return base64;
  }
}

// === the list ===

const all = new Map();
let shown = [];
let current = null;
let paused = false;
let held = 0;
let drawing = false;

const list = $('list');
const pane = el('div', { class: 'window' });

const STATES = ['not_sent', 'waiting', 'unchanged', 'changed', 'refused', 'answered', 'timed_out', 'failed', 'failed_open'];
$('legend').append(...STATES.flatMap((state) => [el('span', { class: `box ${state}` }), ` ${state.replace('_', ' ')} `]));

function matches(x) {
  if ($('problems').checked && !x.problem) return false;
  const place = `${x.method} ${x.authority}${x.path} ${x.route}`.toLowerCase();
  return $('filter').value.toLowerCase().split(/\s+/).every((word) =>
    !word || word === `#${x.id}` || place.includes(word) || String(x.status) === word
      || x.processors.some((p) => p.filter.toLowerCase().includes(word) || p.flags.some((flag) => flag.includes(word))));
}

function select() {
  shown = [...all.values()].filter(matches).sort((a, b) => b.id - a.id);
  const query = new URLSearchParams();
  if ($('filter').value) query.set('filter', $('filter').value);
  if ($('problems').checked) query.set('problems', '1');
  const address = (query.size ? '?' + query : location.pathname) + location.hash;
  history.replaceState(null, '', address);
  table();
  draw();
}

/** Draws what can be seen, once a frame. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    pane.style.height = `${shown.length * ROW}px`;
    const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
    const rows = shown.slice(from, from + Math.ceil(list.clientHeight / ROW) + 10);
    // A row that has the focus keeps it.
    const focused = document.activeElement?.dataset.id;
    pane.replaceChildren(...rows.map((x, i) => row(x, (from + i) * ROW)));
    if (focused) pane.querySelector(`[data-id="${focused}"]`)?.focus({ preventScroll: true });
  });
}

function strip(p) {
  return el('span', { class: 'strip', title: p.filter }, ...p.phases.map((state, i) =>
    el('span', { class: `box ${state}`, title: `${p.filter}: ${PHASES[i]}: ${state.replace('_', ' ')}` })));
}

/** The part of the time in which a processor was waited for. */
function share(wait, total) {
  const part = Math.min(1, total ? wait / total : 0);
  const bar = el('span', { class: 'bar', title: `waited ${ms(wait)} of ${ms(total)} ms for processors` }, el('span'));
  bar.firstChild.style.width = `${Math.round(part * 100)}%`;
  return bar;
}

function row(x, top) {
  const wait = x.processors.reduce((sum, p) => sum + p.wait_us, 0);
  const flags = [...new Set(x.processors.flatMap((p) => p.flags))];
  const sent = x.processors.reduce((sum, p) => sum + p.sent, 0);
  const received = x.processors.reduce((sum, p) => sum + p.received, 0);
  const node = el('a', {
    class: x.problem ? 'row problem' : 'row', href: `#${x.id}`, 'data-id': x.id,
    'aria-current': String(x.id === current),
  },
  el('span', {}, new Date(x.time).toLocaleTimeString([], { hour12: false })),
  el('span', {}, x.method),
  el('span', { title: x.authority + x.path }, x.authority + x.path),
  el('span', { class: `status s${String(x.status ?? '').slice(0, 1)}` }, x.status ?? (x.done ? '–' : '…')),
  el('span', {}, `#${x.id}`),
  el('span', { title: `messages: ${sent} sent, ${received} received` }, `${received}/${sent}`),
  el('span', { class: 'flags' }, ...x.processors.map(strip), share(wait, x.total_us), ` ${ms(wait)} of ${ms(x.total_us)} ms`,
    flags.length ? ` · ${flags.join(', ')}` : '',
    x.request_bytes || x.response_bytes ? ` · ${x.request_bytes} B in, ${x.response_bytes} B out` : ''));
  node.style.top = `${top}px`;
  return node;
}

function take(x) {
  all.set(x.id, x);
  // The oldest go: a page that is open for a day takes no more than this.
  while (all.size > MOST) all.delete(all.keys().next().value);
}

// === the live table ===

function table() {
  const groups = new Map();
  for (const x of all.values()) {
    for (const p of x.processors) {
      if (!groups.has(p.filter)) groups.set(p.filter, { count: 0, phases: PHASES.map(() => []), failures: new Map() });
      const group = groups.get(p.filter);
      group.count += 1;
      for (const [phase, us] of p.latencies_us) group.phases[phase].push(us);
      for (const flag of p.flags.filter((flag) => flag !== 'answered' && flag !== 'mode')) group.failures.set(flag, (group.failures.get(flag) ?? 0) + 1);
    }
  }
  const rows = [];
  for (const [filter, group] of groups) {
    const failures = [...group.failures].map(([flag, n]) => `${flag} ${n}`).join(', ');
    let first = true;
    group.phases.forEach((values, i) => {
      if (!values.length) return;
      values.sort((a, b) => a - b);
      const at = (part) => ms(values[Math.min(values.length - 1, Math.floor(values.length * part))]);
      rows.push(el('tr', {}, el('td', {}, first ? filter : ''), el('td', {}, PHASES[i]), el('td', {}, first ? group.count : ''),
        el('td', {}, at(0.5)), el('td', {}, at(0.95)), el('td', {}, at(0.99)), el('td', {}, first ? failures : '')));
      first = false;
    });
    if (first) {
      rows.push(el('tr', {}, el('td', {}, filter), el('td', {}, '–'), el('td', {}, group.count), el('td'), el('td'), el('td'), el('td', {}, failures)));
    }
  }
  $('processors').replaceChildren(...rows);
  $('live').hidden = !rows.length;
}

// === one exchange ===

async function open() {
  const id = Number(location.hash.slice(1)) || null;
  const detail = $('detail');
  const other = id !== current;
  current = id;
  document.querySelector('main').classList.toggle('open', Boolean(id));
  detail.hidden = !id;
  draw();
  if (!id) return;
  const response = await fetch(`/exchanges/${id}`);
  if (id !== current) return;
  if (!response.ok) {
    detail.replaceChildren(el('p', { class: 'bad' }, await response.text()));
    return;
  }
  detail.replaceChildren(...page(await response.json()));
  if (other) detail.scrollTop = 0;
}

function page(x) {
  return [
    el('h2', {}, `${x.method} ${x.authority}${x.path}`),
    el('p', {}, `#${x.id} · ${new Date(x.time).toISOString()} · status ${x.status ?? '–'} · ${ms(x.total_us)} ms`
      + (x.route ? ` · route ${x.route}` : '') + (x.client ? ` · from ${x.client}` : '')),
    tools(x),
    ...x.processors.filter((p) => p.verdict).map((p) => el('p', { class: 'verdict' }, x.processors.length > 1 ? `${p.filter}: ${p.verdict}` : p.verdict)),
    diagram(x),
    ...x.processors.flatMap((p, i) => processor(x, p, i)),
  ].filter(Boolean);
}

function tools(x) {
  const out = el('pre', { hidden: '', tabindex: 0 });
  const told = el('output', { 'aria-live': 'polite' });
  const form = async (format, index = 0) => {
    const response = await fetch(`/exchanges/${x.id}?format=${format}&index=${index}`);
    const taken = await response.text();
    out.hidden = false;
    out.textContent = taken;
    try {
      await navigator.clipboard.writeText(taken);
      told.textContent = 'copied';
    } catch {
      // Only a secure context has a clipboard.
      getSelection().selectAllChildren(out);
      told.textContent = 'selected, to be copied';
    }
  };
  const button = (label, format, index) =>
    el('button', { type: 'button', 'data-format': format, onclick: () => form(format, index) }, label);
  const tests = x.processors.map((p, i) =>
    button(x.processors.length > 1 ? `FakeProxy test of ${p.filter}` : 'FakeProxy test', 'fake-proxy', i));
  return el('div', {}, el('div', { class: 'tools' },
    el('button', { type: 'button', onclick: () => { location.hash = ''; } }, 'Close'),
    button('curl', 'curl'), button('JSON', 'json'), button('Text', 'text'), ...tests,
    button('Scenario', 'scenario'), told), out);
}

function processor(x, p, index) {
  const config = p.config;
  const facts = [
    ['processor', config.processor],
    ['endpoint', p.endpoint ? p.endpoint + (p.reused === null ? '' : p.reused ? ', connection reused' : ', new connection') : '–'],
    ['attempts', p.attempts || '–'],
    ['side stream', p.closed ?? 'open'],
    ['processing mode', modes(config.processing_mode)],
    ['after overrides', same(config.processing_mode, p.mode) ? 'the same' : modes(p.mode)],
    ['message timeout', `${ms(config.message_timeout_us)} ms`],
    ['failure_mode_allow', String(config.failure_mode_allow)],
    ['filter', el('details', {}, el('summary', {}, 'settings'), el('pre', {}, JSON.stringify(p.settings, null, 2)))],
    ['messages', `${p.sent} sent, ${p.received} received, waited ${ms(p.wait_us)} ms`],
  ];
  return [
    el('h2', {}, p.filter, ' ', strip(p)),
    ...p.entries.filter((e) => e.kind === 'refused').slice(0, 5).map((e) => el('p', { class: 'verdict' }, e.text)),
    el('table', {}, ...facts.map(([name, value]) => el('tr', {}, el('th', { scope: 'row' }, name), el('td', {}, value)))),
    el('h3', {}, 'Events'),
    events(p, index),
    p.omitted ? el('p', {}, `and ${p.omitted} more that are not kept`) : null,
    el('h3', {}, 'Request'), difference(p.request),
    el('h3', {}, 'Response'), difference(p.response),
    replay(x, index),
  ].filter(Boolean);
}

const modes = (mode) => Object.entries(mode).map(([k, v]) => `${k}: ${v}`).join(', ');
const same = (a, b) => modes(a) === modes(b);

const KINDS = {
  request_in: 'client →', request_out: '→ upstream', response_in: '← upstream', response_out: 'client ←',
  sent: '→ processor', reply: '← processor',
};

function events(p, index) {
  return el('table', { class: 'entries' }, ...p.entries.map((e, i) => {
    const line = el('tr', { class: `k-${e.kind}`, id: index === undefined ? undefined : `e-${index}-${i}` },
      el('td', {}, `${ms(e.at_us)} ms`), el('td', {}, KINDS[e.kind] ?? e.kind),
      el('td', {}, e.text, e.latency_us ? ` (waited ${ms(e.latency_us)} ms)` : '', e.bytes ? ` · ${e.bytes} B` : ''));
    if (e.message) line.lastChild.append(message(e.message));
    return line;
  }));
}

/** A message, built when it is looked at. */
function message(json) {
  return el('details', {
    ontoggle: (event) => {
      if (!event.target.open || event.target.children.length > 1) return;
      const headers = [];
      find(json, headers);
      event.target.append(...headers.length ? [headerTable(headers)] : [], el('pre', {}, JSON.stringify(json, null, 2)));
    },
  }, el('summary', {}, 'message'));
}

function find(json, headers) {
  if (!json || typeof json !== 'object') return;
  if (typeof json.key === 'string') headers.push([json.key, text(json.raw_value ?? '')]);
  else Object.values(json).forEach((value) => find(value, headers));
}

/** Base64 as hexadecimal bytes, for a value that is no UTF-8. */
const hex = (base64) => Array.from(atob(base64), (c) => c.charCodeAt(0).toString(16).padStart(2, '0')).join(' ');

function headerTable(headers) {
  return el('table', {}, ...headers.map(([name, value]) => el('tr', {}, el('th', { scope: 'row' }, name), el('td', {}, value))));
}

function difference(passage) {
  const { before, after } = passage;
  const parts = [];
  const fields = (title, a, b) => {
    if (!a && !b) return;
    const rows = [];
    const left = a ?? [];
    const right = b ?? [];
    const has = (all, [name, value, raw]) => all.some(([n, v, r]) => n === name && v === value && r === raw);
    for (const field of left) rows.push([b && !has(right, field) ? 'removed' : '', field]);
    for (const field of right) if (!has(left, field)) rows.push([a ? 'added' : '', field]);
    if (title) parts.push(el('h3', {}, title));
    parts.push(el('table', {}, ...rows.map(([kind, [name, value, raw]]) =>
      el('tr', { class: kind }, el('td', {}, kind === 'added' ? '+' : kind === 'removed' ? '−' : ''), el('th', { scope: 'row' }, name),
        el('td', {}, value, raw ? ` (bytes ${hex(raw)})` : '')))));
  };
  fields('', before.head, after.head);
  if (!after.head && before.head) parts.push(el('p', {}, 'It did not go on.'));
  const pieces = (m) => `${m.bytes} bytes${m.pieces.length > 1 ? ` in ${m.pieces.length} pieces: ${m.pieces.slice(0, 20).join(', ')}` : ''}`;
  if (before.bytes || after.bytes) {
    parts.push(el('div', { class: 'side' },
      el('div', {}, el('h3', {}, `body before: ${pieces(before)}`), before.body ? el('pre', {}, text(before.body)) : null),
      el('div', {}, el('h3', {}, `body after: ${pieces(after)}`), after.body ? el('pre', {}, text(after.body)) : null)));
  }
  fields('trailers', before.trailers, after.trailers);
  return el('div', {}, ...parts.length ? parts : [el('p', {}, 'Not seen by this filter.')]);
}

function replay(x, index) {
  const title = el('h3', {}, 'Replay against another processor');
  if (!targets.length) {
    return el('div', {}, title, el('p', {}, 'The configuration names no processor with an address; --inspect-replay HOST:PORT names others.'));
  }
  const out = el('div', { 'aria-live': 'polite' });
  const input = el('select', { 'aria-label': 'address of a processor', title: '--inspect-replay HOST:PORT adds one' },
    ...targets.map((at) => el('option', { value: at }, at)));
  const play = async (event) => {
    event.preventDefault();
    out.replaceChildren(el('p', {}, 'playing…'));
    const query = new URLSearchParams({ processor: input.value, index });
    const response = await fetch(`/exchanges/${x.id}/replay?${query}`, { method: 'POST' });
    if (!response.ok) {
      out.replaceChildren(el('p', { class: 'bad' }, await response.text()));
      return;
    }
    const played = await response.json();
    out.replaceChildren(el('div', { class: 'side' },
      el('div', {}, el('h3', {}, `recorded: status ${x.status ?? '–'}`), events(x.processors[index])),
      el('div', {}, el('h3', {}, `replayed: status ${played.status ?? '–'}`), ...played.processors.map((p) => events(p)))));
  };
  return el('form', { onsubmit: play }, title, el('div', { class: 'tools' }, input,
    el('button', { type: 'submit' }, 'Replay')), out);
}

// === the sequence diagram ===

/** Steps of all processors with the attempts at the upstream, by time. What goes from filter to filter stays in the gateway. */
function steps(x) {
  const last = x.processors.length - 1;
  const outside = { request_in: 0, response_out: 0, request_out: last, response_in: last };
  const all = x.attempts.map((e) => ({ e: { ...e, kind: 'attempt' }, p: last }));
  x.processors.forEach((processor, p) => processor.entries.forEach((e, i) => {
    const drawn = ['sent', 'reply', 'timeout', 'failure', 'refused'].includes(e.kind) || outside[e.kind] === p;
    if (drawn) all.push({ e, p, target: `e-${p}-${i}` });
  }));
  return all.sort((a, b) => a.e.at_us - b.e.at_us).slice(0, 200);
}

/** Lanes, arrows from top to bottom. Places are to time, but no two arrows are nearer than can be read. */
function diagram(x) {
  const arrows = steps(x);
  if (!arrows.length) return null;
  const names = x.processors.length > 1 ? x.processors.map((p) => p.filter) : ['ExtProc server'];
  const lanes = ['Downstream', 'Gateway', ...names, 'Upstream'];
  const end = lanes.length - 1;
  const place = (lane) => 70 + lane * 180;
  const ways = {
    request_in: () => [0, 1], sent: (p) => [1, 2 + p], reply: (p) => [2 + p, 1], request_out: () => [1, end],
    attempt: () => [end, 1], response_in: () => [end, 1], response_out: () => [1, 0],
  };
  const total = Math.max(1, arrows.at(-1).e.at_us - arrows[0].e.at_us);
  const height = Math.min(600, Math.max(120, arrows.length * 22));
  const marks = [];
  const waiting = new Map();
  let y = 46;
  let before = arrows[0].e.at_us;
  const arrow = (kind, [from, to], at) => {
    const [a, b] = [place(from), place(to)];
    const head = b > a ? -6 : 6;
    return [svg('line', { class: kind, x1: a, y1: at, x2: b, y2: at }),
      svg('path', { class: kind, d: `M${b} ${at} l${head} -3 m${-head} 3 l${head} 3`, fill: 'none' })];
  };
  arrows.forEach(({ e, p, target }, i) => {
    const gap = e.at_us - before;
    y += i ? Math.max(22, gap / total * height) : 0;
    if (gap > 10000) marks.push(svg('text', { class: 'gap', x: place(1) + 6, y: y - 12 }, `${ms(gap)} ms`));
    before = e.at_us;
    if (e.kind === 'sent') waiting.set(p, { y, at: e.at_us });
    const wait = waiting.get(p);
    if (wait && (e.kind === 'reply' || e.kind === 'timeout')) {
      // The time that a reply may take beside the time that it took.
      const limit = x.processors[p].config.message_timeout_us;
      marks.push(svg('rect', { class: e.kind === 'timeout' ? 'late' : 'wait', x: place(2 + p) - 4, y: wait.y, width: 8, height: Math.max(2, y - wait.y) },
        svg('title', {}, `waited ${ms(e.at_us - wait.at)} of ${ms(limit)} ms`)));
      waiting.delete(p);
    }
    if (!ways[e.kind]) {
      marks.push(svg('text', { class: 'mark', x: place(1) + 6, y: y + 4 }, `✗ ${cut(e.text)}`));
      return;
    }
    const way = ways[e.kind](p);
    const label = svg('text', { x: Math.min(...way.map(place)) + 6, y: y - 4 }, `${i + 1} ${cut(e.text)}`);
    const again = e.kind === 'attempt' ? arrow('attempt', [1, end], y + 10) : [];
    marks.push(svg('a', { tabindex: 0, role: 'link', onclick: (event) => { event.preventDefault(); document.getElementById(target)?.scrollIntoView({ block: 'center' }); } },
      svg('title', {}, e.text), ...arrow(e.kind, way, y), ...again, label));
    if (again.length) y += 10;
  });
  const bottom = y + 24;
  const width = place(end) + 70;
  // Steps can be reached by keyboard, so that it is no picture.
  const drawn = svg('svg', { viewBox: `0 0 ${width} ${bottom}`, role: 'group', 'aria-label': 'sequence of messages' },
    ...lanes.map((name, i) => svg('text', { x: place(i), y: 14, 'text-anchor': 'middle' }, cut(name))),
    ...lanes.map((_, i) => svg('line', { class: 'life', x1: place(i), y1: 22, x2: place(i), y2: bottom })),
    ...marks);
  // Narrower than this its words cannot be read: it is moved sideways then.
  drawn.style.minWidth = `${Math.round(width * 0.8)}px`;
  return el('div', { class: 'diagram' }, drawn);
}

const cut = (words) => (words.length > 34 ? `${words.slice(0, 33)}…` : words);

// === following ===

let targets = [];

function status(state) {
  targets = state.replay;
  const sampling = state.one_in > 1 ? `, sampling 1/${state.one_in}` : '';
  const still = live ? '' : ' · not live: too many pages are open, or the gateway is gone';
  const skipped = state.skipped ? `, ${state.skipped} not recorded` : '';
  $('state').textContent = `${state.kept} kept, ${state.dropped} dropped${skipped}${sampling}${still}`;
}

/** Asks for the numbers, at most once a second. */
function count() {
  if (counting || document.hidden) return;
  counting = true;
  const again = new Promise((done) => { setTimeout(done, 1000); });
  const asked = fetch('/state').then((response) => response.json()).then(status, () => {});
  Promise.all([again, asked]).then(() => {
    counting = false;
    if (missed) {
      missed = false;
      count();
    }
  });
}

let counting = false;
let missed = false;

let live = true;
let newest = 0;

/** Follows changes. The browser goes on by itself after a break, but not after a refusal. */
function follow() {
  const stream = new EventSource(`/exchanges/stream?after=${newest}`);
  stream.onopen = () => { live = true; };
  stream.onerror = async () => {
    if (stream.readyState !== EventSource.CLOSED) return;
    live = false;
    setTimeout(follow, 10000);
    count();
  };
  stream.onmessage = (event) => {
    const x = JSON.parse(event.data);
    newest = Math.max(newest, x.version);
    take(x);
    held += 1;
    $('pause').textContent = paused ? `Resume (${held})` : 'Pause';
    if (!paused) later();
    if (counting) missed = true;
    else count();
    if (x.id === current && x.done) open();
  };
}

async function begin() {
  const query = new URLSearchParams(location.search);
  $('filter').value = query.get('filter') ?? '';
  $('problems').checked = query.has('problems');
  list.replaceChildren(pane);
  const state = await (await fetch('/exchanges')).json();
  state.exchanges.forEach(take);
  status(state);
  select();
  await open();
  newest = state.exchanges.reduce((most, x) => Math.max(most, x.version), 0);
  follow();
  // What is not recorded is in no event.
  setInterval(count, 5000);
  document.addEventListener('visibilitychange', count);
  document.body.dataset.ready = 'true';
}

let pending = false;

/** Selects again soon, once for all that came meanwhile. */
function later() {
  if (pending) return;
  pending = true;
  setTimeout(() => {
    pending = false;
    held = 0;
    select();
  }, 200);
}

$('filter').addEventListener('input', select);
$('problems').addEventListener('change', select);
$('pause').addEventListener('click', () => {
  paused = !paused;
  held = 0;
  $('pause').setAttribute('aria-pressed', String(paused));
  $('pause').textContent = paused ? 'Resume' : 'Pause';
  if (!paused) select();
});
list.addEventListener('scroll', draw);
addEventListener('resize', draw);
addEventListener('hashchange', open);
addEventListener('keydown', (event) => {
  if (event.target.matches('input, select, textarea') || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const inside = event.target.closest('#detail');
  if (step && !inside) {
    const at = shown.findIndex((x) => x.id === current);
    const next = shown[at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + step))];
    if (!next) return;
    event.preventDefault();
    list.scrollTop = Math.max(0, shown.indexOf(next) * ROW - list.clientHeight / 2);
    location.hash = next.id;
  } else if (event.key === 'Enter' && current && !event.target.closest('a, button, summary, #detail')) {
    // To scroll in it, and on to its buttons.
    $('detail').focus();
  } else if (event.key === 'Escape') {
    location.hash = '';
    list.focus();
  } else if (event.key === '/') {
    event.preventDefault();
    $('filter').focus();
  }
});

begin();
